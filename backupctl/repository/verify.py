"""Compares a restored directory with the manifest, that is, with what the source held when it was read.

Both sides arrive in the same order and are joined as streams; only differences are kept. Without root some things can
not be restored (owners, devices, privileged attributes) and are not compared; what should be compared and could not be
is `unchecked`, never silently equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from backupctl.errors import CouldNotRunError
from backupctl.hosts.protocol import FileInfo, Host
from backupctl.repository.format.names import display_name
from backupctl.repository.manifest import ManifestEntry, ManifestReader, path_key, xattr_hashes

Aspect = Literal[
    "missing",
    "extra",
    "type",
    "mode",
    "owner",
    "mtime",
    "size",
    "content",
    "linktarget",
    "xattrs",
    "device",
    "hardlink",
]

_KEPT = 1000  # of each list; the counts go on
_READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    path: str  # relative to the compared directory, for people
    aspect: Aspect
    expected: str
    actual: str


@dataclass(slots=True)
class VerifyReport:
    """`entries` were in the manifest, `files` of them had their content compared, `bytes` were hashed for that.
    `differences` and `unchecked` (path and why) hold the first 1000 of each; the `…_count`s count all."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    difference_count: int = 0
    unchecked_count: int = 0
    differences: list[Difference] = field(default_factory=list)
    unchecked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Something was compared, and all of it was equal."""
        return self.entries > self.unchecked_count and not self.difference_count


def verify_tree(
    host: Host,
    root: bytes,
    manifest: ManifestReader,
    source: str,
    *,
    path: bytes = b"",
    progress: Callable[[int, int, bytes], None] | None = None,
) -> VerifyReport:
    """Compare the directory `root` on `host` with what `source` held in its directory `path` (b"": all of it).
    `progress` gets entries done, bytes done, current path.

    Raises CouldNotRunError when `root` cannot be looked at, DamageError when the manifest is bad."""
    run = _Verify(host, root.rstrip(b"/"), progress)
    run.run(_below(manifest.source(source), b"/".join(filter(None, [source.encode(), path.strip(b"/")])) + b"/"))
    return run.report


def verify_entries(host: Host, root: bytes, entries: Iterable[ManifestEntry]) -> VerifyReport:
    """Compare the directory `root` with exactly these: their paths are relative to it, in the order of `path_key`."""
    run = _Verify(host, root.rstrip(b"/"), None)
    run.run(iter(entries))
    return run.report


def _below(entries: Iterator[ManifestEntry], prefix: bytes) -> Iterator[ManifestEntry]:
    for entry in entries:
        if entry.path.startswith(prefix):
            entry.path = entry.path[len(prefix) :]
            yield entry


class _Verify:
    def __init__(self, host: Host, root: bytes, progress: Callable[[int, int, bytes], None] | None) -> None:
        self._host = host
        self._root = root
        self._progress = progress
        self._is_root = host.facts().uid == 0
        self._inodes: dict[int, tuple[int, int]] = {}  # hard-link group → where its first file was found
        self._blind: bytes | None = None  # a directory we may not look into
        self.report = VerifyReport()

    def run(self, expected: Iterator[ManifestEntry]) -> None:
        actual = self._scan()
        entry, info = next(expected, None), next(actual, None)
        while entry is not None or info is not None:
            side = self._compare_keys(entry, info)
            if side <= 0 and entry is not None:
                self.report.entries += 1
                if side < 0 or info is None:
                    self._missing(entry)
                else:
                    self._compare(entry, info)
                if self._progress is not None:
                    self._progress(self.report.entries, self.report.bytes, entry.path)
            elif info is not None:
                self._differ(self._relative(info), "extra", "nothing", info.kind)
            entry = next(expected, None) if side <= 0 else entry
            info = next(actual, None) if side >= 0 else info

    def _scan(self) -> Iterator[FileInfo]:
        found = self._host.scan(self._root or b"/")
        top = next(found, None)
        if top is None or top.error or top.kind != "dir":
            why = top.error if top is not None and top.error else "it is no directory"
            raise CouldNotRunError(
                f"{display_name(self._root)} on host {self._host.name} cannot be compared: {why}",
                next_step="restore into it first, or name the directory that was restored",
            )
        yield from found

    def _relative(self, info: FileInfo) -> bytes:
        return info.path[len(self._root) + 1 :]

    def _compare_keys(self, entry: ManifestEntry | None, info: FileInfo | None) -> int:
        """Negative: only expected; positive: only there; 0: the same path."""
        if entry is None:
            return 1
        if info is None:
            return -1
        relative = self._relative(info)
        if entry.path == relative:
            return 0
        return -1 if path_key(entry.path) < path_key(relative) else 1

    def _missing(self, entry: ManifestEntry) -> None:
        if self._blind is not None and entry.path.startswith(self._blind + b"/"):
            self._skip(entry.path, "its directory may not be read without root")
        elif entry.type in ("dev", "chardev") and not self._is_root:
            self._skip(entry.path, "devices cannot be made without root")
        else:
            self._differ(entry.path, "missing", entry.type, "nothing")

    def _compare(self, entry: ManifestEntry, info: FileInfo) -> None:
        path = entry.path
        if entry.type != info.kind:
            self._differ(path, "type", entry.type, info.error or info.kind)
            return
        if info.error:
            self._skip(path, info.error)
            self._blind = path if info.kind == "dir" else self._blind
            return
        owners = [f"{entry.uid}:{entry.gid}", f"{info.uid}:{info.gid}"]
        if self._is_root:
            self._same(path, "owner", *owners)
        if entry.type != "symlink":
            # Setuid and setgid for another owner than the source's would be a hole: a restore leaves them out.
            mask = 0o7777 if self._is_root or owners[0] == owners[1] else 0o1777
            self._same(path, "mode", f"{entry.mode & mask:04o}", f"{info.mode & mask:04o}")
        self._same(path, "mtime", f"{entry.mtime_ns} ns", f"{info.mtime_ns} ns")
        self._same(path, "linktarget", display_name(entry.linktarget), display_name(info.linktarget))
        if entry.type in ("dev", "chardev"):
            self._same(path, "device", str(entry.device), str(info.device))
        owner_set, privileged = xattr_hashes(info.xattrs)
        self._same(path, "xattrs", entry.xattrs or "none", owner_set or "none")
        if self._is_root:
            self._same(path, "xattrs", entry.privileged_xattrs or "none", privileged or "none")
        if entry.type == "file":
            self._compare_content(entry, info)

    def _compare_content(self, entry: ManifestEntry, info: FileInfo) -> None:
        where = (info.device_id, info.inode)
        first = self._inodes.get(entry.link_group)
        if first == where:
            return  # the very file whose content was compared under its first name
        if first is not None:
            self._differ(entry.path, "hardlink", f"a link of group {entry.link_group}", "a file of its own")
        elif entry.link_group:
            self._inodes[entry.link_group] = where
        if entry.size != info.size:
            self._differ(entry.path, "size", str(entry.size), str(info.size))
            return
        try:
            actual = self._hash(info.path)
        except OSError as error:
            if isinstance(error, PermissionError) and not self._is_root:
                self._skip(entry.path, error.strerror or str(error))
            else:
                self._differ(entry.path, "content", entry.sha256, error.strerror or str(error))
            return
        self.report.files += 1
        self._same(entry.path, "content", entry.sha256, actual)

    def _hash(self, path: bytes) -> str:
        digest = sha256()
        with self._host.open_read(path) as stream:
            while data := stream.read(_READ_SIZE):
                digest.update(data)
                self.report.bytes += len(data)
        return digest.hexdigest()

    def _same(self, path: bytes, aspect: Aspect, expected: str, actual: str) -> None:
        if expected != actual:
            self._differ(path, aspect, expected, actual)

    def _differ(self, path: bytes, aspect: Aspect, expected: str, actual: str) -> None:
        self.report.difference_count += 1
        if len(self.report.differences) < _KEPT:
            self.report.differences.append(Difference(display_name(path), aspect, expected, actual))

    def _skip(self, path: bytes, why: str) -> None:
        self.report.unchecked_count += 1
        if len(self.report.unchecked) < _KEPT:
            self.report.unchecked.append((display_name(path), why))
