"""`prune` tells what it would do, in bytes, before it does it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.inside import InsideSite

LOCAL = "{local: {path: repository}}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> InsideSite:
    """Two snapshots; the older one, which no rule keeps, needs a third of a pack that the newer one needs too."""
    patch = pytest.MonkeyPatch()
    site = InsideSite.start(tmp_path_factory.mktemp("prune"), patch)
    del site.sources["db"]
    site.configure()
    job = site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace("keep_daily: 7", "keep_last: 1"))
    passing = site.root / "input" / "www" / "passing.bin"
    passing.write_bytes(os.urandom(300_000))
    site.run("run")
    passing.unlink()
    site.run("run")
    patch.undo()
    return site


@pytest.fixture(autouse=True)
def inside(site: InsideSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupctl.repository.locks.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr("backupctl.config.resources.open_store", site.open_store)
    monkeypatch.chdir(site.root)


def configure(site: InsideSite, repository: str = "") -> None:
    path = site.root / "backupctl.yaml"
    lines = [
        f"  main: {{storage: {LOCAL}, password: {{file: repository.key}}{repository}}}"
        if line.startswith("  main:")
        else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")


def stored(site: InsideSite) -> set[Path]:
    return {one for one in site.repository.rglob("*") if one.is_file() and "locks" not in one.parts}


def test_the_plan_is_told_and_nothing_is_changed(site: InsideSite) -> None:
    before = stored(site)
    said = site.run("prune")
    assert "no rule keeps it" in said.out and "last 1 of 1" in said.out
    assert " stored, " in said.out and "to be freed" in said.out and "rewritten for it" in said.out
    assert "1 of 2 snapshots would be removed; do it with: backupctl prune --apply" in said.out
    lines = site.run("prune", "--json")
    plan = lines.line("plan")
    assert plan["free_bytes"] > 300_000 and plan["rewrite_bytes"] > 700_000 and plan["rewrite_packs"] >= 1
    assert plan["total_bytes"] == sum(path.stat().st_size for path in site.objects("data"))
    assert plan["unused_bytes"] == plan["waiting_packs"] == 0
    assert [line["action"] for line in lines.lines if line["type"] == "retention"] == ["remove", "keep"]
    assert stored(site) == before


def test_what_may_be_rewritten_is_limited_by_option_or_configuration(site: InsideSite) -> None:
    plan = site.run("prune", "--json", "--max-repack", "0").line("plan")
    assert plan["rewrite_packs"] == plan["rewrite_bytes"] == 0 and plan["waiting_packs"] >= 1
    assert plan["unused_bytes"] > 300_000
    assert "more for the next time (--max-repack)" in site.run("prune", "--max-repack", "500KiB").out
    try:
        configure(site, ", prune: {max_repack: 1KiB}, limits: {upload: 20MiB/s}")
        assert site.run("prune", "--json").line("plan")["waiting_packs"] >= 1
        assert site.run("prune", "--json", "--max-repack", "1GiB").line("plan")["waiting_packs"] == 0
        configure(site, ", prune: {max_unused: 60%}")
        plan = site.run("prune", "--json").line("plan")
        assert plan["rewrite_packs"] == 0 and plan["waiting_packs"] == 0 and plan["unused_bytes"] > 300_000
        configure(site, ", prune: {max_unused: much}")
        assert "write a percentage" in site.run("prune", expect=13).err
    finally:
        configure(site)
    assert "not a size" in site.run("prune", "--max-repack", "lots", expect=2).err


def test_damage_is_told_after_the_rules_and_nothing_goes(site: InsideSite) -> None:
    """Who looks at a damaged repository still sees which snapshots stay and why."""
    (pack, *_) = site.objects("data")
    saved = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(saved[:-5])
    try:
        before = stored(site)
        said = site.run("prune", expect=4)
        assert "no rule keeps it" in said.out
        assert pack.name[:12] in said.err and "nothing was deleted" in said.err
        assert stored(site) == before
    finally:
        pack.write_bytes(saved)


def test_an_index_that_cannot_be_read_keeps_the_snapshots_too(site: InsideSite) -> None:
    """The older one may be the last whole one."""
    (index, *_) = site.objects("index")
    saved = index.read_bytes()
    index.chmod(0o600)
    index.write_bytes(saved[:-5])
    try:
        before = stored(site)
        assert index.name in site.run("prune", "--apply", expect=4).err
        assert stored(site) == before
    finally:
        index.write_bytes(saved)


def test_done_as_planned(site: InsideSite) -> None:
    """Last, since it changes what the others look at."""
    before = sum(path.stat().st_size for path in site.objects("data"))
    planned = site.run("prune", "--json").line("plan")
    done = site.run("prune", "--apply", "--json").line("pruned")
    assert done["removed"] == 1 and done["repacked_packs"] == planned["rewrite_packs"]
    after = sum(path.stat().st_size for path in site.objects("data"))
    assert before - after == pytest.approx(planned["free_bytes"], abs=2000)
    assert done["written_bytes"] == pytest.approx(planned["rewrite_bytes"], abs=2000)
    site.run("check", "--read-data")
    said = site.run("prune")
    assert "0 of 1 snapshot would be removed" in said.out and "do it with" not in said.out
