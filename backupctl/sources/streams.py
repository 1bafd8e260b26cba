"""Byte streams that cannot end well by accident, and the small things that every database source needs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from types import ModuleType
from typing import Any, NoReturn

from backupctl.errors import CouldNotRunError, NoSuchError, SourceError, UserError
from backupctl.hosts.protocol import Completed, Process
from backupctl.repository.format.node import Node
from backupctl.sources.protocol import CheckResult, Instance

TAIL_BYTES = 4096
STDERR_SHOWN_CHARS = 2000


def program_text(module: ModuleType) -> str:
    """A module's source, to be sent to a far Python with `-c`."""
    return inspect.getsource(module)


def programs_text(module: ModuleType, *helpers: ModuleType) -> str:
    """The same for a module that imports from `helpers`, which come along."""
    lines = ["import sys, types"]
    for helper in helpers:
        name = helper.__name__
        lines.append(f"made = sys.modules[{name!r}] = types.ModuleType({name!r})")
        lines.append(f"exec(compile({program_text(helper)!a}, {name!r}, 'exec'), made.__dict__)")
    return "\n".join([*lines, program_text(module)])


def start_program(start: Callable[[list[str]], Process], python: str, text: str, request: Mapping[str, Any]) -> Process:
    """A program of ours on a host, given `request` as JSON on its standard input: an argument has 128 KiB at most."""
    process = start([python, "-c", text])
    with suppress(OSError):  # it ended early: its exit status tells why
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
    return process


def said(completed: Completed) -> str:
    """The end of what a command said, for a message."""
    text = completed.stderr.strip()[-STDERR_SHOWN_CHARS:]
    return f"exit status {completed.returncode}" + (f": {text}" if text else ", nothing on stderr")


class ProcessStream:
    """A process's output as an entry's content. It ends only if the process exits 0, `size` bytes (when known) came, `ending` finds
    nothing wrong with the last bytes, and `judge` with how the process ended; otherwise `read` raises SourceError at the end.
    With `after` the content is the first `size` bytes; it is given the rest when that is the process's true end, and raises
    SourceError for what it does not like. Closing earlier kills the process."""

    def __init__(
        self,
        process: Process,
        *,
        source: str,
        item: str,
        already: bytes = b"",
        size: int | None = None,
        ending: Callable[[bytes], str] | None = None,
        judge: Callable[[Completed], str] | None = None,
        after: Callable[[bytes], None] | None = None,
        next_step: str = "",
    ) -> None:
        self._process = process
        self._source, self._item, self._size, self._ending, self._next_step = source, item, size, ending, next_step
        self._judge, self._after = judge, after
        self._beyond = bytearray()
        self._already = already  # read before the stream was made, and part of it
        self._seen = 0
        self._tail = b""
        self._state = "open"
        self.failure: SourceError | None = None

    @property
    def ended(self) -> bool:
        """Whether it was read to an end that is its true one."""
        return self._state == "ended"

    def read(self, size: int = -1, /) -> bytes:
        if self._state == "ended":
            return b""
        if self._state == "closed":
            self._fail("was closed before its end")
        if size == 0:
            return b""
        content = b""
        while not content and (data := self._read(size)):
            content = data if self._after is None else self._within(data)
        self._seen += len(content)
        self._tail = (self._tail + content[-TAIL_BYTES:])[-TAIL_BYTES:]
        if not content or size < 0:
            self._end()
        return content

    def _read(self, size: int) -> bytes:
        if self._already and size > 0:
            data, self._already = self._already[:size], self._already[size:]
        else:
            data, self._already = self._already + self._process.stdout.read(size), b""
        return data

    def _within(self, data: bytes) -> bytes:
        """Without what lies beyond the content, which is kept."""
        room = (self._size or 0) - self._seen
        self._beyond += data[room:]
        return data[:room]

    def close(self) -> None:
        if self._state == "open":
            self._state = "closed"
            self._process.kill()
        self._process.__exit__(None, None, None)

    def _end(self) -> None:
        self._state = "closed"  # should anything below raise, the end stays untrue
        completed = self._process.finish()
        if completed.returncode != 0:
            self._fail(f"ended with {said(completed)}")
        if self._size is not None and self._seen != self._size:
            self._fail(f"ended after {self._seen} of {self._size} bytes")
        complaint = self._ending(self._tail) if self._ending else ""
        complaint = complaint or (self._judge(completed) if self._judge else "")
        if complaint:
            self._fail(f"{complaint}, although its program reported success")
        if self._after is not None:
            self._after(bytes(self._beyond))
        self._state = "ended"

    def _fail(self, what: str) -> NoReturn:
        self.failure = SourceError(
            f"source {self._source}: {self._item} {what}",
            source=self._source,
            item=self._item,
            next_step=self._next_step or f"put it right, then run the job again; `{self._item}` was not stored",
        )
        raise self.failure


def read_line(process: Process, limit: int, already: bytes = b"") -> tuple[bytes, bytes]:
    """The first line of `already` and a process's output, and what was read beyond it. Without a line end in `limit` bytes:
    all so far."""
    data = bytearray(already)
    while b"\n" not in data and len(data) < limit:
        more = process.stdout.read(65536)
        if not more:
            break
        data += more
    line, _, rest = bytes(data).partition(b"\n")
    return line, rest


def stream_node(name: bytes, at: datetime, size: int = 0) -> Node:
    """The node of something that is a stream and no file: owner root, private."""
    mtime_ns = int(at.timestamp() * 1_000_000) * 1000
    return Node(name=name, type="file", mode=0o600, mtime_ns=mtime_ns, atime_ns=mtime_ns, ctime_ns=mtime_ns, size=size)


def directory_node(name: bytes, at: datetime) -> Node:
    node = stream_node(name, at)
    node.type, node.mode = "dir", 0o700
    return node


def path_component(name: str) -> bytes:
    """A database's name as one name in the snapshot: `/`, `%` and what would mean something else are percent-encoded."""
    encoded = name.replace("%", "%25").replace("/", "%2F")
    if encoded in (".", "..") or encoded.endswith(".sql"):
        encoded = encoded.replace(".", "%2E")
    return encoded.encode()


def database_of(component: bytes) -> str:
    """The inverse of `path_component`."""
    return component.decode().replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def chosen_databases(instance: Instance) -> set[str] | None:
    """The databases that `load` was asked for; None when it was asked for all."""
    text = instance.connection.get("databases")
    return None if text is None else set(json.loads(text))


def choose_databases(
    instance: Instance, databases: Sequence[str] | None, present: Iterable[str], source: str
) -> list[str]:
    """Those of `present` that are wanted, remembered for `compare`. Raises NoSuchError for one that is not there."""
    have = sorted(present)
    if databases is None:
        return have
    missing = sorted(set(databases) - set(have))
    if missing:
        raise NoSuchError(
            f"source {source}: no database {', '.join(missing)} in the snapshot, which holds {', '.join(have) or 'none'}",
            next_step="name one of those",
        )
    instance.connection["databases"] = json.dumps(sorted(databases))
    return sorted(databases)


def describe_table(table: Mapping[str, object] | None) -> str:
    return "missing" if table is None else f"{table['rows']} rows, {table['digest']}"


def compare_tables(prefix: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[CheckResult]:
    """One result per table that is on either side, named `table <prefix><table>`."""
    results = []
    for table in sorted(expected.keys() | found.keys()):
        want, have = describe_table(expected.get(table)), describe_table(found.get(table))
        results.append(CheckResult(f"table {prefix}{table}", want, have, want == have, 4))
    return results


@contextmanager
def gone_unless_whole(database: str, drop: Callable[[], object]) -> Iterator[None]:
    """What goes wrong within, a Ctrl-C too, takes the database with it that was made in somebody's server. When even that fails,
    the error says both: why, and what was left there."""
    try:
        yield
    except BaseException as error:  # whatever it is: it is raised again
        try:
            drop()
        except UserError as left:
            raise CouldNotRunError(
                f"{error or type(error).__name__}; and database {database}, unfinished, is still on that server: {left.message}",
                next_step=f"drop database {database} there by hand",
            ) from error
        raise
