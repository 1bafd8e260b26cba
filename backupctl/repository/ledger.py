"""The ledger of reading: when each pack was last read whole, and whether it was good. With it "every byte was read within
30 days" is a fact, although no single check reads everything.

It is kept in the repository as sealed records of the kind `reading`, which are only ever added: a check adds what it read,
so checks at the same time cannot lose each other's. When there are many, one record that holds the newest word on every
pack that is still there is written, and then those it was made of are deleted; a crash in between leaves both, which say the
same. A pack that prune wrote anew has a new name, so it counts as unread. A record that cannot be read only makes packs count
as unread.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from backupctl.clock import parse_iso
from backupctl.errors import UserError
from backupctl.repository.repository import Repository

KIND = "reading"
FOLD_RECORDS = 32
SAVE_SECONDS = 600.0  # what a killed check may forget
_PREFIX_BYTES = 8  # of a pack's id: enough to tell packs apart
_NEVER = datetime(1, 1, 1, tzinfo=UTC)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far every stored byte was read. `oldest`: each byte was read, or written, since then; None without any pack."""

    packs: int = 0
    bytes: int = 0
    never_read_packs: int = 0
    never_read_bytes: int = 0
    bad_packs: int = 0  # found bad when they were last read
    oldest: datetime | None = None

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {"oldest": self.oldest.isoformat() if self.oldest else None}


class Readable(Protocol):
    @property
    def id(self) -> bytes: ...

    @property
    def size(self) -> int: ...


R = TypeVar("R", bound=Readable)


class Ledger:
    """As a context manager it saves what was noted, also on the way out of an interruption."""

    def __init__(self, repository: Repository) -> None:
        """Reads all records."""
        self._repository = repository
        self._good: dict[bytes, datetime] = {}
        self._bad: dict[bytes, datetime] = {}
        self._records: list[str] = []
        self._noted: dict[bool, list[bytes]] = {True: [], False: []}
        self._since: datetime | None = None  # no later than the first thing noted
        self._saved = repository.clock.monotonic()
        for record_id in repository.records(KIND):
            self._records.append(record_id)
            try:
                self._read(json.loads(repository.load_record(KIND, record_id)))
            except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                log.warning(
                    "backupctl/%s/%s cannot be read; what it says was read counts as unread: %s", KIND, record_id, error
                )

    def _read(self, facts: Any) -> None:
        for reading in facts["readings"]:
            at = parse_iso(reading["at"])
            for book, packs in ((self._good, reading["good"]), (self._bad, reading["bad"])):
                found = bytes.fromhex(packs)
                for start in range(0, len(found), _PREFIX_BYTES):
                    pack = found[start : start + _PREFIX_BYTES]
                    book[pack] = max(at, book.get(pack, _NEVER))

    def last_read(self, pack: bytes) -> datetime:
        """When it was last found good; the year 1 for never."""
        return self._good.get(pack[:_PREFIX_BYTES], _NEVER)

    def is_bad(self, pack: bytes) -> bool:
        """Whether it was bad when it was last read."""
        return self._bad.get(pack[:_PREFIX_BYTES], _NEVER) > self.last_read(pack)

    def longest_unread(self, stored: Sequence[R], budget: int) -> list[R]:
        """As many as `budget` bytes allow, at least one. What was bad the last time is read whatever it takes: as long as it is
        there, no check may say `pass`."""
        chosen = [one for one in stored if self.is_bad(one.id)]
        budget -= sum(one.size for one in chosen)
        rest = [one for one in stored if not self.is_bad(one.id)]
        for one in sorted(rest, key=lambda one: (self.last_read(one.id), one.id)):
            if chosen and budget < one.size:
                break
            budget -= one.size
            chosen.append(one)
        return chosen

    def coverage(self, sizes: Mapping[bytes, int], written: Mapping[bytes, datetime]) -> Coverage:
        """Of these packs. `written`: when the store got them; one that is missing there does not count."""
        never = bad = never_bytes = 0
        oldest: datetime | None = None
        for pack, size in sizes.items():
            since = self.last_read(pack)
            if since == _NEVER:
                never += 1
                never_bytes += size
                since = written.get(pack, self._repository.clock.now())
            bad += self.is_bad(pack)
            oldest = since if oldest is None else min(oldest, since)
        return Coverage(len(sizes), sum(sizes.values()), never, never_bytes, bad, oldest)

    def note(self, pack: bytes, *, good: bool) -> None:
        """It was read whole just now. Durable after `save`, which this calls every ten minutes."""
        now = self._repository.clock.now()
        self._since = self._since or now
        self._noted[good].append(pack[:_PREFIX_BYTES])
        if self._repository.clock.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Store what was noted. The time that is written down is that of the first: never later than the reading."""
        self._saved = self._repository.clock.monotonic()
        if self._since is None:
            return
        at = self._since
        for good, book in ((True, self._good), (False, self._bad)):
            book.update(dict.fromkeys(self._noted[good], at))
        self._records.append(self._store([(at, self._noted[True], self._noted[False])]))
        self._noted, self._since = {True: [], False: []}, None

    def fold(self, present: Collection[bytes]) -> None:
        """Make one record of many when there are many. `present`: the packs that are still there."""
        if len(self._records) < FOLD_RECORDS:
            return
        known = {pack[:_PREFIX_BYTES] for pack in present}
        by_time: dict[datetime, tuple[list[bytes], list[bytes]]] = {}
        for column, book in enumerate((self._good, self._bad)):
            for pack, at in book.items():
                if pack in known:
                    by_time.setdefault(at, ([], []))[column].append(pack)
        folded = self._store([(at, good, bad) for at, (good, bad) in sorted(by_time.items())])
        for record_id in self._records:
            if record_id != folded:
                self._repository.delete_record(KIND, record_id)
        self._records = [folded]

    def _store(self, readings: list[tuple[datetime, list[bytes], list[bytes]]]) -> str:
        facts = [
            {"at": at.isoformat(), "good": b"".join(good).hex(), "bad": b"".join(bad).hex()}
            for at, good, bad in readings
        ]
        text = json.dumps({"schema": 1, "readings": facts}, separators=(",", ":"))
        return self._repository.save_record(KIND, text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.save()
        except UserError as problem:
            # a store that can be read and not written changes nothing in what was found
            log.warning("what was read could not be noted in the repository: %s", problem.message)


def is_missed(oldest: datetime | None, within: timedelta, now: datetime) -> bool:
    """Whether some byte was neither read nor written within that time. `oldest`: as in `Coverage`."""
    return oldest is not None and now - oldest > within
