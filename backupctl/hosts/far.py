"""The near end of `agent.py`: a far file system as `Host` wants it. Knows frames, not SSH: it gets a running process.

Answers come in the order of the requests, and a thread takes them off the wire as they come, so neither side can block
the other. What is under way is bounded by whoever asks: a reader reads a few MiB ahead, a writer leaves a few MiB
unconfirmed.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import ModuleType
from typing import Any

from backupctl.errors import CouldNotRunError, UnreachableError, UserError
from backupctl.hosts import agent, placing, posix, private, wrapper
from backupctl.hosts.agent import decode_record, encode_record, text_of
from backupctl.hosts.local import cannot_make, to_info, to_record
from backupctl.hosts.process import RunningProcess
from backupctl.hosts.protocol import FileInfo

ANSWER_SECONDS = 900  # one read, write or fsync on a slow disk; beyond that the far side hangs
FIRST_BYTES = 256 * 1024  # comes along with opening: most files need no second round trip
AHEAD_BYTES = 1 << 20
AHEAD_COUNT = 3
UNCONFIRMED_BYTES = 4 << 20
UNCONFIRMED_COUNT = 512

START = (  # runs on the far host before anything else of ours, so it is short and old-fashioned
    "import sys\n"
    "if sys.version_info < (3, 6): sys.exit('python3 is too old: ' + sys.version)\n"
    "exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), 'backupctl', 'exec'))\n"
)

Reply = tuple[dict[str, Any], bytes]


def assembled(modules: Sequence[ModuleType], last: str) -> bytes:
    """A program that makes our modules out of their own sources on the far side, and then does `last`."""
    lines = ["import sys, types"]
    for name in ("backupctl", "backupctl.hosts"):
        lines.append(f"sys.modules[{name!r}] = types.ModuleType({name!r})")
    lines.append("sys.modules['backupctl'].hosts = sys.modules['backupctl.hosts']")
    for module in modules:
        name, short = module.__name__, module.__name__.rpartition(".")[2]
        lines.append(f"module = sys.modules[{name!r}] = types.ModuleType({name!r})")
        lines.append(f"exec(compile({inspect.getsource(module)!a}, {name!r}, 'exec'), module.__dict__)")
        lines.append(f"sys.modules['backupctl.hosts'].{short} = module")
    lines.append(last)
    return "\n".join(lines).encode("ascii")


def program() -> bytes:
    return assembled((posix, private, placing, agent), "sys.modules['backupctl.hosts.agent'].serve()")


class AgentClient:
    """Thread-safe. Once the connection is broken, every call raises the same UnreachableError."""

    def __init__(self, host: str, process: RunningProcess) -> None:
        self.host = host
        self._process = process
        self._waiting: deque[Future[Reply]] = deque()
        self._lock = threading.Lock()
        self._broken: UserError | None = None
        self._handles = itertools.count(1)
        with suppress(BrokenPipeError):  # nobody reads it when there is no python3; the greeting tells
            process.stdin.write(program())
        self._greet()
        self._reader = threading.Thread(target=self._read_answers, name=f"answers of {host}", daemon=True)
        self._reader.start()

    def _greet(self) -> None:
        said = self._read_exactly(len(agent.GREETING))
        if said == agent.GREETING:
            return
        if said:
            shown = said.decode("utf-8", "backslashreplace")
            raise UserError(
                f"host {self.host}: the login shell prints text before the command runs: {shown!r}…",
                next_step="make ~/.bashrc or the like on that host silent for non-interactive logins",
            )
        completed = self._process.finish(timeout=30)
        said_last = completed.stderr.strip()[-500:]
        if wrapper.SIGN in said_last:
            raise CouldNotRunError(
                f"host {self.host}: {said_last}",
                next_step=f"install what `backupctl host account {self.host}` prints now on that host",
            )
        raise CouldNotRunError(
            f"host {self.host}: no usable python3 there (exit status {completed.returncode}: {said_last})",
            next_step="install the package python3 (3.6 or newer) on that host",
        )

    def handle(self) -> int:
        return next(self._handles)

    def submit(self, do: str, payload: bytes = b"", **arguments: Any) -> Future[Reply]:
        """Send a request without waiting. The future gives head and payload, or raises OSError or UnreachableError."""
        future: Future[Reply] = Future()
        frame = agent.pack({"do": do, **arguments}, payload)
        with self._lock:
            if self._broken:
                raise self._broken
            self._waiting.append(future)
            try:
                self._process.stdin.write(frame)
            except (OSError, UserError) as error:
                self._break(error)
                raise self._lost(error) from error
            except BaseException as error:  # interrupted inside a frame: the rest would be read as nonsense
                self._break(error)
                raise
            if self._broken:  # the reader gave up while we were sending: nobody else would answer this one
                self._break(self._broken)
        return future

    def call(self, do: str, payload: bytes = b"", **arguments: Any) -> Reply:
        return self.result(self.submit(do, payload, **arguments))

    def result(self, future: Future[Reply]) -> Reply:
        try:
            return future.result(ANSWER_SECONDS)
        except TimeoutError:
            raise UnreachableError(
                f"host {self.host}: no answer for {ANSWER_SECONDS} s",
                next_step="look for a hanging disk or network file system on that host",
            ) from None

    def info(self, fields: list[Any]) -> FileInfo:
        try:
            return to_info(decode_record(fields))
        except agent.BrokenFrame as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """End the agent: it removes its private files when its input ends."""
        with suppress(OSError, UserError):
            self._process.stdin.close()
        self._reader.join(10)
        self._break(ConnectionError("closed"))

    def _read_exactly(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            part = self._process.stdout.read(min(left, 1 << 20))
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_answers(self) -> None:
        try:
            while frame := agent.read_frame(self._read_exactly):
                future = self._waiting.popleft()
                head = frame[0]
                if "errno" in head:
                    future.set_exception(OSError(int(head["errno"]), str(head["text"]), str(head.get("file", ""))))
                else:
                    future.set_result(frame)
            said = self._process.stderr_text().strip()
            self._break(ConnectionError(f"the agent ended{': ' + said[-2000:] if said else ''}"))
        except (OSError, UserError, agent.BrokenFrame, IndexError, KeyError, ValueError, TypeError) as error:
            self._break(error)
        finally:
            self._break(ConnectionError("no more answers"))  # whatever happened, nobody waits in vain

    def _break(self, cause: BaseException) -> None:
        if self._broken is None:
            self._broken = self._lost(cause)
        while self._waiting:
            with suppress(IndexError):
                self._waiting.popleft().set_exception(self._broken)

    def _lost(self, cause: BaseException) -> UserError:
        if isinstance(cause, UserError):
            return cause
        return UnreachableError(
            f"host {self.host}: connection lost: {cause or type(cause).__name__}",
            next_step="check the network and the host, then run the command again",
        )


def scan(client: AgentClient, root: bytes, exclude: Sequence[str], only: Sequence[bytes]) -> Iterator[FileInfo]:
    """One batch is always under way while the one before is used."""
    handle = client.handle()
    future = client.submit(
        "scan", h=handle, path=text_of(root), exclude=list(exclude), only=[text_of(one) for one in only]
    )
    end = False
    try:
        while not end:
            head, _ = client.result(future)
            end = bool(head["end"])
            if not end:
                future = client.submit("next", h=handle)
            for fields in head["records"]:
                info = client.info(fields)
                inside = info.path.startswith(root.rstrip(b"/") + b"/") and b".." not in info.path.split(b"/")
                if not inside and info.path != (root.rstrip(b"/") or b"/"):
                    raise UnreachableError(f"host {client.host}: answered with paths that nobody asked for")
                yield info
    finally:
        if not end:
            with suppress(UserError):  # the connection is gone, and the scan with it
                client.submit("end_scan", h=handle)


class FarFile:
    """A `ReadFile` that reads ahead."""

    def __init__(self, client: AgentClient, path: bytes) -> None:
        self._client = client
        self._handle = client.handle()
        self._ahead: deque[Future[Reply]] = deque()
        self._data = b""
        self._given = 0  # of `_data`, to whoever reads
        self._end = self._closed = False
        self._changed: bool | None = None
        first = client.call("open", h=self._handle, path=text_of(path), size=FIRST_BYTES)
        self._take(first)
        self.info = client.info(first[0]["info"])

    def _take(self, reply: Reply) -> None:
        head, self._data = reply
        self._given = 0
        self._end = bool(head["end"])
        if self._end:
            self._changed = bool(head.get("changed", True))

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(AHEAD_BYTES), b""))
        if self._closed:
            raise ValueError("read from a closed file")
        while self._given == len(self._data) and not self._end and size:
            while len(self._ahead) < AHEAD_COUNT:
                self._ahead.append(self._client.submit("read", h=self._handle, size=AHEAD_BYTES))
            self._take(self._client.result(self._ahead.popleft()))
        start, self._given = self._given, min(self._given + size, len(self._data))
        return self._data[start : self._given]  # no copy when it is all of it

    def changed(self) -> bool:
        """At the end of the file, the far side has compared already, at the moment it read the last byte."""
        if self._changed is None:
            self._changed = bool(self._client.call("changed", h=self._handle)[0]["changed"])
        return self._changed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if not self._end:
                with suppress(UserError):  # a lost connection has closed it
                    self._client.submit("end_read", h=self._handle)

    def __enter__(self) -> FarFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Window:
    """Requests that nobody has waited for yet, within a bound. The first that failed is raised at the next call."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._pending: deque[tuple[Future[Reply], int, bytes]] = deque()
        self._bytes = 0
        self.warnings: list[str] = []

    def send(self, subject: bytes, do: str, payload: bytes = b"", **arguments: Any) -> None:
        self._pending.append((self._client.submit(do, payload, **arguments), len(payload), subject))
        self._bytes += len(payload)
        while self._pending and (
            self._bytes > UNCONFIRMED_BYTES or len(self._pending) > UNCONFIRMED_COUNT or self._pending[0][0].done()
        ):
            self._confirm()

    def _confirm(self) -> None:
        future, size, subject = self._pending.popleft()
        self._bytes -= size
        try:
            head, _ = self._client.result(future)
        except OSError as error:
            self.failed(subject, error)
        else:
            self.warnings += head.get("warnings", ())

    def failed(self, subject: bytes, error: OSError) -> None:
        raise error

    def confirm_all(self) -> None:
        while self._pending:
            self._confirm()


class FarSink:
    def __init__(self, client: AgentClient, path: bytes, mode: int) -> None:
        self._client, self._path = client, path
        self._handle = client.handle()
        self._window = Window(client)
        self._closed = False
        client.call("create", h=self._handle, path=text_of(path), mode=mode)

    def write(self, data: bytes, /) -> int:
        for start in range(0, len(data), AHEAD_BYTES):
            part = data[start : start + AHEAD_BYTES]
            self._window.send(self._path, "append", part, h=self._handle)
        return len(data)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._window.send(self._path, "finish", h=self._handle)
            self._window.confirm_all()


class PlacingWindow(Window):
    def failed(self, subject: bytes, error: OSError) -> None:
        raise cannot_make(self._client.host, subject, error) from error


class FarWriter:
    def __init__(self, placer: FarPlacer, path: bytes, handle: int) -> None:
        self._placer, self._path, self._handle = placer, path, handle
        self._closed = False

    def write_at(self, offset: int, data: bytes) -> None:
        window = self._placer.window
        for start in range(0, len(data), AHEAD_BYTES):
            part = data[start : start + AHEAD_BYTES]
            window.send(self._path, "write_at", part, f=self._handle, offset=offset + start)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._placer.window.send(self._path, "end_write", f=self._handle)

    def discard(self) -> None:
        self.close()
        self._placer.place("remove", self._path)


class FarPlacer:
    """Queues; see `Placer`. An object that cannot be made is raised by one of the next calls, or by `flush`."""

    def __init__(self, client: AgentClient, root: bytes) -> None:
        self._client = client
        self._handle = client.handle()
        self.window = PlacingWindow(client)
        try:
            client.call("placer", h=self._handle, path=text_of(root))
        except OSError as error:
            raise cannot_make(client.host, root, error) from error

    def place(self, what: str, path: bytes, **arguments: Any) -> None:
        self.window.send(path, "place", h=self._handle, what=what, path=text_of(path), **arguments)

    def directory(self, path: bytes) -> None:
        self.place("directory", path)

    def file(self, path: bytes, size: int) -> FarWriter:
        handle = self._client.handle()
        self.place("file", path, f=handle, size=size)
        return FarWriter(self, path, handle)

    def symlink(self, path: bytes, target: bytes) -> None:
        self.place("symlink", path, target=text_of(target))

    def hardlink(self, path: bytes, existing: bytes) -> None:
        self.place("hardlink", path, existing=text_of(existing))

    def remove(self, path: bytes) -> None:
        self.place("remove", path)

    def special(self, path: bytes, info: FileInfo) -> None:
        self.place("special", path, kind=info.kind, device=info.device)

    def metadata(self, path: bytes, info: FileInfo) -> None:
        self.place("metadata", path, record=encode_record(to_record(info)))

    def flush(self) -> list[str]:
        self.window.confirm_all()
        taken, self.window.warnings = self.window.warnings, []
        return taken

    def close(self) -> None:
        with suppress(UserError):  # a lost connection has closed it
            self._client.submit("end_placer", h=self._handle)
