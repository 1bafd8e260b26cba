"""Repairs through the command line: damage, what check says and advises, the plan, the repair, and everything whole again."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupctl.clock import SystemClock
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.end_to_end.site import Said
from tests.end_to_end.test_copies import with_vault
from tests.faults.faulty_store import FaultyStore
from tests.faults.inside import InsideSite, opened


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InsideSite, Callable[[], None]]]:
    """A site with a copy and two runs in both, and its reset."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        site = InsideSite.start(tmp_path_factory.mktemp("repair"), monkeypatch)
        with_vault(site)
        key = site.root / "vault.key"
        key.touch(0o600)
        key.write_text("of the vault")
        store = LocalStore(site.root / "vault", create=True)
        Repository.create(store, "of the vault", clock=SystemClock(), scrypt_n=1024)  # cheap: not what is tested here
        store.close()
        site.run("run")
        (site.root / "input" / "www" / "new.bin").write_bytes(os.urandom(20_000))
        site.run("run")
        saved = site.root / "saved"
        saved.mkdir()
        kept = ("repository", "vault", "catalog.db")
        for one in kept:
            shutil.move(site.root / one, saved / one)

        def reset() -> None:
            with_vault(site)
            for one in (*kept, "back"):
                path = site.root / one
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            shutil.copytree(saved / "repository", site.repository)
            shutil.copytree(saved / "vault", site.root / "vault")
            shutil.copy(saved / "catalog.db", site.root)
            site.stores.clear()

        yield site, reset


@pytest.fixture
def site(prepared: tuple[InsideSite, Callable[[], None]]) -> InsideSite:
    prepared[1]()
    return prepared[0]


def stored(site: InsideSite) -> dict[str, bytes]:
    """All but locks."""
    root = site.repository
    files = {str(one.relative_to(root)): one.read_bytes() for one in root.rglob("*") if one.is_file()}
    return {name: data for name, data in files.items() if not name.startswith("locks/")}


def packs(site: InsideSite, kind: str) -> list[Path]:
    """Largest first."""
    with opened(site) as repository:
        ids = {place.pack.hex() for place in repository.index if place.blob.kind == kind}
    return [one for one in site.objects("data") if one.name in ids]


def expect_whole(site: InsideSite) -> None:
    """The check finds nothing and advises nothing, the newest equals the source, and so does a drill."""
    said = site.run("check", "main", "--read-data")
    assert "next:" not in said.text
    site.run("restore", "--into", "back")
    for name in ("index.html", "deep/picture.bin", "new.bin"):
        (found,) = (site.root / "back").rglob(Path(name).name)
        assert found.read_bytes() == (site.root / "input" / "www" / name).read_bytes()
    site.run("drill", "run")


def advised(said: Said, command: str) -> bool:
    return f"next: {command}" in said.err


def planned_and_done(site: InsideSite, *command: str, code: int = 0) -> tuple[Said, Said]:
    """The plan changes nothing; then it is done, and then there is nothing left to do."""
    before = stored(site)
    plan = site.run("repair", *command, expect=code)
    assert "would be done" in plan.out
    assert advised(plan, f"backupctl repair {' '.join(command)} --apply")
    assert stored(site) == before
    done = site.run("repair", *command, "--apply", expect=code)
    return plan, done


@pytest.mark.parametrize("lost", ["one gone", "all gone", "one flipped", "all empty"])
def test_an_index_made_anew(site: InsideSite, lost: str) -> None:
    files = site.objects("index")
    assert len(files) == 2
    for file in files if "all" in lost else files[:1]:
        if "gone" in lost:
            file.unlink()
        else:
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(b"" if "empty" in lost else data)
    assert advised(site.run("check", "main", expect=4), "backupctl repair index main")
    planned_and_done(site, "index", "main")
    assert "nothing to do" in site.run("repair", "index", "main").out
    assert "nothing to do" in site.run("repair", "index", "main", "--read-all-packs").out
    expect_whole(site)


def _gone(pack: Path) -> None:
    pack.unlink()


def _cut(pack: Path) -> None:
    os.truncate(pack, pack.stat().st_size // 2)


def _flipped(pack: Path) -> None:
    data = bytearray(pack.read_bytes())
    data[40] ^= 4
    pack.write_bytes(data)


def _headless(pack: Path) -> None:
    pack.write_bytes(pack.read_bytes()[:-40] + bytes(40))


@pytest.mark.parametrize("kind", ["data", "tree"])
@pytest.mark.parametrize("harm", [_gone, _cut, _flipped, _headless])
def test_packs_from_a_copy(site: InsideSite, harm: Callable[[Path], None], kind: str) -> None:
    pack = packs(site, kind)[0]
    harm(pack)
    said = site.run("check", "main", "--read-data", expect=4)
    assert pack.name in said.text
    assert advised(said, "backupctl repair packs main")
    plan, done = planned_and_done(site, "packs", "main")
    assert pack.name in plan.err
    if harm is not _headless:
        assert "from vault" in plan.out
        assert "from vault" in done.out
    assert not pack.exists()
    assert "nothing to do" in site.run("repair", "packs", "main").out
    expect_whole(site)


def test_index_and_packs_gone_together(site: InsideSite) -> None:
    for file in [*site.objects("index"), packs(site, "tree")[0], packs(site, "data")[0]]:
        file.unlink()
    said = site.run("check", "main", expect=4)
    assert advised(said, "backupctl repair index main")
    said = site.run("repair", "index", "main", "--apply", expect=4)
    assert advised(said, "backupctl repair packs main")
    assert "lost: " in said.err
    planned_and_done(site, "packs", "main")
    expect_whole(site)


def test_from_where_one_says(site: InsideSite) -> None:
    pack = packs(site, "data")[0]
    pack.unlink()
    without_copy(site)
    said = site.run("repair", "packs", "main", expect=4)
    assert "LOST" in said.out
    assert pack.name in said.err
    name = f"data/{pack.parent.name}/{pack.name}"
    planned_and_done(site, "packs", "main", name, "--from", "vault")
    assert site.run("check", "main", "--read-data").code == 0
    assert site.run("repair", "packs", "main", "ffffff", expect=10).code == 10
    assert site.run("repair", "packs", "main", "--from", "main", expect=2).code == 2
    assert site.run("repair", "packs", "nowhere", expect=10).code == 10


def test_json(site: InsideSite) -> None:
    pack = packs(site, "data")[0]
    pack.unlink()
    said = site.run("repair", "packs", "main", "--json")
    plan = said.line("plan")
    assert plan["packs"] == [f"data/{pack.parent.name}/{pack.name}"]
    assert plan["fetch_blobs"].keys() == {"vault"}
    assert said.line("next")["message"] == "next: backupctl repair packs main --apply"
    repaired = site.run("repair", "packs", "main", "--apply", "--json").line("repaired")
    assert (repaired["lost_blobs"], repaired["stored_bytes"] > 0) == (0, True)
    assert site.run("repair", "index", "main", "--json").line("plan")["list_packs"] == 0


def without_copy(site: InsideSite) -> None:
    main = site.root / "jobs" / "site.yaml"
    main.write_text(main.read_text().replace("copies: [vault]\n", ""))


def newest(site: InsideSite) -> list[dict[str, str]]:
    lines = site.run("snapshots", "--json").lines
    return [line for line in lines if line["type"] == "snapshot" and line["repository"] == "main"]


def lose_new(site: InsideSite) -> dict[str, str]:
    """The second run's own content is gone for good; that snapshot."""
    without_copy(site)
    with opened(site) as repository:
        newer = repository.snapshots()[-1]
        with SnapshotReader(repository, newer) as reader:
            (content,) = [node.content for path, node in reader.walk() if path.endswith(b"new.bin")]
        assert content
        place = repository.index.lookup("data", content[0])[0]
    (pack,) = [one for one in site.objects("data") if one.name == place.pack.hex()]
    pack.unlink()
    return newest(site)[-1]


def test_snapshots_keep_what_is_left(site: InsideSite) -> None:
    broken = lose_new(site)
    said = site.run("repair", "packs", "main", expect=4)
    assert "new.bin" in said.err
    site.run("repair", "packs", "main", "--apply", expect=4)
    plan, done = planned_and_done(site, "snapshots", "main", code=4)
    assert "new.bin" in plan.err
    assert "what is left is in" in done.err
    listed = newest(site)
    assert [one["status"] for one in listed] == ["complete", "complete", "incomplete"]
    made = next(one for one in listed if one["status"] == "incomplete")
    assert made["snapshot_time"] == broken["snapshot_time"]
    assert "repaired: what is left of" in made["hold"]
    site.run("repair", "snapshots", "main", "--apply", expect=4)
    assert len(newest(site)) == 3, "a second repair makes no second one"

    said = site.run("repair", "snapshots", "main", "--forget", "--apply")
    assert "1 forgotten" in said.out
    assert [one["snapshot"] for one in newest(site)] == [listed[0]["snapshot"], made["snapshot"]]
    assert site.run("check", "main", "--read-data").code == 0
    assert site.run("status", "--json", expect=None).line("status")["newest"] == listed[0]["snapshot_time"]
    site.run("restore", "--at", made["snapshot"], "--into", "back", expect=None)
    assert not list((site.root / "back").rglob("new.bin"))
    (picture,) = (site.root / "back").rglob("picture.bin")
    assert picture.read_bytes() == (site.root / "input" / "www" / "deep" / "picture.bin").read_bytes()


def test_a_drill_of_what_is_left_says_what_is_lacking(site: InsideSite) -> None:
    """Also when the broken one, and what only it referred to, is long gone."""
    broken = lose_new(site)
    site.run("repair", "packs", "main", "--apply", expect=4)
    site.run("repair", "snapshots", "main", broken["snapshot"], "--forget", "--apply")
    site.run("prune", "--apply")
    made = next(one for one in newest(site) if one["status"] == "incomplete")
    site.run("drill", "run", "--snapshot", made["snapshot"], expect=4)
    drill = site.run("drill", "show", "site/full", "--json").line("drill")
    assert drill["verdict"] == "fail"
    assert any("the snapshot is incomplete" in reason for reason in drill["reasons"])
    (lost,) = [reason for reason in drill["reasons"] if "lost in the repository: " in reason]
    assert lost.endswith("www/new.bin")
    assert [check["name"] for check in drill["checks"] if not check["ok"]] == [], "what is left is as it was"
    assert drill["checks"]


def test_retention_lets_go_of_it_only_when_it_is_released(site: InsideSite) -> None:
    broken = lose_new(site)
    site.run("repair", "snapshots", "main", "--forget", "--apply")
    site.run("run")
    site.run("prune", "--apply")
    listed = newest(site)
    assert broken["snapshot"] not in [one["snapshot"] for one in listed]
    made = next(one for one in listed if one["status"] == "incomplete")
    assert made["hold"]
    site.run("release", made["snapshot"])
    assert next(one for one in newest(site) if one["snapshot"] == made["snapshot"])["hold"] == ""


def test_a_held_snapshot_is_never_forgotten(site: InsideSite) -> None:
    broken = lose_new(site)
    site.run("hold", "place", broken["snapshot"], "--reason", "evidence")
    said = site.run("repair", "snapshots", "main", "--forget", "--apply", expect=4)
    assert "NOT forgotten, it is held: evidence" in said.err
    assert broken["snapshot"] in [one["snapshot"] for one in newest(site)]


def test_nothing_is_given_up_while_a_copy_may_have_it(site: InsideSite) -> None:
    broken = lose_new(site)
    with_vault(site)
    assert "nothing to do" in site.run("repair", "snapshots", "main").out, "the copy has all of it"
    (site.root / "vault").rename(site.root / "away")
    before = stored(site)
    said = site.run("repair", "snapshots", "main", "--forget", "--apply", expect=14)
    (site.root / "away").rename(site.root / "vault")
    assert "cannot be asked" in said.err
    assert stored(site) == before
    assert broken["snapshot"] in [one["snapshot"] for one in newest(site)]


def test_a_snapshot_that_cannot_be_read_goes_only_by_its_name(site: InsideSite) -> None:
    file = max(site.objects("snapshots"), key=lambda one: one.stat().st_mtime)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert advised(
        site.run("check", "main", expect=4), "find out what it was, then let it go: backupctl repair snapshots"
    )
    site.run("repair", "snapshots", "main", "--forget", "--apply", expect=4)
    assert file.exists()
    site.run("repair", "snapshots", "main", file.name[:8], "--apply", expect=4)
    assert file.exists()
    site.run("repair", "snapshots", "main", file.name[:8], "--forget", "--apply")
    assert not file.exists()
    assert site.run("check", "main").code == 0
    (copy,) = [
        line["snapshot"]
        for line in site.run("snapshots", "--json").lines
        if line["type"] == "snapshot"
        and line["repository"] == "vault"
        and line["snapshot_time"] > newest(site)[-1]["snapshot_time"]
    ]
    site.run("copy", "--snapshot", copy, "--to", "main")
    expect_whole(site)


def test_somebody_else_is_at_work(site: InsideSite) -> None:
    site.objects("index")[0].unlink()
    with opened(site) as repository, repository.lock():
        site.run("repair", "index", "main", "--apply", expect=11)
        site.run("repair", "packs", "main", "--apply", expect=11)
        site.run("repair", "snapshots", "main", "--forget", "--apply", expect=11)
        site.run("repair", "index", "main")


@pytest.mark.parametrize("verb", ["index", "packs", "snapshots"])
def test_killed_at_every_step(site: InsideSite, prepared: tuple[InsideSite, Callable[[], None]], verb: str) -> None:
    """The process dies at each change of the store: nothing that could be read is lost, nobody tidies up
    by hand, and the same command finishes."""
    command = ["repair", verb, "main", *(["--forget"] if verb == "snapshots" else []), "--apply"]

    def harm() -> None:
        prepared[1]()
        if verb == "index":
            gone, bad = site.objects("index")
            gone.unlink()
            bad.write_bytes(b"")
        elif verb == "packs":
            _flipped(packs(site, "data")[0])
            _gone(packs(site, "tree")[0])
            site.run("check", "main", "--read-data", expect=4)
        else:
            lose_new(site)
            site.run("repair", "packs", "main", "--apply", expect=4)

    harm()
    site.stores.clear()
    site.run(*command)
    changes = [
        (kind, name)
        for store in site.stores
        for kind, name in store.calls
        if kind in ("put", "delete") and store.location.endswith("repository")
    ]
    assert len(changes) >= 4
    for number, (kind, name) in enumerate([*changes, ("nothing after", changes[-1][1])], 1):
        harm()

        def kill(store: FaultyStore, number: int = number) -> None:
            after = number > len(changes)  # right after one change is right before the next
            left = [number - after]

            def count_down() -> None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            if store.location.endswith("repository"):
                for one in ("put", "delete"):
                    store.at(one, 1, count_down, times=None, after=after)

        where = f"{verb}: before {kind} {name}"
        assert site.forked(*command, sabotage=kill).code == -signal.SIGKILL, where
        site.sabotage = None
        site.run("storage", "unlock", "main")
        if verb != "snapshots":
            site.run("restore", "--into", "back", expect=(0, 3))
            (found,) = (site.root / "back").rglob("new.bin")
            assert found.read_bytes() == (site.root / "input" / "www" / "new.bin").read_bytes(), where
        site.run(*command)
        site.run("check", "main", "--read-data")
