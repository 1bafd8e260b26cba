"""A process killed at every step that changes the store, and a store that fails at every call: nothing half done is ever
visible, nobody has to tidy up by hand, and the next run succeeds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupctl.errors import Denied, Full, StorageError, Transient
from tests.faults.faulty_store import FaultyStore
from tests.faults.inside import InsideSite
from tests.soak import rounds

CHANGES = ("put", "delete")
COMMANDS = {
    "backup": ["run"],
    "prune": ["prune", "--apply"],
    "check": ["check"],
    "drill": ["drill", "run"],
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def locks(site: InsideSite) -> list[Path]:
    return [one for one in site.repository.glob("locks/*") if one.stat().st_size]


def snapshot_ids(site: InsideSite) -> list[str]:
    return sorted(one.name for one in site.repository.glob("snapshots/*"))


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InsideSite, Callable[[], None]]]:
    """A site with two snapshots, one of which retention no longer keeps, and new files to back up; with its reset."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        site = InsideSite.start(tmp_path_factory.mktemp("crash"), monkeypatch)
        del site.sources["db"]
        site.configure()
        job = site.root / "jobs" / "site.yaml"
        job.write_text(job.read_text().replace("keep_daily: 7", "keep_last: 1"))
        www = site.root / "input" / "www"
        (www / "passing.bin").write_bytes(os.urandom(300_000))
        site.run("run")
        (www / "passing.bin").unlink()
        (www / "second.txt").write_text("of the second run\n")
        site.run("run")
        (www / "third.bin").write_bytes(os.urandom(40_000))
        saved = site.root / "saved"
        saved.mkdir()
        shutil.copytree(site.repository, saved / "repository")
        shutil.copy(site.root / "catalog.db", saved)

        def reset() -> None:
            shutil.rmtree(site.repository)
            shutil.copytree(saved / "repository", site.repository)
            shutil.copy(saved / "catalog.db", site.root)
            site.stores.clear()

        yield site, reset


def steps(site: InsideSite, command: list[str]) -> list[str]:
    """The changing calls of one undisturbed run, in order."""
    site.stores.clear()
    site.run(*command)
    return [kind for store in site.stores for kind, _ in store.calls if kind in CHANGES]


def assert_all_is_well(site: InsideSite) -> None:
    """Whatever happened before: no lock to remove by hand, no half thing, the next runs succeed."""
    site.run("check", "--read-data")
    restic_agrees(site)
    site.run("run")
    assert site.catalog_runs("running") == site.catalog_runs("queued") == []
    site.run("prune", "--apply")
    assert locks(site) == []
    site.run("check", "--read-data")
    third = site.root / "back"
    shutil.rmtree(third, ignore_errors=True)
    site.run("restore", "--into", "back")
    (restored,) = third.rglob("third.bin")
    assert restored.read_bytes() == (site.root / "input" / "www" / "third.bin").read_bytes()


def restic_agrees(site: InsideSite) -> None:
    """Stock restic, where it is installed, finds no fault either (leftovers of a crash are only hints to it)."""
    program = shutil.which("restic")
    if program is None:
        return
    done = subprocess.run(
        [
            program,
            "--no-cache",
            "--repo",
            site.repository,
            "--password-file",
            site.root / "repository.key",
            "check",
            "--read-data",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_every_step(ready: tuple[InsideSite, Callable[[], None]], name: str) -> None:
    site, reset = ready
    reset()
    count = len(steps(site, COMMANDS[name]))
    assert count >= (8 if name in ("backup", "prune") else 3)
    reset()
    for number in range(1, count + 1):
        # what is left after a step is what is left before the next: in a normal run only the last is killed on both sides
        for after in (False, True)[: 2 if number == count else rounds(1, 2)]:
            reset()
            before = snapshot_ids(site)

            def kill(store: FaultyStore, number: int = number, after: bool = after) -> None:
                left = [number]

                def count_down() -> None:
                    left[0] -= 1
                    if left[0] == 0:
                        die()

                for kind in CHANGES:
                    store.at(kind, 1, count_down, times=None, after=after)

            code = site.forked(*COMMANDS[name], sabotage=kill).code
            where = f"{name}, step {number} {'after' if after else 'before'}"
            assert code == -signal.SIGKILL, where
            if name == "backup":
                new = set(snapshot_ids(site)) - set(before)
                assert len(new) == (number == count or (number == count - 1 and after)), where
            site.run("storage", "unlock", "main")
            assert locks(site) == [], where
            site.run("check", "--read-data")
            assert site.catalog_runs("running") == [], f"{where}: a dead run is still called running"
            if name != "prune":
                assert [run.state for run in site.catalog_runs("failed")] == ["failed"], where
            restic_agrees(site)
        if number % rounds(3, 1) == 0 or number == count:
            assert_all_is_well(site)


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (lambda name: Denied(f"store: {name}: access denied", name=name, location="store", next_step="allow it"), None),
        (lambda name: Full(f"store: cannot write {name}: no space left", name=name, next_step="free space"), ("put",)),
        (lambda name: Transient(f"store: {name}: connection reset", name=name, location="store"), None),
    ],
    ids=["denied", "full", "unreachable"],
)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_store_that_fails_at_every_call(
    ready: tuple[InsideSite, Callable[[], None]],
    name: str,
    error: Callable[[str], StorageError],
    kinds: tuple[str, ...] | None,
) -> None:
    site, reset = ready
    for _ in range(2):  # the cache has what it can have only after the first
        reset()
        site.run(*COMMANDS[name])
    calls = [kind for store in site.stores for kind, _ in store.calls]
    wanted = [number for number, kind in enumerate(calls, 1) if kinds is None or kind in kinds]
    # every distinct neighbourhood of steps once: a hundred reads of one pack in a row teach nothing new
    chosen = [n for n in wanted if n < 3 or calls[n - 3 : n] != calls[n - 4 : n - 1] or n == wanted[-1]]
    chosen = chosen[:: rounds(4, 1)] + chosen[-1:]
    first = site.root / "first-failed-call"
    for number in chosen:
        reset()
        first.unlink(missing_ok=True)

        def break_down(store: FaultyStore, number: int = number) -> None:
            def fail() -> None:
                if not first.exists():
                    first.write_text(" ".join(store.calls[-1]))
                raise error(store.calls[-1][1] or "everything")

            store.at("any", number, fail, times=None)

        said = site.forked(*COMMANDS[name], sabotage=break_down)
        # blobs go into packs by lot, so a run may need a call more or less than the one that was counted
        failed = first.read_text() if first.exists() else ""
        where = f"{name}, call {number} ({failed or 'not reached'}): exit {said.code}\n{said.text}"
        if not failed:
            assert said.code == 0, where
        late = not failed or failed.startswith("delete locks/")  # the work is done
        assert said.code in ((0, 3, 4, 5, 14) if late or name in ("drill", "check") else (14,)), where
        if said.code:
            assert "store: " in said.text, where
        assert site.catalog_runs("running") == [], where
        site.run("run")
    site.run("check", "--read-data")
