"""Files read from a snapshot: one moment of them, under their own names; and what becomes of snapshots that are left."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.clock import SystemClock
from backupctl.errors import SourceError
from backupctl.hosts.local import LocalHost
from backupctl.sources.files import FilesOptions, FilesSource

CREATE = ["cp", "-a", "{of}", "{at}"]
REMOVE = ["rm", "-rf", "{at}"]


@pytest.fixture
def live(tmp_path: Path) -> Path:
    path = tmp_path / "live"
    (path / "www" / "deep").mkdir(parents=True)
    (path / "www" / "page").write_text("before")
    (path / "www" / "deep" / "keep").write_text("kept")
    (path / "www" / "deep" / "drop.tmp").write_text("x")
    (path / "www" / "deep").chmod(0o711)
    return path


def source(live: Path, *, create: object = CREATE, remove: object = REMOVE, **options: object) -> FilesSource:
    """With a copy in place of a snapshot."""
    places = {"of": str(live), "at": str(live.parent / "snapshot")}

    def filled(words: object) -> object:
        return [filled(one) for one in words] if isinstance(words, list) else str(words).format(**places)

    snapshot = {**places, "create": filled(create), "remove": filled(remove)}
    return FilesSource("www", FilesOptions.model_validate({"paths": [f"{live}/www"], "snapshot": snapshot, **options}))


def read(made: FilesSource, *, while_open: object = None) -> tuple[dict[str, bytes | None], list[str]]:
    """Path below `live` → content, and the warnings."""
    with made.open(LocalHost(), SystemClock()) as session:
        if callable(while_open):
            while_open()
        found: dict[str, bytes | None] = {}
        for entry in session.trees():
            assert not entry.error, entry.error
            content = None
            if entry.open is not None:
                with closing(entry.open()) as stream:
                    content = stream.read()
            found[os.fsdecode(entry.path)] = content
        session.fingerprint()
    return found, session.warnings


def test_what_is_read_is_the_moment_of_the_snapshot(live: Path) -> None:
    def change() -> None:
        (live / "www" / "page").write_text("after!")
        (live / "www" / "new").write_text("new")

    found, warnings = read(source(live), while_open=change)
    below = str(live).lstrip("/")
    assert found[f"{below}/www/page"] == b"before"
    assert f"{below}/www/new" not in found
    assert found[f"{below}/www/deep/keep"] == b"kept"
    assert below in found  # the directories above are there, under their own names
    assert not any("snapshot" in path for path in found)
    assert warnings == []
    assert not (live.parent / "snapshot").exists()


@pytest.mark.parametrize("pattern", ["*.tmp", "{live}/www/deep/*.tmp", "**/deep/drop.tmp"])
def test_excludes_mean_the_paths_as_they_are(live: Path, pattern: str) -> None:
    found, _ = read(source(live, exclude=[pattern.format(live=live)]))
    assert {path.rpartition("/")[2] for path, content in found.items() if content is not None} == {"page", "keep"}


def test_what_a_killed_run_left_is_removed_and_never_read(live: Path) -> None:
    shutil.copytree(live, live.parent / "snapshot")
    (live / "www" / "page").write_text("of this run")
    found, warnings = read(source(live))
    assert found[f"{live}/www/page".lstrip("/")] == b"of this run"
    assert len(warnings) == 1
    assert "left from a run that was killed: removed" in warnings[0]


def test_a_snapshot_that_is_half_there_is_removed(live: Path) -> None:
    """As a volume that was made and never mounted: nothing is to be seen where it would be reached."""
    volume = live.parent / "volume"
    volume.touch()
    create = [["mkdir", str(volume)], CREATE]
    found, warnings = read(source(live, create=create, remove=[REMOVE, ["rm", "-rf", str(volume)]]))
    assert found[f"{live}/www/page".lstrip("/")] == b"before"
    assert ["half there" in one for one in warnings] == [True]
    assert not volume.exists()


def test_without_a_snapshot_nothing_is_read(live: Path) -> None:
    for create, what in ((["false"], "no snapshot of"), (["true"], "is empty or not there after `create`")):
        with pytest.raises(SourceError, match=what):
            read(source(live, create=create))
    shutil.copytree(live, live.parent / "snapshot")
    with pytest.raises(SourceError, match="is not gone, although"):
        read(source(live, remove=["true"]))


def test_a_snapshot_that_cannot_be_removed_is_said(live: Path) -> None:
    found, warnings = read(source(live, remove=["sh", "-c", "echo busy >&2; exit 4"]))
    assert len(found) > 3
    assert len(warnings) == 1
    assert "is left:" in warnings[0]
    assert "busy" in warnings[0]


def test_it_is_removed_when_reading_fails(live: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(source(live), while_open=fail)
    assert not (live.parent / "snapshot").exists()


def test_paths_and_patterns_outside_of_it_are_refused(live: Path) -> None:
    with pytest.raises(ValidationError, match="is not in"):
        source(live, paths=["/etc"])
    with pytest.raises(ValidationError, match="must start with"):
        source(live, exclude=["/srv/*/cache"])
