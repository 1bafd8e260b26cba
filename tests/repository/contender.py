"""One of several processes at work in the same repository: `python -m tests.repository.contender ROLE DIRECTORY NUMBER`.

A writer says on stdout what each of its snapshots holds and which it forgot again; the pruner prunes whenever it is let.
They meet in `DIRECTORY/turns`: one file for each prune that was done and each writer that has ended, and `tries`, which
grows by a byte with each attempt to prune. A writer saves its snapshot after two attempts: they fall between what it
found stored already and the snapshot that relies on it.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from backupctl.clock import SystemClock
from backupctl.errors import LockedError
from backupctl.repository.cache import CachePlace
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.prune import apply_prune, plan_prune
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.repository.engine import PASSWORD, backup, content

WRITERS = 4
ROUNDS = 4
DEADLINE_SECONDS = 120.0
CLOCK = SystemClock()


def wait_until(done: Callable[[], bool], what: str) -> None:
    end = CLOCK.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    while not done():
        if CLOCK.monotonic() > end:
            raise TimeoutError(what)
        pause.wait(0.02)


def tries(directory: Path) -> int:
    path = directory / "turns" / "tries"
    return path.stat().st_size if path.exists() else 0


class HesitantRepository(Repository):
    def save_snapshot(self, snapshot: Snapshot) -> str:
        seen = tries(directory)
        wait_until(lambda: tries(directory) >= seen + 2, "nobody tried to prune")
        return super().save_snapshot(snapshot)


def open_repository(kind: type[Repository] = Repository) -> Repository:
    place = CachePlace(directory / "cache")
    return kind.open(LocalStore(directory / "repository"), PASSWORD, clock=CLOCK, cache=place)


def locked(work: Callable[[], None], repository: Repository, *, exclusive: bool = False) -> None:
    """Do it as soon as the others let us."""

    def attempt() -> bool:
        try:
            with repository.lock(exclusive=exclusive):
                work()
        except LockedError:
            return False
        finally:
            if exclusive:
                with (directory / "turns" / "tries").open("ab") as file:
                    file.write(b".")
        return True

    wait_until(attempt, "the others never let go")


def files(writer: int, turn: int) -> dict[str, bytes]:
    """Overlapping, so that what one forgets is what another is about to rely on."""
    return {
        "everybody's": content("everybody", 30_000),
        "this turn's": content(("turn", turn % 2), 30_000),
        "a neighbour's": content(("neighbour", (writer + turn) % WRITERS), 30_000),
        "mine": content(("mine", writer, turn), 10_000),
    }


def write(writer: int) -> None:
    turns = directory / "turns"
    repository = open_repository(HesitantRepository)  # one object for all turns: what it knows grows stale
    mine: list[str] = []
    for turn in range(ROUNDS):

        def work(turn: int = turn) -> None:
            for old in mine:
                repository.delete_snapshot(old)
                print(json.dumps({"forgot": old}), flush=True)
            mine.clear()
            snapshot = backup(repository, files(writer, turn), target_bytes=32 << 10)
            print(json.dumps({"saved": snapshot.id, "turn": turn}), flush=True)
            if turn < ROUNDS - 1:
                mine.append(snapshot.id)

        locked(work, repository)
        wait_until(lambda turn=turn: len(list(turns.glob("prune-*"))) >= turn // 2, "no prune was done")
    (turns / f"end-{writer}").touch()


def prune() -> None:
    turns = directory / "turns"
    repository = open_repository()
    deleted = done = 0
    while len(list(turns.glob("end-*"))) < WRITERS:
        plans = []
        locked(lambda plans=plans: plans.append(plan_prune(repository)), repository)

        def work(plans: list = plans) -> None:  # type: ignore[type-arg]  # plans
            nonlocal deleted
            deleted += apply_prune(repository, plans[0]).deleted_packs

        locked(work, repository, exclusive=True)
        done += 1
        (turns / f"prune-{done}").touch()
    print(json.dumps({"prunes": done, "deleted": deleted}))


if __name__ == "__main__":
    directory = Path(sys.argv[2])
    if sys.argv[1] == "write":
        write(int(sys.argv[3]))
    else:
        prune()
