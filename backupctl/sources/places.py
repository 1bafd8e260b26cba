"""Where a source of files is read: which file system each place is on, and what weighs how much there.

For whoever reads a part of a source while others read the rest: all must give one file system the same number, and none may
come to what a walk from the top would not come to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from backupctl.errors import DamageError
from backupctl.hosts import posix
from backupctl.hosts.protocol import FileInfo, Host
from backupctl.repository.devices import mount_number
from backupctl.repository.format import FormatError
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.stretches import Weight, weigh_scan, weigh_tree


@dataclass(frozen=True, slots=True)
class Place:
    kind: str
    device: int  # st_dev
    number: int  # what stands for it


class Places:
    """Below `roots`, which come in the order of a walk. `inside` says where a path is read."""

    def __init__(
        self, host: Host, source: str, roots: Sequence[bytes], exclude: Sequence[str], inside: Callable[[bytes], bytes]
    ) -> None:
        self._host, self._source, self._inside = host, source, inside
        self._excludes = posix.Excludes(exclude)
        self._reached: dict[bytes, Place | None] = {}
        self.numbers = self._number(roots)
        """By root: of a file system, the ordinal in which the roots show it."""

    def _number(self, roots: Iterable[bytes]) -> dict[bytes, int]:
        devices: dict[int, int] = {}
        numbers = {}
        for root in roots:
            info = None
            with suppress(OSError):  # reading it says why
                info = self._host.stat(self._inside(root))
            ordinal = devices.setdefault(info.device_id, len(devices)) if info is not None else 0
            numbers[root] = mount_number(b"%d" % ordinal, self._source)
        return numbers

    def root_of(self, path: bytes) -> bytes:
        for root in self.numbers:
            if path == root or path.startswith(root.rstrip(b"/") + b"/"):
                return root
        raise ValueError(f"{path!r} lies below none of the paths of source {self._source}")

    def reach(self, path: bytes) -> Place | None:
        """What a walk would come to there; None where it would come to nothing: it is gone, left out, or below a link. Raises
        OSError."""
        if path not in self._reached:
            self._reached[path] = self._look(path)
        return self._reached[path]

    def _look(self, path: bytes) -> Place | None:
        above = None
        if path not in self.numbers:
            parent, _, name = path.rpartition(b"/")
            above = self.reach(parent or b"/")
            if above is None or above.kind != "dir" or self._excludes.match(path, name):
                return None
        info = self._host.stat(self._inside(path))
        return self.place(path, info, above) if info is not None else None

    def place(self, path: bytes, info: FileInfo, above: Place | None) -> Place:
        """`above`: the directory that it lies in; None for a root."""
        if above is None:
            number = self.numbers[path]
        elif info.device_id == above.device:
            number = above.number
        else:
            number = mount_number(path, self._source)
        return Place(info.kind, info.device_id, number)


def weigh(
    root: bytes,
    load: Callable[[bytes], bytes],
    tree: bytes | None,
    scan: Callable[[], Iterator[FileInfo]],
    *,
    least: int,
) -> Weight | None:
    """What lies below `root`: by `tree`, what a snapshot has of the whole source, as far as it has that; else by `scan`, with
    paths as they are there. None where there is nothing to divide."""
    try:
        for name in filter(None, root.split(b"/")):
            nodes = iterate_tree(load(tree)) if tree is not None else iter(())
            tree = next((node.subtree for node in nodes if node.name == name), None)
        if tree is not None:
            return weigh_tree(load, tree, root, least=least)
    except (DamageError, FormatError):
        pass  # it only serves to spare looking
    return weigh_scan(scan(), least=least)
