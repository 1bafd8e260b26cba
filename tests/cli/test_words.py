"""What the commands say to somebody who meets them for the first time, in a set-up with a copy."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from tests.faults.inside import InsideChild, InsideSite


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> InsideSite:
    """Two nights of a job with `copies: [vault]`; the index page is changed in between."""
    patch = pytest.MonkeyPatch()
    site = InsideSite.start(tmp_path_factory.mktemp("words"), patch)
    del site.sources["db"]
    site.configure(job="copies: [vault]\n")
    main = site.root / "backupctl.yaml"
    vault = "  vault: {storage: {local: {path: vault}}, password: {file: vault.key}}\n"
    main.write_text(main.read_text().replace("hosts:\n", vault + "hosts:\n", 1))
    site.run("init", "vault")
    site.run("run")
    (site.root / "input" / "www" / "index.html").write_text("<h1>changed</h1>\n")
    patch.undo()
    return site


@pytest.fixture(autouse=True)
def inside(site: InsideSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupctl.hosts.child.may_fork", lambda: False)
    monkeypatch.setattr("backupctl.scheduling.launch.FreshChild", InsideChild)
    monkeypatch.setattr("backupctl.repository.locks.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr("backupctl.config.resources.open_store", site.open_store)
    monkeypatch.chdir(site.root)


def test_a_run_says_what_went_into_each_copy(site: InsideSite) -> None:
    said = site.run("run")
    assert "; copied to vault: 1 snapshot, " in said.out


def test_find_tells_a_version_once_although_a_copy_has_it_too(site: InsideSite) -> None:
    found = site.run("find", "empty", "--json").lines[:-1]
    assert [line["repository"] for line in found] == ["main"]
    pack = next(one for one in (site.root / "vault" / "data").rglob("*") if one.is_file())
    lost = site.run("find", "--pack", pack.name, "--json").lines[:-1]
    assert {line["repository"] for line in lost} == {"vault"}


@pytest.mark.parametrize("command", [("ls", "0123abcd"), ("hold", "0123abcd", "--reason", "x"), ("dump", "0123abcd")])
def test_a_snapshot_that_no_repository_has_is_missing_in_all_of_them(
    site: InsideSite, command: tuple[str, ...]
) -> None:
    said = site.run(*command, expect=10)
    assert "'0123abcd' is no job, and no snapshot in main, vault begins so" in said.err
    assert "next: backupctl snapshots" in said.err


def test_a_snapshot_of_a_copy_is_found_while_the_primary_is_away(site: InsideSite) -> None:
    (copied, *_) = [line for line in site.run("snapshots", "--json").lines if line.get("repository") == "vault"]
    away = site.repository.rename(site.root / "away")
    try:
        listed = site.run("ls", copied["snapshot"][:8])
        lost = site.run("ls", "0123abcd", expect=14)
    finally:
        away.rename(site.repository)
    assert "/www" in listed.out
    assert "repository: no such directory" in lost.err


def test_diff_of_a_job_alone_is_told_how(site: InsideSite) -> None:
    assert "backupctl diff --job site" in site.run("diff", "site", expect=2).err


def test_a_wrong_word_for_find_is_told_by_what_was_asked(site: InsideSite) -> None:
    time = site.run("find", "x", "--until", "yesterday", expect=2).err
    assert "'yesterday' is not a time" in time
    assert "latest" not in time
    assert "64 hexadecimal digits" in site.run("find", "--sha256", "abc", expect=2).err
    assert "neither `latest`" in site.run("restore", "site", "--at", "soon", "--into", "x", expect=2).err


def test_a_wrong_budget_is_told_once_what_is_right(site: InsideSite) -> None:
    said = site.run("check", "--budget", "much", expect=2)
    assert said.err.count("write for example") == 1
    assert "5GiB or 10%" in said.err


def test_a_check_gives_the_day_of_the_configured_zone(site: InsideSite) -> None:
    main = site.root / "backupctl.yaml"
    before = main.read_text()
    zone = "Pacific/Kiritimati" if datetime.now(UTC).hour >= 10 else "Pacific/Pago_Pago"  # one where the day is another
    main.write_text(before.replace("Asia/Taipei", zone, 1))
    try:
        finished = site.run("check", "main", "--json").line("finished")
        said = site.run("check", "main")
    finally:
        main.write_text(before)
    since = datetime.fromisoformat(finished["read_or_written_since"])
    assert f"read or written since {since.astimezone(ZoneInfo(zone)):%Y-%m-%d}" in said.out


def test_a_password_that_opens_nothing_is_told_with_what_to_compare(site: InsideSite) -> None:
    key = site.root / "vault.key"
    right = key.read_text()
    key.write_text("another\n")
    try:
        said = site.run("check", "vault", expect=(5, 12))
    finally:
        key.write_text(right)
    assert "opens none of the repository's keys (1)" in said.err
    assert "recovery kit" in said.err
