"""Files as a source: what the writer gets to see, and that nothing is left out silently."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.clock import FakeClock
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Host
from backupctl.repository.entry import Entry
from backupctl.sources.files import FilesOptions, FilesSource
from backupctl.sources.protocol import Source

CLOCK = FakeClock(datetime(2026, 11, 22, 3, 0, tzinfo=UTC))


@pytest.fixture(params=["local", "ssh"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    yield LocalHost("web1") if request.param == "local" else request.getfixturevalue("ssh_host")


def source(*paths: Path | str, exclude: tuple[str, ...] = ()) -> FilesSource:
    return FilesSource("uploads", FilesOptions(paths=[str(path) for path in paths], exclude=list(exclude)))


def entries(host: Host, of: Source) -> list[Entry]:
    with of.open(host, CLOCK) as session:
        return list(session.entries())


def content(entry: Entry) -> bytes:
    assert entry.open is not None
    stream = entry.open()
    try:
        return stream.read()
    finally:
        stream.close()


def inside(path: Path) -> bytes:
    return os.fsencode(path).lstrip(b"/")


def test_everything_below_and_the_directories_above(host: Host, tmp_path: Path) -> None:
    www = tmp_path / "www"
    (www / "deep").mkdir(parents=True)
    (www / "deep" / "a.html").write_bytes(b"hello")
    (www / "to nowhere").symlink_to("nowhere")
    os.mkfifo(www / "pipe")
    os.link(www / "deep" / "a.html", www / "same")
    tmp_path.chmod(0o750)
    found = entries(host, source(www))
    paths = [entry.path for entry in found]
    parts = inside(www).split(b"/")
    parents = [b"/".join(parts[:depth]) for depth in range(1, len(parts))]
    below = [b"", b"/deep", b"/deep/a.html", b"/pipe", b"/same", b"/to nowhere"]
    assert paths == parents + [inside(www) + name for name in below]
    by_path = {entry.path: entry for entry in found}
    assert by_path[inside(tmp_path)].node.type == "dir"
    assert by_path[inside(tmp_path)].node.mode == 0o750
    page = by_path[inside(www / "deep" / "a.html")]
    assert (page.node.name, page.node.type, page.node.size, page.stable) == (b"a.html", "file", 5, True)
    assert content(page) == b"hello"
    assert (page.node.links, page.node.inode) == (2, by_path[inside(www / "same")].node.inode)
    assert by_path[inside(www / "to nowhere")].node.linktarget == b"nowhere"
    assert by_path[inside(www / "pipe")].open is None
    assert not any(entry.error for entry in found)


def test_several_paths_come_in_the_order_of_directories(host: Host, tmp_path: Path) -> None:
    for name in ("a", "a-b", "a/x", "b"):
        (tmp_path / name).mkdir()
    found = entries(host, source(tmp_path / "b", tmp_path / "a-b", tmp_path / "a" / "x"))
    paths = [entry.path.split(b"/") for entry in found]
    assert paths == sorted(paths)
    assert len({entry.path for entry in found}) == len(found)
    assert [path[-1] for path in paths[-4:]] == [b"a", b"x", b"a-b", b"b"]


def test_what_is_missing_is_an_error_and_not_an_omission(host: Host, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"x")
    found = entries(host, source(tmp_path / "here", tmp_path / "gone"))
    assert {entry.path: bool(entry.error) for entry in found if entry.node.type == "file"} == {
        inside(tmp_path / "gone"): True,
        inside(tmp_path / "here"): False,
    }


def test_a_file_that_vanishes_or_turns_into_something_else_raises(host: Host, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"x")
    *_, a, b, c = entries(host, source(tmp_path))
    (tmp_path / "a").unlink()
    (tmp_path / "b").unlink()
    (tmp_path / "b").symlink_to("/etc/passwd")
    (tmp_path / "c").unlink()
    os.mkfifo(tmp_path / "c")
    for entry, error in ((a, FileNotFoundError), (b, OSError), (c, OSError)):
        with pytest.raises(error):
            content(entry)


def test_a_file_that_changed_since_it_was_listed_tells_its_new_metadata(host: Host, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one")
    *_, entry = entries(host, source(tmp_path))
    (tmp_path / "log").write_bytes(b"one two")
    os.utime(tmp_path / "log", ns=(5, 5))
    assert content(entry) == b"one two"
    assert (entry.node.size, entry.node.mtime_ns) == (7, 5)


def test_a_file_that_changes_while_it_is_read(host: Host, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 5_000_000)
    *_, entry = entries(host, source(tmp_path))
    assert entry.open is not None
    assert entry.changed is not None
    stream = entry.open()
    stream.read(10)
    with (tmp_path / "log").open("r+b") as other:
        other.write(b"y")
    while stream.read(1 << 20):
        pass
    assert entry.changed(stream)
    stream.close()


def test_excluded_names(tmp_path: Path) -> None:
    for name in ("keep", "drop.tmp", "cache/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = entries(LocalHost(), source(tmp_path, exclude=("*.tmp", f"{tmp_path}/cache")))
    assert [entry.node.name for entry in found][-1] == b"keep"
    assert not {b"drop.tmp", b"cache", b"x"} & {entry.node.name for entry in found}


def test_a_single_file_and_a_link_above_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    found = entries(LocalHost(), source(tmp_path / "link" / "file"))
    assert [(entry.node.name, entry.node.type) for entry in found[-2:]] == [(b"link", "dir"), (b"file", "file")]


def test_the_fingerprint_says_what_was_walked(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").symlink_to("a")
    of = source(tmp_path, tmp_path.parent / "gone")
    with of.open(host, CLOCK) as session:
        list(session.entries())
        fingerprint = session.fingerprint()
    assert fingerprint["kind"] == "files"
    assert fingerprint["time"] == "2026-11-22T03:00:00Z"
    assert fingerprint["entries"] == {"dir": 1, "file": 1, "symlink": 1, "unreadable": 1}
    assert fingerprint["bytes"] == 5
    assert fingerprint["host"]["hostname"] == os.uname().nodename
    assert fingerprint["roots"] == [str(tmp_path), str(tmp_path.parent / "gone")]


def test_preflight(host: Host, tmp_path: Path) -> None:
    for name in ("full", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "link").symlink_to("full")
    good = source(tmp_path / "full", exclude=("*.tmp", "**/cache", f"{tmp_path}/full/x", f"{tmp_path}/*/x"))
    assert good.preflight(host) == []
    of = source(tmp_path / "missing", tmp_path / "empty", tmp_path / "link", exclude=("relative/x", "/elsewhere/*"))
    found = {finding.severity: finding.message for finding in of.preflight(host)}
    severities = [finding.severity for finding in of.preflight(host)]
    assert severities == ["error", "warning", "warning", "info", "info"]
    assert "missing does not exist on host web1" in found["error"]
    assert all(finding.next_step for finding in of.preflight(host))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    (tmp_path / "secret").touch(mode=0)
    *_, locked, secret = entries(LocalHost(), source(tmp_path))
    assert locked.error == "Permission denied"
    with pytest.raises(PermissionError):
        content(secret)
    assert {finding.severity for finding in source(tmp_path / "locked").preflight(LocalHost())} == {"error"}
    (tmp_path / "locked").chmod(0o700)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["relative"], "is not an absolute path"),
        (["/a/../b"], "is not an absolute path"),
        (["/a", "/a/"], "is named twice"),
        (["/a/b", "/a"], "'/a/b' lies inside '/a'"),
        (["/", "/a"], "lies inside '/'"),
        (["/a", "/a-b", "/a/b"], "'/a/b' lies inside '/a'"),
        ([], "at least 1"),
    ],
)
def test_paths_that_make_no_sense(paths: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FilesOptions(paths=paths)


def test_options_are_closed() -> None:
    with pytest.raises(ValidationError):
        FilesOptions.model_validate({"paths": ["/a"], "excludes": []})
    with pytest.raises(ValidationError):
        FilesOptions.model_validate({"paths": ["/a"], "exclude": ["/"]})
