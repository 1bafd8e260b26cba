"""What is in files: read, cut into blobs and saved; and which links of a file were met before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from backupctl.clock import Clock
from backupctl.errors import SourceError, UnreachableError
from backupctl.hosts.protocol import ByteSource
from backupctl.repository.blob_saver import BlobSaver
from backupctl.repository.chunker import Chunker
from backupctl.repository.digest_beside import DigestBeside
from backupctl.repository.entry import Entry, ProblemKind
from backupctl.repository.format.node import Node
from backupctl.repository.format.times import datetime_ns
from backupctl.repository.fresh import is_fresh
from backupctl.repository.guarded import GuardedStream, error_text
from backupctl.repository.looks import Look


@dataclass(slots=True)
class Content:
    """What reading a file gave. `sha256` of the whole file when it has several blobs; `remaining`: how many of its links are
    still to come."""

    blobs: list[bytes]
    size: int
    sha256: bytes
    node: Node
    fresh: bool = False
    remaining: int = 0
    look: Look | None = None  # of what was read, until it is counted


@dataclass(frozen=True, slots=True)
class Arrived:
    """What reading a file of a stream gave, kept until its place in the tree has come."""

    blobs: bytes  # ids, one after the other: a fifth of what a list of them takes
    size: int
    sha256: bytes

    def ids(self) -> list[bytes]:
        return [self.blobs[at : at + 32] for at in range(0, len(self.blobs), 32)]


class ContentReader:
    """Reads what entries open. `problem` is told what went wrong with a file, by its path in the source; `count` how many
    bytes were read, and takes them back, as a negative number, when the file counts for nothing after all. `goes_on` is
    called within a file of several blobs, now and then."""

    def __init__(
        self,
        saver: BlobSaver,
        chunker: Chunker,
        clock: Clock,
        problem: Callable[[bytes, ProblemKind, str], None],
        count: Callable[[int], None],
        goes_on: Callable[[bytes], None],
    ) -> None:
        self._saver, self._chunker, self._clock = saver, chunker, clock
        self._problem, self._count, self._goes_on = problem, count, goes_on

    def read(self, entry: Entry, path: bytes) -> Content | None:
        """None when it could not be read, which was told. `path` has the source's name. Raises UnreachableError when the
        host is gone, ValueError for an entry that nobody can open: a bug in the source."""
        if entry.open is None:
            raise ValueError(f"the file {entry.path!r} was yielded without a way to open it")
        opened_ns = datetime_ns(self._clock.now())
        try:
            stream = GuardedStream(entry.open())
        except FileNotFoundError as error:
            self._problem(entry.path, "vanished", error_text(error))
            return None
        except OSError as error:
            self._problem(entry.path, "unreadable", error_text(error))
            return None
        except SourceError as error:
            self._problem(entry.path, "failed", error_text(error))
            return None
        content = Content([], 0, b"", entry.node)
        try:
            self._read_stream(stream, entry, content, path)
            changed = stream.changed(entry.changed) if entry.changed else False
            stream.close()
        except (SourceError, UnreachableError) as error:
            self._count(-content.size)
            if isinstance(error, UnreachableError):
                raise
            self._problem(entry.path, "failed", error_text(error))
            return None
        finally:
            with suppress(SourceError, UnreachableError):  # the first failure is the one to report
                stream.close()
        if changed:
            self._problem(entry.path, "changed", "the file changed while it was read; what was read is stored")
        content.fresh = entry.stable and is_fresh(entry.node.ctime_ns, opened_ns)
        return content

    def _read_stream(self, stream: ByteSource, entry: Entry, content: Content, path: bytes) -> None:
        look = content.look = Look()
        first = b""
        with DigestBeside() as digest:
            for piece in self._chunker.pieces(stream, entry.chunking):
                ids = self._saver.save_all("data", piece.data, piece.sizes)
                content.size += len(piece.data)
                self._count(len(piece.data))
                for chunk, blob_id in zip(piece.chunks(), ids, strict=True):
                    look.add(chunk, blob_id[0])
                several = len(content.blobs) + len(ids) > 1
                if len(content.blobs) == 1:
                    digest.update(first)
                    first = b""
                content.blobs += ids
                if not several:
                    first = piece.data
                    continue
                digest.update(piece.data)
                self._goes_on(path)
            if len(content.blobs) > 1:  # the id of an only blob is the hash of the whole file already
                content.sha256 = digest.digest()
        if entry.passed is not None:
            entry.passed(content.size, content.sha256 or b"".join(content.blobs) or sha256().digest())


class Links:
    """Files with several links, from their first to their last."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], Content] = {}

    def take(self, node: Node) -> Content | None:
        """What an earlier link of the same file gave, when the file is still the same."""
        content = self._found.get((node.device_id, node.inode)) if node.links > 1 else None
        if content is None or (node.mtime_ns, node.ctime_ns) != (content.node.mtime_ns, content.node.ctime_ns):
            return None
        return content

    def met(self, node: Node, content: Content) -> None:
        """One more link of a file with this content; after the last it is forgotten."""
        if node.links <= 1 or not node.inode:
            return
        key = (node.device_id, node.inode)
        if self._found.get(key) is not content:
            content.remaining = node.links
            self._found[key] = content
        content.remaining -= 1
        if content.remaining <= 0:
            del self._found[key]
