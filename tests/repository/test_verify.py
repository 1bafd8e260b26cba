"""Every planted difference is reported, by its path and what differs; an untouched tree has none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backupctl.clock import SystemClock
from backupctl.errors import CouldNotRunError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import FileInfo, HostFacts, ReadFile
from backupctl.repository.manifest import ManifestReader
from backupctl.repository.verify import VerifyReport, verify_tree
from backupctl.sources.files import FilesOptions, FilesSource

from .helpers import backup, new_repository

HOST = LocalHost("local")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that is its own restored copy: what is changed in it after the backup must be found."""
    root = tmp_path / "tree"
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_bytes(b"content")
    (root / "d/g").write_bytes(b"linked")
    os.link(root / "d/g", root / "d/h")
    (root / "d/e/x").write_bytes(b"")
    (root / "d.txt").write_bytes(b"sorts between d and d/f by plain text")
    (root / "l").symlink_to("d/f")
    os.mkfifo(root / "p")
    for path in (root / "d/e", root / "d", root):
        os.utime(path, ns=(5, 5))
    return root


@pytest.fixture
def manifest(tree: Path) -> ManifestReader:
    session = FilesSource("s", FilesOptions(paths=[str(tree)])).open(HOST, SystemClock())
    return backup(new_repository(), {"s": session.entries()})[2][1]


def compare(tree: Path, manifest: ManifestReader, *, below: str = "") -> VerifyReport:
    path = os.fsencode(tree)[1:] + os.fsencode(below)
    return verify_tree(HOST, os.fsencode(str(tree) + below), manifest, "s", path=path)


def test_an_untouched_tree_is_equal(tree: Path, manifest: ManifestReader) -> None:
    seen: list[tuple[int, int, bytes]] = []
    path = os.fsencode(tree)[1:]
    report = verify_tree(HOST, os.fsencode(tree), manifest, "s", path=path, progress=lambda *a: seen.append(a))
    assert (report.differences, report.unchecked, report.equal) == ([], [], True)
    assert (report.entries, report.files, report.bytes) == (9, 4, 50)
    assert seen[-1] == (9, 50, b"p")
    assert compare(tree, manifest, below="/d").entries == 5
    assert compare(tree, manifest, below="/d").equal


def rewrite(path: Path, content: bytes) -> None:
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


def replace_link(path: Path, target: str) -> None:
    status = path.lstat()
    path.unlink()
    path.symlink_to(target)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)


def unlink_hard(path: Path) -> None:
    status = path.stat()
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    path.chmod(status.st_mode & 0o7777)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: rewrite(root / "d/f", b"CONTENT"), {("d/f", "content")}),
        (lambda root: rewrite(root / "d/f", b"longer content"), {("d/f", "size")}),
        (lambda root: (root / "d/f").chmod(0o4711), {("d/f", "mode")}),
        (lambda root: os.utime(root / "d/f", ns=(7, 7)), {("d/f", "mtime")}),
        (lambda root: os.utime(root / "d/e", ns=(7, 7)), {("d/e", "mtime")}),
        (lambda root: replace_link(root / "l", "d/g"), {("l", "linktarget")}),
        (lambda root: unlink_hard(root / "d/h"), {("d/h", "hardlink")}),
        (lambda root: (root / "d/f").unlink(), {("d/f", "missing")}),
        (lambda root: (root / "d/fa").write_bytes(b""), {("d/fa", "extra")}),
        (lambda root: (root / "d/e/x").unlink(), {("d/e/x", "missing")}),
        (lambda root: ((root / "p").unlink(), (root / "p").mkdir()), {("p", "type")}),
    ],
)
def test_every_planted_difference_is_found(
    tree: Path, manifest: ManifestReader, change: Callable[[Path], object], expected: set[tuple[str, str]]
) -> None:
    change(tree)
    report = compare(tree, manifest)
    found = {(d.path, d.aspect) for d in report.differences} - {("d", "mtime"), ("d/e", "mtime")}
    directories = {("d/e", "mtime")} & expected
    assert found | directories == expected
    assert not report.equal
    assert report.difference_count == len(report.differences)


def test_xattrs_and_owner(tree: Path, manifest: ManifestReader) -> None:
    expected = set()
    try:
        os.setxattr(tree / "d/f", b"user.planted", b"1")
        expected.add("xattrs")
    except OSError:
        pass
    if os.geteuid() == 0:
        os.chown(tree / "d/f", 4242, -1)
        expected.add("owner")
    assert {d.aspect for d in compare(tree, manifest).differences} == expected


def test_nothing_to_compare_is_never_equal(tree: Path, manifest: ManifestReader, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not verify_tree(HOST, os.fsencode(empty), manifest, "other").equal
    with pytest.raises(CouldNotRunError, match="cannot be compared"):
        verify_tree(HOST, os.fsencode(tmp_path / "nope"), manifest, "s")
    with pytest.raises(CouldNotRunError, match="no directory"):
        verify_tree(HOST, os.fsencode(tree / "d/f"), manifest, "s")


def test_many_differences_are_counted_but_not_all_kept(tree: Path, manifest: ManifestReader) -> None:
    for number in range(1500):
        (tree / f"e{number:04d}").touch()
    report = compare(tree, manifest)
    assert (report.difference_count, len(report.differences)) == (1500, 1000)


class Unprivileged(LocalHost):
    """A host whose user may not see everything, whoever runs the tests."""

    def facts(self) -> HostFacts:
        return replace(super().facts(), uid=1000)

    def scan(self, root: bytes, *, exclude: Sequence[str] = ()) -> Iterator[FileInfo]:
        for info in super().scan(root, exclude=exclude):
            if info.path.endswith(b"/d/e"):
                yield replace(info, error="Permission denied")
            elif not info.path.endswith(b"/d/e/x"):
                yield info

    def open_read(self, path: bytes) -> ReadFile:
        if path.endswith(b"/f"):
            raise PermissionError(13, "Permission denied")
        return super().open_read(path)


def test_what_may_not_be_looked_at_is_said_and_not_called_equal(tree: Path, manifest: ManifestReader) -> None:
    path = os.fsencode(tree)
    report = verify_tree(Unprivileged("local"), path, manifest, "s", path=path[1:])
    assert report.differences == []
    assert [name for name, _ in report.unchecked] == ["d/e", "d/e/x", "d/f"]
    assert report.unchecked_count == 3
    assert report.files == 2


def test_content_that_cannot_be_read_as_root_is_a_difference(tree: Path, manifest: ManifestReader) -> None:
    class Broken(LocalHost):
        def open_read(self, path: bytes) -> ReadFile:
            raise OSError(5, "Input/output error")

    path = os.fsencode(tree)
    report = verify_tree(Broken("local"), path, manifest, "s", path=path[1:])
    assert {(d.aspect, d.actual) for d in report.differences} == {("content", "Input/output error")}
