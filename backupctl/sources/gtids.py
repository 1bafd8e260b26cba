"""Which transactions a binary log follows, and which it holds, by their GTIDs: as MariaDB and as MySQL write them. Pure."""

from __future__ import annotations

from bisect import bisect
from typing import Self

Spans = tuple[tuple[int, int], ...]  # first and last number of each, in order, with gaps between them


class DomainGtids(dict[str, int]):
    """MariaDB: domain → its last sequence number. Those before it are taken to be there."""

    def copy(self) -> Self:
        return type(self)(self)

    def add(self, domain: str, number: int) -> None:
        self[domain] = number

    def repeats(self, domain: str, number: int) -> bool:
        """Whether a log that holds it next would hold it twice."""
        return self.get(domain) == number

    def holds(self, gtid: str) -> bool:
        if ":" in gtid:  # MySQL's
            return False
        domain, _, number = gtid.split("-")
        return int(number) <= self.get(domain, 0)

    def __str__(self) -> str:
        return ", ".join(f"{domain}-*-{number}" for domain, number in sorted(self.items())) or "nothing"


class SourceGtids(dict[str, Spans]):
    """MySQL: UUID of a server → the numbers of its transactions."""

    def copy(self) -> Self:
        return type(self)(self)

    def add(self, server: str, number: int) -> None:
        spans = list(self.get(server, ()))
        at = bisect(spans, (number, number))
        first = last = number
        if at < len(spans) and spans[at][0] == number + 1:
            last = spans.pop(at)[1]
        if at and spans[at - 1][1] == number - 1:
            first = spans.pop(at - 1)[0]
            at -= 1
        spans.insert(at, (first, last))
        self[server] = tuple(spans)

    def repeats(self, server: str, number: int) -> bool:
        return any(first <= number <= last for first, last in self.get(server, ()))

    def holds(self, gtid: str) -> bool:
        server, colon, number = gtid.rpartition(":")
        return bool(colon) and self.repeats(server, int(number))

    def __str__(self) -> str:
        spans = {
            server: ":".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
            for server, found in sorted(self.items())
        }
        return ", ".join(f"{server}:{found}" for server, found in spans.items()) or "nothing"


Gtids = DomainGtids | SourceGtids
