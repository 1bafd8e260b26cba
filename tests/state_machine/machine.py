"""Two repositories and a world, under everything that happens to them in years: drawn by hypothesis."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backupctl.clock import FakeClock
from backupctl.errors import DamageError, LockedError
from backupctl.operations.records import of_job
from backupctl.repository.adoption import adopt_packs, compare_packs
from backupctl.repository.check import check
from backupctl.repository.copy import copy_snapshot, missing_in
from backupctl.repository.prune import apply_prune
from backupctl.repository.prune_plan import PruneLimits, plan_prune
from backupctl.repository.repository import Repository
from tests.state_machine.model import (
    JOB,
    TOP,
    Backup,
    Killed,
    Place,
    World,
    content_of,
    kept_content,
    restored_content,
)

START = datetime(2026, 11, 22, tzinfo=UTC)
seeds = st.integers(0, 2**32 - 1)
steps = st.integers(1, 30)
sides = st.sampled_from(("before", "after"))
LIMITS = (
    PruneLimits(),
    PruneLimits(max_unused=0.0, grace=timedelta(0)),
    PruneLimits(max_unused=0.0, max_repack=100_000),
    PruneLimits(max_unused=0.5, grace=timedelta(0)),
)


class BackupMachine(RuleBasedStateMachine):
    """`restic`: the program that has to agree, or None."""

    restic: str | None = None
    most_snapshots = 6

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(START)
        self.world = World()
        self.main, self.away = Place("main", self.clock), Place("away", self.clock)
        self.scratch = Path(tempfile.mkdtemp(prefix="backupctl-model-"))
        self.directory = self.scratch / os.fsdecode(TOP)
        self.directory.mkdir()
        self.agreed: dict[str, frozenset[str]] = {}  # the objects that stock restic has judged
        self.stale: Repository | None = None  # an object that was opened long ago and has read the index of then

    @property
    def places(self) -> tuple[Place, Place]:
        return self.main, self.away

    # the world

    @initialize(seed=seeds)
    def begin(self, seed: int) -> None:
        self.world.change(seed)

    @rule(seed=seeds)
    def change(self, seed: int) -> None:
        self.world.change(seed)

    @rule(minutes=st.sampled_from((1, 31, 61, 24 * 60)))
    def wait(self, minutes: int) -> None:
        self.clock.advance(minutes * 60)

    # backup

    def _backed_up(
        self, repository: Repository, between: Callable[[], None] = lambda: None, directory: Path | None = None
    ) -> None:
        files = dict(self.world.files)
        self.main.kept[Backup(repository, self.world, directory).run(between=between)] = files
        self.clock.advance(1)

    @rule()
    def backup(self) -> None:
        self._backed_up(self.main.open())

    @rule()
    def backup_of_a_directory(self) -> None:
        self._backed_up(self.main.open(), directory=self.directory)

    @rule(seed=seeds)
    def backup_of_a_directory_that_changed(self, seed: int) -> None:
        self.world.change(seed)
        self._backed_up(self.main.open(), directory=self.directory)

    @rule()
    def open_early(self) -> None:
        self.stale = self.main.open()
        len(self.stale.index)

    @precondition(lambda self: self.stale is not None)
    @rule()
    def backup_with_an_index_of_long_ago(self) -> None:
        assert self.stale is not None
        self._backed_up(self.stale)

    @rule(step=steps, side=sides, walked=st.booleans())
    def backup_killed(self, step: int, side: str, walked: bool) -> None:
        before, files = self.main.snapshot_ids(), dict(self.world.files)
        directory = self.directory if walked else None
        self._killed(self.main, step, side, lambda: self._backed_up(self.main.open(), directory=directory))
        for snapshot_id in self.main.snapshot_ids() - before - self.main.kept.keys():
            self.main.kept[snapshot_id] = files

    @rule(seed=seeds)
    def two_writers_and_a_prune_between(self, seed: int) -> None:
        """Both open, the second ends first; whoever wants to prune meanwhile is told to wait."""

        def meanwhile() -> None:
            with_second = self.main.open()
            self.world.change(seed)
            self._backed_up(with_second)
            try:
                with self.main.open().lock(exclusive=True):
                    raise AssertionError("an exclusive lock while a backup runs")
            except LockedError:
                pass

        files = dict(self.world.files)
        first = Backup(self.main.open(), self.world).run(between=meanwhile)
        self.main.kept[first] = files
        self.clock.advance(1)

    # forgetting and pruning

    @precondition(lambda self: self.main.kept)
    @rule(seed=seeds, at_main=st.booleans())
    def forget(self, seed: int, at_main: bool) -> None:
        place = self.main if at_main or not self.away.kept else self.away
        chosen = Random(seed).choice(sorted(place.kept))
        repository = place.open()
        with repository.lock(exclusive=True):
            repository.delete_snapshot(chosen)
        del place.kept[chosen]

    def _prune(self, place: Place, limits: PruneLimits) -> None:
        repository = place.open()
        with repository.lock(exclusive=True):
            apply_prune(repository, plan_prune(repository, limits))

    @rule(limits=st.sampled_from(LIMITS), at_main=st.booleans())
    def prune(self, limits: PruneLimits, at_main: bool) -> None:
        self._prune(self.main if at_main else self.away, limits)

    @rule(limits=st.sampled_from(LIMITS), step=steps, side=sides, at_main=st.booleans())
    def prune_killed(self, limits: PruneLimits, step: int, side: str, at_main: bool) -> None:
        place = self.main if at_main else self.away
        self._killed(place, step, side, lambda: self._prune(place, limits))

    @rule(limits=st.sampled_from(LIMITS))
    def plan_now_and_prune_later(self, limits: PruneLimits) -> None:
        """The plan is shown, somebody backs up, then it is applied."""
        repository = self.main.open()
        with repository.lock():
            plan = plan_prune(repository, limits)
        self._backed_up(self.main.open())
        with repository.lock(exclusive=True):
            apply_prune(repository, plan)

    @rule(step=steps)
    def backup_in_the_middle_of_a_prune(self, step: int) -> None:
        def attempt() -> None:
            other = Repository.open(self.main.store.inner, "model", clock=self.clock)
            try:
                Backup(other, self.world).run()
            except LockedError:
                return
            raise AssertionError("a backup while a prune holds its lock")

        armed = [1]

        def once() -> None:
            if armed and self.main.store.inner.list("locks/") and any(self.main.store.inner.list("locks/")):
                armed.clear()
                attempt()

        self.main.store.at("delete", step, once)
        try:
            self._prune(self.main, LIMITS[1])
        finally:
            self.main.store.heal()

    # copies

    def _copy_all(self, origin: Place, into: Place) -> None:
        source, destination = origin.open(), into.open()
        with source.lock(), destination.lock():
            adopt_packs(destination, compare_packs(destination).unlisted)
            there = of_job(destination.snapshots(), JOB)
            for snapshot in missing_in(destination, of_job(source.snapshots(), JOB)):
                if len(into.kept) >= self.most_snapshots:
                    return
                base = None
                if there:
                    known = {one.original or one.id: one for one in of_job(source.snapshots(), JOB)}
                    base = next((known[one.original] for one in there if one.original in known), None)
                copied = copy_snapshot(source, destination, snapshot, base=base)
                into.kept[copied.id] = origin.kept[snapshot.id]

    @rule(back=st.booleans())
    def copy(self, back: bool) -> None:
        self._copy_all(*((self.away, self.main) if back else (self.main, self.away)))

    @rule(step=steps, side=sides)
    def copy_killed(self, step: int, side: str) -> None:
        origins = {one.tree: self.main.kept[one.id] for one in of_job(self.main.open().snapshots(), JOB)}
        self._killed(self.away, step, side, lambda: self._copy_all(self.main, self.away))
        repository = self.away.open()
        for snapshot_id in self.away.snapshot_ids() - self.away.kept.keys():
            self.away.kept[snapshot_id] = origins[repository.read_snapshot(snapshot_id).tree]

    # damage

    @precondition(lambda self: self.main.kept)
    @rule(seed=seeds)
    def damage_is_found_and_never_restored_as_content(self, seed: int) -> None:
        random = Random(seed)
        place = random.choice([place for place in self.places if place.kept])
        inner = place.store.inner
        names = sorted(info.name for info in inner.list("") if info.name.startswith(("data/", "index/", "snapshots/")))
        name = random.choice(names)
        good = inner.get(name)
        bad = bytearray(good)
        way = random.choice(("flip", "cut", "gone"))
        if way == "flip":
            bad[random.randrange(len(bad))] ^= 1 << random.randrange(8)
        inner.delete(name)
        if way != "gone":
            inner.put(name, bytes(bad) if way == "flip" else good[: random.randrange(len(good))])
        repository = place.open()
        listed = name.removeprefix("data/")[3:] in {pack.hex() for pack in repository.index.packs}
        with repository.lock():
            report = check(repository, read_data=True)
        said = {problem.object_name for problem in report.problems}
        if way != "gone" and (listed or not name.startswith("data/")):
            assert name in said, (name, way, said)
        for snapshot_id, files in place.kept.items():
            with suppress(DamageError):
                if name != f"snapshots/{snapshot_id}" or way != "gone":
                    assert content_of(place.open(), snapshot_id) == kept_content(files)
        if place is self.main and name.startswith("data/"):
            self._backed_up(place.open())
            newest = max(
                place.kept,
                key=lambda one: place.open().read_snapshot(one).time if one in place.snapshot_ids() else START,
            )
            if way != "flip":
                assert content_of(place.open(), newest) == kept_content(place.kept[newest])
        inner.delete(name)
        inner.put(name, good)

    # always

    def _killed(self, place: Place, step: int, side: str, act: Callable[[], None]) -> None:
        place.kill_at(step, after=side == "after")
        try:
            act()
        except Killed:
            pass
        finally:
            place.store.heal()
        self.clock.advance(31 * 60)  # until the lock of the dead is stale
        place.open().unlock()

    @invariant()
    def few_snapshots(self) -> None:
        for place in self.places:
            while len(place.kept) > self.most_snapshots:
                oldest = next(iter(place.kept))
                repository = place.open()
                with repository.lock(exclusive=True):
                    repository.delete_snapshot(oldest)
                del place.kept[oldest]

    @invariant()
    def every_kept_snapshot_restores_exactly(self) -> None:
        for place in self.places:
            assert place.snapshot_ids() == place.kept.keys()
            repository = place.open()
            for snapshot_id, files in place.kept.items():
                assert content_of(repository, snapshot_id) == kept_content(files)

    @invariant()
    def our_check_is_clean(self) -> None:
        for place in self.places:
            repository = place.open()
            with repository.lock():
                report = check(repository, read_data=True)
            assert [(one.object_name, one.message) for one in report.problems] == []

    @invariant()
    def stock_restic_agrees(self) -> None:
        """After each step that changed what is stored."""
        if self.restic is None:
            return
        for place in self.places:
            stored = frozenset(place.names())
            if self.agreed.get(place.name) != stored:
                restic_agrees(self.restic, place)
                self.agreed[place.name] = stored

    def teardown(self) -> None:
        try:
            for place in self.places:
                for snapshot_id, files in place.kept.items():
                    into = self.scratch / f"{place.name}-{snapshot_id}"
                    assert restored_content(place.open(), snapshot_id, into) == kept_content(files)
        finally:
            shutil.rmtree(self.scratch)


def restic_agrees(program: str, place: Place) -> None:
    directory = Path(tempfile.mkdtemp(prefix="backupctl-model-"))
    try:
        place.dump(directory / "r")
        (directory / "password").write_text("model")
        command = [program, "--no-cache", "-r", str(directory / "r"), "--password-file", str(directory / "password")]
        done = subprocess.run([*command, "check", "--read-data"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        shutil.rmtree(directory)
