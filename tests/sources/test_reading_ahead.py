"""Streams read ahead: in order, bounded, ending badly only where reading did."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from backupctl.sources import reading_ahead
from backupctl.sources.reading_ahead import Reader, ReadingAhead


class Counting:
    """Item n is n pieces; item 0 fails."""

    made = 0

    def __init__(self) -> None:
        Counting.made += 1
        self.killed = self.closed = False

    def read(self, item: int) -> Iterator[bytes]:
        if item == 0:
            raise OSError("item 0")
        for number in range(item):
            yield b"%d." % number

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_ahead, "LANE_BYTES", 4)
    Counting.made = 0


def content(ahead: ReadingAhead[int]) -> list[bytes | str]:
    read: list[bytes | str] = []
    for lane in ahead.lanes:
        try:
            read.append(lane.read())
        except OSError as error:
            read.append(str(error))
        lane.close()
    return read


@pytest.mark.parametrize("workers", [1, 3])
def test_everything_arrives_and_one_failure_costs_one_item(workers: int) -> None:
    readers = [Counting() for _ in range(workers)]
    ahead = ReadingAhead([2, 0, 40, 1, 3], readers, Counting)
    assert content(ahead) == [b"0.1.", "item 0", b"".join(b"%d." % n for n in range(40)), b"0.", b"0.1.2."]
    ahead.close()
    assert all(reader.closed for reader in readers)
    assert workers <= Counting.made <= workers + 1, "who failed is replaced when there is more to do"


def test_when_no_reader_comes_again_the_rest_ends_at_once() -> None:
    asked = []

    def refuse() -> Reader[int]:
        asked.append(1)
        raise OSError("no server any more")

    ahead = ReadingAhead([0, 1, 1, 1], [Counting()], refuse)
    assert content(ahead) == ["item 0", *["no server any more"] * 3]
    ahead.close()
    assert len(asked) == 1


def test_closing_in_the_middle_ends_every_thread() -> None:
    readers = [Counting(), Counting()]
    ahead = ReadingAhead([1000, 1000, 1000], readers, Counting)
    assert ahead.lanes[0].read(2) == b"0."
    ahead.close()
    ahead.close()
    assert all(reader.killed and reader.closed for reader in readers)
    assert not [thread for thread in threading.enumerate() if thread.name == "read ahead"]
