"""A database that was begun in somebody's server goes away again, or is told to be there."""

from __future__ import annotations

import pytest

from backupctl.errors import CouldNotRunError, DamageError
from backupctl.sources.streams import gone_unless_whole


def test_what_went_wrong_takes_the_database_with_it() -> None:
    dropped: list[str] = []
    with gone_unless_whole("copy", lambda: dropped.append("copy")):
        pass
    assert dropped == []
    with pytest.raises(KeyboardInterrupt), gone_unless_whole("copy", lambda: dropped.append("copy")):
        raise KeyboardInterrupt
    assert dropped == ["copy"]


def test_when_it_cannot_be_dropped_the_error_says_why_and_what_is_left() -> None:
    def drop() -> None:
        raise CouldNotRunError("the server is gone", next_step="")

    with pytest.raises(CouldNotRunError) as caught, gone_unless_whole("copy", drop):
        raise DamageError("one row differs", name="t")
    assert "one row differs" in caught.value.message and "the server is gone" in caught.value.message
    assert "copy" in caught.value.next_step
