"""Whatever a snapshot says, a restore writes nothing outside its target, and what cannot be is a problem with a name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backupctl.hosts.protocol import PlacingError
from backupctl.repository.restore import RestoreStats, restore
from backupctl.repository.restore_plan import plan_restore
from tests.hostile.evil import Evil, placer_on, restored, world

ROOT = os.geteuid() == 0


@pytest.fixture(params=["local", "agent"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A target beside a world that must not change."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    (tmp_path / "target").mkdir()
    before = world(tmp_path, tmp_path / "target")
    yield tmp_path / "target"
    assert world(tmp_path, tmp_path / "target") == before


def names(target: Path) -> set[str]:
    return {str(path.relative_to(target)) for path in target.rglob("*")}


def problems(stats: RestoreStats) -> list[str]:
    return [problem.path for problem in stats.problems]


NAMES = ["", ".", "..", "../outside/precious", "/etc/backupctl-was-here", "a/b", "nul\\x00", "\\x2e\\x2e", "a\\x2fb"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["file", "dir", "link"])
def test_names_that_lead_elsewhere(target: Path, name: str, kind: str) -> None:
    evil = Evil()
    node = {
        "file": lambda: evil.file(name),
        "dir": lambda: evil.directory(name, evil.file("x")),
        "link": lambda: evil.link(name, "../outside"),
    }[kind]()
    stats = restored(evil.reader(evil.directory("bad", node), evil.file("good")), target)
    assert problems(stats) == ["bad"]
    assert names(target) == {"bad", "good"}


def test_a_link_first_and_something_below_it(target: Path, way: str) -> None:
    """In one tree: two entries of one name, the second to be written through the first."""
    evil = Evil()
    inside = evil.directory("d", evil.link("a", "../../outside"), evil.directory("a", evil.file("precious", b"gone")))
    stats = restored(evil.reader(inside, evil.file("good")), target, way)
    assert problems(stats) == ["d"]
    assert names(target) == {"d", "good"}


def test_links_that_were_restored_are_never_followed(target: Path, way: str) -> None:
    """In two restores into one directory: a link to the world, then files and directories where it stands."""
    evil = Evil()
    first = evil.reader(evil.link("a", "../outside"), evil.link("b", "../outside/precious"), evil.link("c", ".."))
    assert restored(first, target, way).problems == []
    through = [
        evil.directory("a", evil.file("precious", b"gone"), evil.file("planted")),
        evil.file("b", b"gone"),
        evil.directory("c", evil.directory("outside", evil.file("planted"))),
    ]
    stats = restored(evil.reader(*through), target, way)
    assert {"a", "c"} <= set(problems(stats))  # an agent has what is below them in its queue already
    assert (target / "b").read_bytes() == b"gone"
    assert not (target / "b").is_symlink()


def test_hard_links_to_links_and_to_what_is_not_there(target: Path, way: str) -> None:
    evil = Evil()
    pair = {"links": 2, "inode": 5, "device_id": 1}
    nodes = [
        evil.link("a", "../outside/precious", **pair),
        evil.file("b", **pair),
        evil.file("c", **pair),
        evil.file("d", links=2**64 - 1, inode=2**64 - 1, device_id=2**64 - 1),
        evil.file("e", links=2**64 - 1, inode=2**64 - 1, device_id=2**64 - 1),
    ]
    assert restored(evil.reader(*nodes), target, way).problems == []
    assert (target / "b").stat().st_nlink == 2
    assert {name: (target / name).read_bytes() for name in "bcde"} == dict.fromkeys("bcde", b"x")


class Meddler:
    """Somebody in the target directory who is quicker than we are: swaps what was just made for a link outside."""

    def __init__(self, inner: Any, target: Path) -> None:
        self._inner, self._target = inner, target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def directory(self, path: bytes) -> None:
        self._inner.directory(path)
        self._inner.flush()
        made = self._target / os.fsdecode(path)
        made.rename(made.with_name("moved away"))
        made.symlink_to("../outside")


def test_a_directory_swapped_for_a_link_while_we_restore(target: Path, way: str) -> None:
    evil = Evil()
    reader = evil.reader(evil.directory("a", evil.file("planted"), evil.file("precious", b"gone")), evil.file("z"))
    with placer_on(way, os.fsencode(target)) as placer:
        stats = restore(reader, Meddler(placer, target))
    assert "a/planted" in problems(stats)
    assert "a" in problems(stats), "its metadata would have gone to the link's target"
    assert (target / "z").read_bytes() == b"x"


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 1 << 60},
        {"size": (1 << 63) - 1},
        {"size": 1 << 63},
        {"size": (1 << 64) - 1},
        {"size": 0, "inode": 1},
        {"content": ["00" * 32]},
        {"content": None},
        {"uid": 2**32 - 1, "gid": 2**32 - 1, "mode": 0o644 | 1 << 23},
        {"mtime": "0000-01-01T00:00:00Z"},
        {"mtime": "9999-12-31T23:59:59.999999999-23:59"},
        {"extended_attributes": [{"name": "user.\0x", "value": "eA=="}]},
        {"extended_attributes": [{"name": "", "value": "eA=="}]},
        {"extended_attributes": [{"name": "user." + "n" * 300, "value": "eA=="}]},
        {"extended_attributes": [{"name": "user.big", "value": "eHh4" * 30_000}]},
        {"extended_attributes": [{"name": "security.capability", "value": "AAAAAgAgAAAAAAAAAAAAAAAAAAA="}]},
    ],
    ids=lambda fields: ",".join(f"{key}={str(value)[:24]}" for key, value in fields.items()),
)
def test_files_that_cannot_be(target: Path, way: str, fields: dict[str, Any]) -> None:
    evil = Evil()
    stats = restored(evil.reader(evil.file("bad", **fields), evil.file("good")), target, way)
    assert (target / "good").read_bytes() == b"x"
    if (target / "bad").exists():
        status = (target / "bad").stat()
        assert status.st_size <= 1
        assert not status.st_mode & stat.S_ISUID, "setuid for whoever restores, not for whom it was"
    else:
        assert problems(stats) == ["bad"]


@pytest.mark.parametrize("linktarget", ["", "nul\0inside", "t" * 5000])
def test_links_that_cannot_be(target: Path, way: str, linktarget: str) -> None:
    evil = Evil()
    stats = restored(evil.reader(evil.link("bad", linktarget), evil.file("good")), target, way)
    assert problems(stats) == ["bad"]
    assert names(target) == {"good"}


@pytest.mark.parametrize("device", [0x103, 2**63, 2**64 - 1])
@pytest.mark.parametrize("kind", ["dev", "chardev", "fifo"])
def test_devices(target: Path, way: str, kind: str, device: int) -> None:
    """As root they are made, that is what a restore of a system needs; without, each is a line. Absurd ones are refused."""
    evil = Evil()
    node = {"name": "null", "type": kind, "mode": 1 << 26 | 0o666, "mtime": "2026-11-22T00:00:00Z", "device": device}
    stats = restored(evil.reader(node, evil.file("good")), target, way)
    assert (target / "good").read_bytes() == b"x"
    assert problems(stats) in ([], ["null"])
    assert ROOT or kind == "fifo" or not (target / "null").exists()


def test_a_name_longer_than_any_file_system_takes(target: Path, way: str) -> None:
    evil = Evil()
    stats = restored(evil.reader(evil.file("n" * 300), evil.directory("d" * 300, evil.file("x"))), target, way)
    assert {"d" * 300, "n" * 300} <= set(problems(stats))
    assert names(target) == set()


def test_a_tree_that_changes_between_plan_and_restore(target: Path) -> None:
    """It cannot: a tree is named by its hash. What a store hands out instead is damage, and nothing is made of it."""
    evil = Evil()
    reader = evil.reader(evil.directory("d", evil.file("f")))
    plan = plan_restore(reader)
    assert (plan.files, plan.directories) == (1, 1)
    reader.close()
    other = evil.reader(evil.link("d", "../outside"))
    repo = evil.repo
    (place,) = repo.locate("tree", reader.snapshot.tree)
    (swapped,) = repo.locate("tree", other.snapshot.tree)
    with pytest.raises(Exception, match=r"does not match its id|seal is broken"):
        repo.open_blob(place.blob, repo.store.get(f"data/{swapped.pack.hex()[:2]}/{swapped.pack.hex()}"))


def test_a_placer_refuses_to_leave_by_itself(target: Path, way: str) -> None:
    """The last line of defence, in case a reader ever lets a name through."""
    for path in (b"../outside/x", b"/tmp/backupctl-was-here", b"a/../../outside/x", b"x\0y", b".."):
        for act in ("file", "directory", "symlink", "hardlink"):
            with placer_on(way, os.fsencode(target)) as placer, pytest.raises(PlacingError):
                if act == "file":
                    placer.file(path, 1)
                elif act == "directory":
                    placer.directory(path)
                elif act == "symlink":
                    placer.symlink(path, b"x")
                else:
                    placer.hardlink(path, b"x")
                placer.flush()
    assert not Path("/tmp/backupctl-was-here").exists()
