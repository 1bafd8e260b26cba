"""Directories and files of a host, with everything lstat and the extended attributes tell about them.

`/srv/www` of the host appears in the snapshot as `<source>/srv/www`; the directories above it come along with their own
metadata. Several paths are merged in byte order. What cannot be read is an entry with `error`, never an omission.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Self, cast

from pydantic import Field, field_validator, model_validator

from backupctl.clock import Clock, iso
from backupctl.hosts import posix
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import ByteSource, FileInfo, Host, ReadFile
from backupctl.repository.entry import Entry, LocalTree
from backupctl.repository.format.node import Node
from backupctl.repository.stretches import Weight, pattern_of
from backupctl.sources.file_system_snapshot import EmptyDirectories, SnapshotOptions, held, left_out
from backupctl.sources.options import SourceOptions
from backupctl.sources.places import Place, Places, weigh
from backupctl.sources.protocol import Fingerprint, PreflightFinding


class FilesOptions(SourceOptions):
    paths: list[str] = Field(min_length=1, description="absolute paths of directories or files")
    exclude: list[str] = Field(
        default_factory=list,
        description="patterns to leave out: without `/` a name at any depth, with `/` the whole path; "
        "`*` stops at `/`, `**` does not",
    )

    snapshot: SnapshotOptions | None = Field(
        default=None, description="read from a snapshot of the file system, which commands make before and remove after"
    )
    split: int | None = Field(
        default=None,
        ge=2,
        le=64,
        description="how many workers of a fleet may read it at once, each some of its directories",
    )

    @field_validator("paths")
    @classmethod
    def _separate_absolute_paths(cls, paths: list[str]) -> list[str]:
        clean = []
        for path in paths:
            if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
                raise ValueError(f"{path!r} is not an absolute path without `..`")
            clean.append("/" + posixpath.normpath(path).lstrip("/"))
        for above, below in pairwise(sorted(clean, key=lambda path: path.rstrip("/").split("/"))):
            if above == below:
                raise ValueError(f"{above!r} is named twice")
            if below.startswith(above.rstrip("/") + "/"):
                raise ValueError(f"{below!r} lies inside {above!r}: name only one of them")
        return clean

    @field_validator("exclude")
    @classmethod
    def _patterns(cls, patterns: list[str]) -> list[str]:
        if not all(pattern.strip("/") for pattern in patterns):
            raise ValueError("an empty pattern, or one that matches everything")
        return patterns

    @model_validator(mode="after")
    def _below_named_directories(self) -> Self:
        if self.split is not None and "/" in self.paths:
            raise ValueError("`split` divides what lies below named directories: name them instead of `/`")
        return self

    @model_validator(mode="after")
    def _in_the_snapshot(self) -> Self:
        if self.snapshot is None:
            return self
        for path in self.paths:
            if not self.snapshot.holds(path):
                raise ValueError(f"{path!r} is not in {self.snapshot.of!r}, which the snapshot is of")
        for pattern in self.exclude:
            if "/" in pattern.rstrip("/") and not pattern.startswith("**/") and not self.snapshot.holds(pattern):
                raise ValueError(f"with `snapshot`, {pattern!r} must start with {self.snapshot.of!r} or with `**/`")
        return self

    def places(self) -> list[str]:
        """What is read on the host: the paths, or where they are in the snapshot."""
        if self.snapshot is None:
            return self.paths
        return [os.fsdecode(self.snapshot.inside(os.fsencode(path))) for path in self.paths]


class FilesSource:
    kind = "files"

    def __init__(self, name: str, options: FilesOptions) -> None:
        self.name = name
        self.options = options

    def preflight(self, host: Host) -> list[PreflightFinding]:
        findings = [finding for path in self.options.paths for finding in self._look(host, path)]
        for pattern in self.options.exclude:
            if "/" in pattern and not any(_may_match(pattern, path) for path in self.options.paths):
                findings.append(
                    PreflightFinding(
                        "info",
                        f"exclude {pattern!r} lies outside every path and matches nothing",
                        "a pattern with `/` is compared with the whole path: start it with `/` or `**/`",
                    )
                )
        return findings

    def _look(self, host: Host, path: str) -> Iterator[PreflightFinding]:
        raw = path.encode("utf-8", "surrogateescape")
        fix = f"correct `paths` of source {self.name}, or the permissions on host {host.name}"
        try:
            info = host.stat(raw)
            if info is None:
                yield PreflightFinding("error", f"{path} does not exist on host {host.name}", fix)
            elif info.kind == "dir":
                if not host.list_directory(raw):
                    yield PreflightFinding("warning", f"{path} on host {host.name} is empty", "is it mounted?")
            elif info.kind == "file":
                host.open_read(raw).close()
            elif info.kind == "symlink":
                target = info.linktarget.decode("utf-8", "backslashreplace")
                message = f"{path} on host {host.name} is a symbolic link to {target}: only the link is saved"
                yield PreflightFinding("warning", message, "name the target instead")
        except OSError as error:
            yield PreflightFinding("error", f"{path} on host {host.name}: {error.strerror or error}", fix)

    def open(self, host: Host, clock: Clock) -> FilesSession:
        return FilesSession(self, host, clock)

    def open_part(self, host: Host, clock: Clock) -> FilesSession:
        """For who reads a part of what another session has opened: the snapshot of the file system, if any, is that one's."""
        return FilesSession(self, host, clock, held=True)


def _may_match(pattern: str, root: str) -> bool:
    """Whether the part of `pattern` before its first wildcard is compatible with something below `root`."""
    cut = min((pattern.index(sign) for sign in "*?[" if sign in pattern), default=len(pattern))
    inside = root.rstrip("/") + "/"
    fixed = pattern[:cut]
    return fixed.startswith(inside) or (cut < len(pattern) and inside.startswith(fixed))


class FilesSession:
    """The file system as it is while it is walked, where every file that moved meanwhile is reported; or its snapshot."""

    def __init__(self, source: FilesSource, host: Host, clock: Clock, *, held: bool = False) -> None:
        self._source = source
        self._host = host
        self._time = clock.now()
        self._counts: Counter[str] = Counter()
        self._bytes = 0
        self._snapshot = source.options.snapshot
        self._held = held
        self.split = source.options.split
        self._stack = ExitStack()
        self._elsewhere: frozenset[bytes] = frozenset()
        self.warnings: list[str] = []
        self._empty = EmptyDirectories()

    def entries(self) -> Iterator[Entry]:
        return self._entries(trees=False)

    def trees(self, elsewhere: Collection[bytes] = ()) -> Iterator[Entry]:
        """As `TreeSession.trees`, without the directories `elsewhere` and what they hold."""
        self._elsewhere = frozenset(elsewhere)
        return self._entries(trees=type(self._host) is LocalHost)

    def stretch(self, directories: Iterable[bytes]) -> Iterator[Entry]:
        """These directories alone, which lie below the paths or are such. What a walk would not come to, such as one that is
        gone, is left out without a word."""
        by_root: dict[bytes, list[bytes]] = {}
        for directory in sorted(directories, key=_parts):
            by_root.setdefault(self._places.root_of(directory), []).append(directory)
        local = type(self._host) is LocalHost and self._snapshot is None
        for root, some in by_root.items():
            yield from self._walked(root, some) if local else self._scanned(root, some)

    def _walked(self, root: bytes, directories: list[bytes]) -> Iterator[Entry]:
        """For the writer to walk; the way down to them is looked at here, and once more when they are opened."""
        for directory in directories:
            try:
                place = self._places.reach(directory)
            except OSError as error:
                yield Entry(directory.lstrip(b"/"), Node(b"", "dir", 0), error=error.strerror or str(error))
                continue
            local = self._local(directory, place.number) if place is not None else None
            if local is not None:
                yield local
            elif place is not None:  # no directory any more
                yield from self._scanned(root, [directory])

    def _scanned(self, root: bytes, directories: list[bytes]) -> Iterator[Entry]:
        """One scan from the root, whose way down follows no link."""
        above, wanted = posix.ways_to(root, directories), set(directories)
        ways: dict[bytes, Place] = {}
        only = [self._inside(directory) for directory in directories]
        for info in self._host.scan(self._inside(root), exclude=self._exclude(), only=only):
            path = self._outside(info.path)
            number = 0
            if path in above or path in wanted:
                way = self._places.place(path, info, ways.get(path.rpartition(b"/")[0] or b"/"))
                ways[path], number = way, way.number
            if path not in above or info.error:  # the rest has what is above
                yield self._met(path, info, number)

    def weights(self, load: Callable[[bytes], bytes], tree: bytes | None, *, least: int) -> list[Weight]:
        """What lies below the paths, to divide it: by the tree that the parent snapshot has of this source, as far as there is
        one, else by looking at everything."""
        found = (weigh(root, load, tree, partial(self._listed, root), least=least) for root in self._places.numbers)
        return [one for one in found if one is not None]

    def _listed(self, root: bytes) -> Iterator[FileInfo]:
        for info in self._host.scan(self._inside(root), exclude=self._exclude()):
            yield replace(info, path=self._outside(info.path))

    def inodes(self) -> list[int]:
        """Of the paths, in the order of the configuration: another worker that finds others reads another place."""
        found = (
            self._host.stat(self._inside(path.encode("utf-8", "surrogateescape")))
            for path in self._source.options.paths
        )
        return [info.inode if info is not None else 0 for info in found]

    @cached_property
    def _places(self) -> Places:
        options = self._source.options
        roots = sorted((path.encode("utf-8", "surrogateescape") for path in options.paths), key=_parts)
        return Places(self._host, self._source.name, roots, options.exclude, self._inside)

    def _entries(self, *, trees: bool) -> Iterator[Entry]:
        shown: set[bytes] = set()
        for root, number in self._places.numbers.items():
            parts = _parts(root)
            for depth in range(1, len(parts)):
                parent = b"/".join(parts[:depth])
                if parent not in shown:
                    shown.add(parent)
                    yield from self._parent(parent)
            if root in self._elsewhere:
                continue
            local = self._local(root, number) if trees and self._snapshot is None else None
            if local is not None:
                yield local
                continue
            for info in self._host.scan(self._inside(root), exclude=self._exclude()):
                path = self._outside(info.path)
                if self._snapshot is not None:
                    self._empty.met(info)
                if path != b"/" or info.error:  # that is the source's own directory
                    yield self._met(path, info, number if path == root else 0)

    def _met(self, path: bytes, info: FileInfo, number: int) -> Entry:
        self._counts["unreadable" if info.error else info.kind] += 1
        self._bytes += info.size
        return self._entry(path.lstrip(b"/"), info, number)

    def _inside(self, path: bytes) -> bytes:
        """Where `path` is read."""
        snapshot = self._snapshot
        held = snapshot is not None and snapshot.holds(path.decode("utf-8", "surrogateescape"))
        return snapshot.inside(path) if snapshot is not None and held else path

    def _outside(self, path: bytes) -> bytes:
        """What something that is read there stands for."""
        return self._snapshot.outside(path) if self._snapshot is not None else path

    def _exclude(self) -> list[str]:
        patterns = [*self._source.options.exclude, *map(pattern_of, self._elsewhere)]
        if self._snapshot is None:
            return patterns
        return [os.fsdecode(self._inside(os.fsencode(one))) if one.startswith("/") else one for one in patterns]

    def _local(self, root: bytes, number: int) -> Entry | None:
        """A directory of this machine, for the writer to walk. None for whatever has to be scanned."""
        path = root.strip(b"/")
        if not path:
            return None
        try:
            info = self._host.stat(root)
        except OSError:
            return None  # the scan says why
        if info is None or info.kind != "dir":
            return None
        self._counts["dir"] += 1
        return Entry(
            path,
            node_of(path.rpartition(b"/")[2], info),
            below=LocalTree(b"/" + path, tuple(self._exclude()), self.seen, self._places.root_of(root)),
            number=number,
        )

    def seen(self, kinds: Mapping[str, int], size: int) -> None:
        """What was met, by us or by somebody else who reads a part of this source."""
        self._counts.update(kinds)
        self._bytes += size

    def _parent(self, path: bytes) -> Iterator[Entry]:
        try:
            info = self._host.stat(self._inside(b"/" + path) + b"/.")  # what is behind it, should it be a symbolic link
        except OSError:
            return  # not ours to see: the writer makes a plain directory, and what lies below speaks for itself
        if info is not None and info.kind == "dir":
            yield self._entry(path, replace(info, device_id=0))  # no part of what is read

    def _entry(self, path: bytes, info: FileInfo, number: int = 0) -> Entry:
        node = node_of(path.rpartition(b"/")[2], info)
        if info.error:
            return Entry(path, node, error=info.error)
        if info.kind != "file":
            return Entry(path, node, number=number)

        def open_file() -> ByteSource:
            opened = self._host.open_read(info.path)
            _refresh(node, opened.info)
            return opened

        changed = lambda stream: cast(ReadFile, stream).changed()  # noqa: E731 - shorter
        return Entry(path, node, open=open_file, stable=True, changed=changed, number=number)

    def met(self) -> tuple[Mapping[str, int], int]:
        """What `seen` is told, of everything so far."""
        return self._counts, self._bytes

    def _look_for_what_is_left_out(self, snapshot: SnapshotOptions) -> None:
        if (path := left_out(self._host, snapshot, self._empty.all())) is not None:
            self.warnings.append(
                f"{os.fsdecode(path)} is another file system than {snapshot.of}: the snapshot does not hold what is in it, nor in "
                "any other such directory. Make it a source of its own, and exclude it here"
            )

    def fingerprint(self) -> Fingerprint:
        if self._snapshot is not None:
            self._look_for_what_is_left_out(self._snapshot)
        facts = self._host.facts()
        return {
            "kind": "files",
            "time": iso(self._time),
            "versions": {"system": facts.system, "kernel": facts.kernel},
            "host": {"name": self._host.name, "hostname": facts.hostname, "machine_id": facts.machine_id},
            "roots": list(self._source.options.paths),
            "exclude": list(self._source.options.exclude),
            "entries": {kind: number for kind, number in sorted(self._counts.items()) if number},
            "bytes": self._bytes,
        }

    def __enter__(self) -> FilesSession:
        if self._snapshot is not None and not self._held:
            self._stack.enter_context(held(self._host, self._source.name, self._snapshot, self.warnings.append))
        return self

    def __exit__(self, *exc: object) -> None:
        """Without a snapshot, nothing is held between entries."""
        self._stack.close()


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part]


def node_of(name: bytes, info: FileInfo) -> Node:
    """The metadata of `info` as a repository node, without content."""
    return Node(
        name=name,
        type=info.kind,
        mode=info.mode,
        mtime_ns=info.mtime_ns,
        atime_ns=info.mtime_ns,  # reading for a backup moves atime: the true one would make every tree new every night
        ctime_ns=info.ctime_ns,
        uid=info.uid,
        gid=info.gid,
        user=info.user,
        group=info.group,
        inode=info.inode,
        device_id=info.device_id,
        size=info.size,
        links=info.links,
        linktarget=info.linktarget,
        xattrs=list(info.xattrs),
        device=info.device,
    )


def _refresh(node: Node, info: FileInfo) -> None:
    """The metadata of the very file that was opened, should it have changed since the directory was listed."""
    node.mode, node.size, node.links = info.mode, info.size, info.links
    node.mtime_ns, node.atime_ns, node.ctime_ns = info.mtime_ns, info.mtime_ns, info.ctime_ns
    node.uid, node.gid, node.user, node.group = info.uid, info.gid, info.user, info.group
    node.inode, node.device_id = info.inode, info.device_id
