"""One file, one directory or a whole snapshot as a stream: to standard output or into a new file, never half a one."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backupctl.errors import DamageError, UsageError, UserError
from backupctl.operations.browse import open_reader
from backupctl.operations.context import Context
from backupctl.repository.archive import ArchiveStats, Write, write_archive
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.reader import SnapshotReader, clean
from backupctl.repository.tar import TarWriter
from backupctl.repository.zip import ZipWriter

ArchiveKind = Literal["tar", "zip"]
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Dump:
    """`archive` is None for the plain content of one file."""

    reader: SnapshotReader
    path: bytes
    node: Node
    archive: ArchiveKind | None


@contextmanager
def open_dump(context: Context, word: str, path: bytes, archive: ArchiveKind | None) -> Iterator[Dump]:
    """What `word` (a snapshot's id, or a job for its newest complete one) holds at `path`, as `archive`; without one a file
    as it is and a directory as tar. Raises NoSuchError; nothing is written yet."""
    with open_reader(context, word) as reader:
        path = clean(path)
        node = reader.node(path)
        if node.type not in ("file", "dir") and archive is None:
            target = f" to {display_name(node.linktarget)}" if node.type == "symlink" else ""
            raise UsageError(
                f"/{display_name(path)} is a {node.type}{target}: it has no content of its own",
                next_step="dump what it leads to, or with --archive tar the thing itself",
            )
        yield Dump(reader, path, node, archive or ("tar" if node.type == "dir" else None))


def write_dump(context: Context, dump: Dump, write: Write) -> ArchiveStats:
    """Raises DamageError, which names what could not be read: what was written until then is not to be used."""
    where = "/" + display_name(dump.path)
    context.audit("dump.started", dump.reader.snapshot.id, path=where, archive=dump.archive or "")
    total = dump.reader.size(dump.node) if dump.node.type == "file" else None

    def progress(done: int, path: str) -> None:
        context.reporter.progress("dumping", done, total, item=path)

    try:
        if dump.archive is None:
            stats = ArchiveStats(entries=1)
            with dump.reader.open_node(dump.path, dump.node) as stream:
                for blob in stream.blobs():
                    write(blob)
                    stats.bytes += len(blob)
                    progress(stats.bytes, where)
        else:
            writer = TarWriter(write) if dump.archive == "tar" else ZipWriter(write)
            stats = write_archive(dump.reader, dump.path, writer, progress=progress)
    except DamageError as error:
        what = f"the {dump.archive} archive" if dump.archive else "the file"
        raise DamageError(f"{error.message}; {what} ends there", name=error.name, next_step=error.next_step) from error
    context.audit("dump.finished", dump.reader.snapshot.id, path=where, bytes=stats.bytes, entries=stats.entries)
    return stats


@contextmanager
def new_file(path: Path) -> Iterator[Write]:
    """Write into `PATH.partial`, readable by its owner only, which becomes `path` when all went well. After a failure it
    stays as it is, under that name. Raises UsageError when one of both is there already."""
    partial = path.with_name(path.name + ".partial")
    if path.exists():
        raise UsageError(f"{path} is there already", next_step="name another file, or remove it")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{partial} is there already: a dump that was cut off, or one that is still running",
            next_step=f"when none is running: rm {partial}",
        ) from None
    try:
        with io.BufferedWriter(io.FileIO(descriptor, "w"), _BUFFER_BYTES) as stream:
            yield stream.write
            stream.flush()
            os.fsync(descriptor)
        _rename(partial, path)
    except FileExistsError:
        raise UsageError(f"{path} has come meanwhile", next_step=f"the dump is whole, in {partial}") from None
    except OSError as error:
        raise UserError(
            f"{partial}: {error.strerror}", next_step=f"rm {partial}, and name a place with more room"
        ) from error
    except UserError as error:
        error.message += f"; what there is of it stays in {partial}"
        raise


def _rename(old: Path, new: Path) -> None:
    """Never over a file that has come meanwhile, where the file system can promise that."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # no hard links there
        old.rename(new)
    else:
        old.unlink()


@contextmanager
def standard_output(*, terminal: bool) -> Iterator[Write]:
    """Standard output for bytes. A terminal takes text only: UsageError at the first byte that could be anything else."""
    with io.BufferedWriter(io.FileIO(1, "w", closefd=False), _BUFFER_BYTES) as stream:
        yield _text_only(stream.write) if terminal else stream.write


def _text_only(write: Write) -> Write:
    decoder = codecs.getincrementaldecoder("utf-8")()

    def checked(data: bytes) -> None:
        try:
            text = decoder.decode(data)
        except UnicodeDecodeError:
            text = "\0"
        if any(not (one.isprintable() or one in "\n\t\r") for one in text):
            raise UsageError(
                "this is no text, and standard output is a terminal",
                next_step="send it somewhere: … > FILE, or --output FILE",
            )
        write(data)

    return checked
