"""Log segments in the bucket: written once, never replaced, and nothing but absence looks like absence."""

from __future__ import annotations

import pytest

from backupctl.errors import DamageError, NoSuchError, Transient, UserError
from backupctl.repository.log_archive import DifferentContentError, LogArchive
from tests.repository.helpers import new_repository

NAME = "000000010000000000000002"


@pytest.fixture
def archive() -> LogArchive:
    return LogArchive(new_repository(), "7713")


def object_of(archive: LogArchive) -> str:
    (info,) = archive._store.list("backupctl/log/")
    return info.name


def test_a_segment_comes_back_and_its_facts_without_it(archive: LogArchive) -> None:
    content = bytes(1 << 20) + b"end"
    assert archive.put(NAME, content, {"commits": 3, "long": "x" * 9000}) is True
    assert archive.get(NAME) == content
    seen = archive.look(NAME)
    assert (seen.size, seen.facts["commits"]) == (len(content), 3)
    assert archive.names() == archive.names("0000") == [NAME] and archive.names("F") == []
    name = object_of(archive)
    assert "7713" not in name, "the store does not learn whose it is"
    assert content[-3:] not in archive._store.get(name)


def test_the_same_again_is_fine_and_anything_else_is_refused(archive: LogArchive) -> None:
    archive.put(NAME, b"one", {})
    assert archive.put(NAME, b"one", {"other": "facts"}) is False
    with pytest.raises(DifferentContentError, match="other content"):
        archive.put(NAME, b"two", {})
    assert archive.get(NAME) == b"one"
    with pytest.raises(UserError, match="no name"):
        archive.put("../keys/x", b"", {})


def test_absent_is_told_from_damaged_and_from_unreachable(archive: LogArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoSuchError):
        archive.get(NAME)
    archive.put(NAME, b"content", {})
    name = object_of(archive)
    good = archive._store.get(name)
    for bad in (b"", good[:3], good[:-1], good[:40] + bytes([good[40] ^ 1]) + good[41:], good[:-20] + bytes(20)):
        archive._store.put(name, bad)
        with pytest.raises(DamageError, match=NAME):
            archive.get(NAME)
    other = LogArchive(archive._repository, "7714")
    archive._store.put(other._directory + NAME, good)
    with pytest.raises(DamageError, match="another segment"):
        other.get(NAME)
    monkeypatch.setattr(
        archive._store, "get", lambda *args, **options: (_ for _ in ()).throw(Transient("cut", name=name))
    )
    with pytest.raises(Transient):
        archive.get(NAME)
