from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from backupctl.clock import iso
from backupctl.drills.model import Cleanup
from backupctl.drills.sandbox import Sandbox, create, directory_name, refuse_protected, remove_leftovers
from backupctl.errors import CouldNotRunError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.staging import register
from tests.drills.helpers import CLOCK, DRILL_ID, ago

HOST = LocalHost("staging")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    register(HOST, os.fsencode(tmp_path / "scratch"), "staging")
    return tmp_path / "scratch"


def make(scratch: Path, drill_id: str = DRILL_ID) -> Sandbox:
    return create(
        HOST,
        os.fsencode(scratch),
        drill_id,
        planned_bytes=0,
        max_disk=None,
        protected=(),
        expires=CLOCK.now() + timedelta(hours=1),
    )


def leftovers(scratch: Path) -> list[Cleanup]:
    return remove_leftovers(HOST, os.fsencode(scratch), CLOCK)


def test_a_sandbox_is_private_and_goes_away_as_a_whole(scratch: Path) -> None:
    sandbox = make(scratch)
    directory = Path(os.fsdecode(sandbox.directory))
    assert directory.name == "drill-00c04fc964ff"
    assert directory.stat().st_mode & 0o066 == 0
    assert (directory / "files").stat().st_mode & 0o077 == 0
    assert not sandbox.prove().proved
    cleanup = sandbox.clean()
    assert cleanup.proved, cleanup.facts
    assert not directory.exists()
    assert sandbox.clean().proved


def test_a_sandbox_that_cannot_be_finished_leaves_nothing(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalHost, "open_write", full)
    with pytest.raises(OSError, match="No space left"):
        make(scratch)
    assert [path.name for path in scratch.iterdir()] == ["backupctl-staging.json"]


def test_a_living_drill_is_left_alone(scratch: Path) -> None:
    sandbox = make(scratch)
    assert leftovers(scratch) == []
    assert os.path.exists(sandbox.directory)


def change_owner(sandbox: Sandbox, **values: str) -> None:
    path = Path(os.fsdecode(sandbox.directory), "state", "owner.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "removed"),
    [
        ({"boot": "an earlier boot"}, True),
        ({"start": "1"}, True),  # the pid belongs to another process now
        ({"pid": "4194304999"}, True),
        ({"node": "elsewhere", "pid": "1"}, False),  # nobody here can tell, and its time is not over
        ({"node": "elsewhere", "expires": iso(ago(seconds=1))}, True),
    ],
)
def test_whose_drill_is_over(scratch: Path, values: dict[str, str], removed: bool) -> None:
    sandbox = make(scratch)
    change_owner(sandbox, **values)
    assert [cleanup.proved for cleanup in leftovers(scratch)] == [True] * removed
    assert os.path.exists(sandbox.directory) is not removed


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"expires": 3}'])
def test_a_directory_without_an_owner_is_removed_when_it_is_old(scratch: Path, content: str | None) -> None:
    directory = scratch / "drill-unsigned"
    (directory / "state").mkdir(parents=True)
    if content is not None:
        (directory / "state" / "owner.json").write_text(content)
    assert leftovers(scratch) == []
    old = ago(hours=2).timestamp()
    os.utime(directory, (old, old))
    assert leftovers(scratch)
    assert not directory.exists()


def test_only_drill_directories_are_ever_removed(scratch: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (scratch / "drill-link").symlink_to(elsewhere)
    (scratch / "drill-file").touch()
    (scratch / "mine").mkdir()
    assert leftovers(scratch) == []
    assert (elsewhere / "precious").exists()
    assert (scratch / "mine").exists()


def test_nothing_is_removed_where_no_marker_stands(tmp_path: Path) -> None:
    (tmp_path / "drill-abc").mkdir()
    with pytest.raises(CouldNotRunError, match="not registered"):
        leftovers(tmp_path)
    assert (tmp_path / "drill-abc").exists()


def test_a_clean_up_that_fails_says_why(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = make(scratch)

    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(LocalHost, "remove_tree", refuse)
    cleanup = sandbox.clean()
    assert not cleanup.proved
    assert "Operation not permitted" in cleanup.facts[-1]


@pytest.mark.parametrize(("source", "refused"), [("", True), ("/www", True), ("/../scratch/www/", True), ("-2", False)])
def test_what_a_source_reads_is_no_scratch(scratch: Path, source: str, refused: bool) -> None:
    (scratch / "www").mkdir()
    Path(f"{scratch}-2").mkdir()
    paths = [os.fsencode(f"{scratch}{source}")]
    if refused:
        with pytest.raises(CouldNotRunError, match="is or contains the source path"):
            refuse_protected(HOST, os.fsencode(scratch), paths)
    else:
        refuse_protected(HOST, os.fsencode(scratch), paths)


def test_names_are_short_and_plain() -> None:
    assert directory_name(DRILL_ID) == b"drill-00c04fc964ff"
    assert directory_name("../../etc") == b"drill-etc"
