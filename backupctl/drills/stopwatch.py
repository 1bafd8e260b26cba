"""How long a recovery took and how much it lost, measured.

    t0  the disaster is declared
    t1  decided: the snapshot is chosen, the keys are there and the repository is open
    t2  the first byte is read for a restore
    t3  the last byte is restored
    t4  the content is compared
    t5  service is validated: every probe answered

RTO achieved = t5 − t0, clean-up excluded. RPO achieved = disaster instant − newest change proven present. Of several sources
the one that lost most counts. (NIST SP 800-34 r1 §3.2.1 for the objectives; SP 800-184 asks that their measures be chosen in
advance.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from backupctl.clock import Clock
from backupctl.drills.model import Instants, Phase

DECIDE = "decide"
KEYS = "retrieve keys"
OPEN_REPOSITORY = "open repository"
PREPARE = "prepare sandbox"
RESTORE_FILES = "restore files"
BOOT = "boot"
LOAD = "load"
COMPARE = "compare"
PROBE = "probe"
CLEAN_UP = "clean up"
RESTORING = (RESTORE_FILES, BOOT, LOAD)


class Stopwatch:
    """Phases by the monotonic clock. What passed between the declaration and the start of the watch, and is not in
    `measured`, is the phase `decide`."""

    def __init__(self, clock: Clock, declared: datetime, measured: Sequence[Phase] = ()) -> None:
        self._clock = clock
        self._start = clock.monotonic()
        known = sum(phase.seconds for phase in measured)
        self._before = max((clock.now() - declared).total_seconds(), known)
        self._seconds = {DECIDE: self._before - known}
        for phase in measured:
            self._add(phase.name, phase.seconds)
        self._struck = 0.0
        self._decided = 0.0
        self._spans: dict[str, tuple[float, float]] = {}  # of each phase: first begin, last end
        self._validated: float | None = None

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block, whether it ends well or not; the same name again adds up."""
        begun = self._clock.monotonic()
        try:
            yield
        finally:
            ended = self._clock.monotonic()
            self._add(name, ended - begun)
            first, _ = self._spans.get(name, (begun - self._start, 0.0))
            self._spans[name] = (first, ended - self._start)

    def elapsed(self) -> float:
        """Seconds since the watch started."""
        return self._clock.monotonic() - self._start

    def strike(self) -> None:
        """The disaster is declared now: what came before only set the stage, and does not count as recovery."""
        self._before, self._struck = 0.0, self.elapsed()
        self._decided = self._struck
        self._spans.clear()

    def decided(self) -> None:
        """The snapshot is chosen now, later than when the watch started."""
        self._decided = self.elapsed()

    def validated(self) -> None:
        """Service is validated now. Call once, after the last check and probe succeeded."""
        self._validated = self.elapsed()

    @property
    def rto_seconds(self) -> float | None:
        """None when service was never validated."""
        return None if self._validated is None else self._before + self._validated - self._struck

    @property
    def instants(self) -> Instants:
        restoring = [self._spans[name] for name in RESTORING if name in self._spans]
        compared = self._spans.get(COMPARE)
        restored = max((end for _, end in restoring), default=None)
        return Instants(
            t1=self._since_declaration(self._decided),
            t2=self._since_declaration(min((begin for begin, _ in restoring), default=None)),
            t3=self._since_declaration(restored),
            t4=self._since_declaration(max(compared[1], restored or 0.0) if compared else None),
            t5=self._since_declaration(self._validated),
        )

    def _since_declaration(self, elapsed: float | None) -> float | None:
        return None if elapsed is None else round(self._before + elapsed - self._struck, 6)

    @property
    def phases(self) -> list[Phase]:
        return [Phase(name, round(seconds, 6)) for name, seconds in self._seconds.items()]


def rpo_seconds(disaster: datetime, proven: Iterable[datetime | None]) -> float | None:
    """`proven`: per planned source, the newest instant whose content was proven present. None when one of them has
    none or there are none. A view opened after the disaster was declared lost nothing: 0."""
    instants = list(proven)
    oldest: datetime | None = None
    for instant in instants:
        if instant is None:
            return None
        oldest = instant if oldest is None else min(oldest, instant)
    return None if oldest is None else max((disaster - oldest).total_seconds(), 0.0)
