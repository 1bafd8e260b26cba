"""Run one drill from its request to its result.

A bad backup and a staging host in trouble both end in a verdict, never in an exception. An interrupt (Ctrl-C, SIGTERM)
cleans up first and is then raised again.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import FrameType
from typing import Any, NoReturn

from backupctl.clock import Clock, iso, parse_iso
from backupctl.drills import stopwatch as phases
from backupctl.drills.estimate import estimate
from backupctl.drills.interlocks import CeilingReached, source_paths
from backupctl.drills.model import Cleanup, DrillRequest, DrillResult, Measures, ObjectiveSeconds, Verdict
from backupctl.drills.sandbox import Sandbox, create, remove_leftovers
from backupctl.drills.scenario import (
    Deadline,
    Progress,
    Rehearsal,
    TimeUp,
    checked_record,
    is_database,
)
from backupctl.drills.scenarios.registry import scenario_of
from backupctl.drills.stopwatch import Stopwatch, rpo_seconds
from backupctl.drills.verdict import Judgement, SourceOutcome, blames_backup, explain, judge, nothing_to_test
from backupctl.errors import CouldNotRunError, InterruptedRunError, UserError

DEFAULT_TIMEOUT = timedelta(hours=24)
CLEANUP_ALLOWANCE = timedelta(hours=1)
SHOWN_LOSSES = 20
SOON = 0.001  # seconds; 0 would switch a timer off


class _Terminated(BaseException):
    """SIGTERM came. No Exception, so that nothing on the way takes it for an ordinary failure."""


def run_drill(
    request: DrillRequest,
    *,
    clock: Clock,
    progress: Progress | None = None,
    stopped: Callable[[Cleanup], None] = lambda cleanup: None,
) -> DrillResult:
    """Restore, compare, probe, measure, clean up, judge. Raises only KeyboardInterrupt and InterruptedRunError (after
    cleaning up, of which `stopped` is told then) and what is a bug."""
    watch = Stopwatch(clock, request.declared, request.measured)
    drill = _Drill(request, clock, watch, progress or (lambda phase, done, total: None))
    if request.snapshot is None:
        return drill.result(nothing_to_test(request.struck))
    with _termination():
        try:
            drill.rehearse()
        except BaseException:
            drill.clean_up()
            stopped(drill.cleanup)
            raise
        drill.clean_up()
    return drill.result(drill.judge())


class _Drill:
    def __init__(self, request: DrillRequest, clock: Clock, watch: Stopwatch, progress: Progress) -> None:
        self.request, self.clock, self.watch, self.progress = request, clock, watch, progress
        self.limit = request.settings.timeout or DEFAULT_TIMEOUT
        self.scenario = scenario_of(request.settings.scenario)
        self.trouble: list[str] = []
        self.bad: list[str] = []
        self.leftovers: list[Cleanup] = []
        self.interlocks: list[str] = []
        self.sandbox: Sandbox | None = None
        self.rehearsal: Rehearsal | None = None
        self.cleanup = Cleanup(True, ["nothing was put on the staging host"])

    def rehearse(self) -> None:
        request = self.request
        deadline = Deadline(self.clock, self.limit.total_seconds())
        try:
            if request.reader is None or request.fingerprint is None:
                raise CouldNotRunError("the snapshot was given without its reader or fingerprint")
            record = chosen_part(checked_record(request.fingerprint), request.chosen)
            refuse_later_than(request.disaster, record)
            if record.get("status", "complete") != "complete":
                self.bad.append(f"the snapshot is incomplete: its run had {len(record.get('problems', ()))} problems")
                self.bad += _lost_since(record.get("problems", ()))
            with _alarm(self.limit.total_seconds()):
                with self.watch.phase(phases.PREPARE):
                    self.progress(phases.PREPARE, 0, None)
                    self._prepare(record)
                assert self.sandbox is not None
                self.interlocks = self.sandbox.looked
                self.rehearsal = Rehearsal(request, self.sandbox, self.watch, deadline, self.progress)
                self.scenario.run(self.rehearsal, request.reader, record)
                self.watch.validated()
        except TimeUp:
            self.trouble.append(f"the time budget of {self.limit} is spent")
        except CeilingReached as reached:
            self.trouble.append(str(reached))
        except InterruptedRunError:
            raise
        except (UserError, OSError) as error:
            (self.bad if blames_backup(error, native=False) else self.trouble).append(explain(error))

    def _prepare(self, record: Mapping[str, Any]) -> None:
        request = self.request
        self.leftovers = remove_leftovers(request.host, request.scratch, self.clock)
        self.sandbox = create(
            request.host,
            request.scratch,
            request.id,
            planned_bytes=self.scenario.room(request, record),
            max_disk=request.max_disk,
            protected=protected_paths(request),
            expires=self.clock.now() + self.limit + CLEANUP_ALLOWANCE,
            production=request.production,
        )

    def clean_up(self) -> None:
        if self.sandbox is None:
            return
        self.progress(phases.CLEAN_UP, 0, None)
        with self.watch.phase(phases.CLEAN_UP):
            facts = self._stop_instances()
            self.cleanup = self.sandbox.clean()
            self.cleanup.facts[:0] = facts
            self.cleanup.facts += [f"left by an earlier drill: {fact}" for one in self.leftovers for fact in one.facts]

    def _stop_instances(self) -> list[str]:
        facts = []
        for name, instance in self.rehearsal.instances.items() if self.rehearsal else ():
            source = self.request.sources[name]
            assert is_database(source)
            try:
                source.stop(instance)
                facts.append(f"instance of {name} stopped")
            except InterruptedRunError:
                raise
            except (UserError, OSError) as error:  # whatever still lives is ended by the sandbox, by pid
                facts.append(f"instance of {name} did not stop by itself: {explain(error)}")
        return facts

    def judge(self) -> Judgement:
        request, rehearsal = self.request, self.rehearsal
        outcomes = rehearsal.outcomes if rehearsal else []
        tested = request.snapshot.time if request.snapshot else None
        newest = request.newest or tested
        return judge(
            outcomes,
            bad=self.bad,
            trouble=[*self.trouble, *(rehearsal.trouble if rehearsal else ())],
            probes_planned=len(request.settings.probes),
            probes=rehearsal.probes if rehearsal else (),
            age=request.struck - newest if newest else None,
            objectives=self._objectives(),
            rto_seconds=self.watch.rto_seconds,
            rpo_seconds=self._rpo() if newest == tested else None,  # an old point on purpose misses no objective
        )

    def _rpo(self) -> float | None:
        """Of what the job protects; a scenario may try other things too. Where a `fresh` probe found the newest change of a
        source, that is what is proven, and not that the source was looked at."""
        known = {*self.request.job.sources, *(self.request.fingerprint or {}).get("sources", ())}
        outcomes = [one for one in self.rehearsal.outcomes if one.name in known] if self.rehearsal else []
        beats = self.rehearsal.heartbeats if self.rehearsal else {}
        return rpo_seconds(self.request.struck, (proven(one, beats) for one in outcomes))

    def _objectives(self) -> ObjectiveSeconds:
        objectives = self.request.job.objectives
        return ObjectiveSeconds(objectives.rto.total_seconds(), objectives.rpo.total_seconds())

    def result(self, judgement: Judgement) -> DrillResult:
        rehearsal = self.rehearsal
        request = rehearsal.request if rehearsal else self.request  # a scenario may have gone to another repository
        reasons = list(judgement.reasons)
        if not self.cleanup.proved:
            reasons.append(f"clean-up is not proven: {'; '.join(self.cleanup.facts)}")
        for leftover in self.leftovers:
            if not leftover.proved:
                reasons.append(f"clean-up after an earlier drill is not proven: {'; '.join(leftover.facts)}")
        checks = [check for one in rehearsal.outcomes for check in one.checks] + rehearsal.probes if rehearsal else []
        return DrillResult(
            id=request.id,
            name=request.name,
            job=request.job.job,
            scenario=request.settings.scenario,
            host=request.host.name,
            repository=request.repository,
            snapshot=request.snapshot.id if request.snapshot else "",
            snapshot_time=request.snapshot.time if request.snapshot else None,
            declared=request.declared,
            disaster=request.struck,
            finished=self.clock.now(),
            verdict=judgement.verdict,
            level=judgement.level,
            phases=self.watch.phases,
            checks=checks,
            rto_seconds=self.watch.rto_seconds if judgement.verdict in ("pass", "stale") else None,
            rpo_seconds=self._rpo(),
            objectives=self._objectives(),
            restored_bytes=rehearsal.restored_bytes if rehearsal else 0,
            reasons=reasons,
            cleanup=self.cleanup,
            measures=self._measures(judgement.verdict),
            interlocks=[*self.interlocks, *(rehearsal.looked if rehearsal else ())],
        )

    def _measures(self, verdict: Verdict) -> Measures:
        request, rehearsal = self.request, self.rehearsal
        instants, restored = self.watch.instants, rehearsal.restored_bytes if rehearsal else 0
        beats = rehearsal.heartbeats.values() if rehearsal else ()
        possible = verdict in ("pass", "stale") and self.scenario.name == "full"
        return Measures(
            instants=instants,
            key_seconds=round(request.key_seconds, 6),
            heartbeat=min(beats, default=None),
            estimate=estimate(instants, restored, request.newest_bytes, request.scale) if possible else None,
        )


def proven(outcome: SourceOutcome, heartbeats: Mapping[str, datetime]) -> datetime | None:
    """The newest instant of a source whose content was proven present; None when none was."""
    if outcome.reached < 4 or outcome.data_time is None:
        return None
    return min(outcome.data_time, heartbeats.get(outcome.name, outcome.data_time))


def chosen_part(record: Mapping[str, Any], chosen: frozenset[str] | None) -> Mapping[str, Any]:
    """The facts of the sources that are to be rehearsed."""
    if chosen is None:
        return record
    return {**record, "sources": {name: facts for name, facts in record["sources"].items() if name in chosen}}


def refuse_later_than(disaster: datetime | None, record: Mapping[str, Any]) -> None:
    """A snapshot from after the disaster would not have been there."""
    for name, facts in record["sources"].items():
        if disaster is not None and parse_iso(facts["data_time"]) > disaster:
            raise CouldNotRunError(
                f"this snapshot holds {name} as of {facts['data_time']}, after the disaster at {iso(disaster)}",
                next_step="choose a snapshot from before that instant",
            )


def protected_paths(request: DrillRequest) -> Iterator[bytes]:
    """Paths that the job's sources read."""
    for settings in request.job.sources.values():
        yield from source_paths(settings.options)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block when it takes longer, whatever it waits for. Only the main thread can be woken like
    this; elsewhere the deadline is seen between steps. A process has one such timer: what it was set to before goes on
    afterwards, and where that comes first it is left alone."""
    around, begun = signal.getitimer(signal.ITIMER_REAL)[0], time.monotonic()
    if threading.current_thread() is not threading.main_thread() or 0 < around <= seconds:
        yield
        return
    before = signal.signal(signal.SIGALRM, _time_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if around:
            signal.setitimer(signal.ITIMER_REAL, max(around - (time.monotonic() - begun), SOON))


@contextmanager
def _termination() -> Iterator[None]:
    """Turn SIGTERM into an exception while the block runs, unless the program already has its own way with it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except _Terminated:
        raise InterruptedRunError(
            "the drill was stopped by SIGTERM",
            next_step="what it may have left on the staging host goes at the next drill, or with `backupctl drill cleanup`",
        ) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _time_up(number: int, frame: FrameType | None) -> NoReturn:
    raise TimeUp


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _lost_since(problems: Iterable[object]) -> list[str]:
    """What a repaired snapshot lacks: nothing that a comparison with its manifest would find."""
    found = [one for one in problems if isinstance(one, Mapping) and one.get("kind") == "lost"]
    lost = [f"{one.get('source')}/{one.get('path')}".rstrip("/") for one in found]
    more = f" and {len(lost) - SHOWN_LOSSES} more" if len(lost) > SHOWN_LOSSES else ""
    return [f"lost in the repository: {', '.join(lost[:SHOWN_LOSSES])}{more}"] if lost else []
