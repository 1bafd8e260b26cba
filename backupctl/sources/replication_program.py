"""Speaks PostgreSQL's replication protocol beside the server: text for the far Python (>= 3.6), with the host's own libpq.

    replication_program REQUEST       a JSON object {"conninfo", "label", "slot", "libraries": [paths of libpq.so.5]}

Takes a base backup of all tablespaces in one stream, then the write-ahead log from its start to wherever standard input asks,
held back by a temporary slot. pg_basebackup cannot: to a pipe it writes one tablespace only, and WAL only by `fetch`, which
the server may have removed by then. https://www.postgresql.org/docs/current/protocol-replication.html

Standard output: frames of one byte kind, four bytes length (big endian), payload:
    B  {"lsn", "timeline", "tablespaces": [[oid, path, kB], …], "system"}       the backup has begun
    A  name of the archive that follows: `base.tar` or `OID.tar`            D  its bytes
    M  the manifest follows, as D
    N  what the server said meanwhile: {"severity", "text"}
    E  {"lsn", "timeline", "failed": "" or the server's last error}         the backup has ended
    W  eight bytes LSN, then WAL from there on                              U  the LSN that was asked for has been sent
    Z  the end
Standard input after E: lines `FROM UNTIL` (LSNs, decimal; FROM counts once), then its end. Exit status 0 only after Z.
"""

import ctypes
import json
import select
import struct
import sys
import time

COMMAND_DONE, TUPLES, COPY_OUT, COPY_IN, COPY_BOTH = 1, 2, 3, 4, 8
KEEPALIVE_SECONDS = 10
POSTGRES_EPOCH = 946684800


class Refused(Exception):
    pass


def load_library(candidates: "list[str]") -> "ctypes.CDLL":
    failures = []
    for name in candidates:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            failures.append(str(error))
    raise Refused("no libpq can be loaded: " + "; ".join(failures))


def prepare(pq: "ctypes.CDLL") -> None:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name in ("PQconnectdb", "PQgetResult"):
        getattr(pq, name).restype = pointer
    for name in ("PQerrorMessage", "PQgetvalue", "PQresultErrorField", "PQresultErrorMessage"):
        getattr(pq, name).restype = text
    for name in (
        *("PQstatus", "PQerrorMessage", "PQgetResult", "PQresultStatus", "PQntuples", "PQnfields", "PQclear"),
        *("PQfreemem", "PQflush", "PQresultErrorMessage", "PQconsumeInput", "PQsocket"),
    ):
        getattr(pq, name).argtypes = [pointer]
    pq.PQconnectdb.argtypes = [text]
    pq.PQsendQuery.argtypes = [pointer, text]
    pq.PQgetvalue.argtypes = [pointer, number, number]
    pq.PQgetCopyData.argtypes = [pointer, ctypes.POINTER(pointer), number]
    pq.PQputCopyData.argtypes = [pointer, text, number]
    pq.PQresultErrorField.argtypes = [pointer, number]


def frame(kind: bytes, payload: bytes) -> None:
    out = sys.stdout.buffer
    out.write(kind + struct.pack(">I", len(payload)))
    out.write(payload)


def say(kind: bytes, what: object) -> None:
    frame(kind, json.dumps(what).encode())
    sys.stdout.buffer.flush()


def lsn_text(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


class Connection:
    def __init__(self, pq: "ctypes.CDLL", conninfo: str) -> None:
        self.pq = pq
        self.handle = pq.PQconnectdb((conninfo + " replication=true").encode())
        if pq.PQstatus(self.handle) != 0:
            raise Refused(self.failure(None))

    def failure(self, result: "int | None") -> str:
        text = self.pq.PQresultErrorMessage(result) if result else b""
        return (text or self.pq.PQerrorMessage(self.handle) or b"").decode("utf-8", "replace").strip()

    def send(self, query: str) -> None:
        if not self.pq.PQsendQuery(self.handle, query.encode()):
            raise Refused(self.failure(None))

    def next_result(self) -> "tuple[int, list[list[str]], str]":
        """(status, rows, what is wrong); (-1, [], "") after the last."""
        pq = self.pq
        result = pq.PQgetResult(self.handle)
        if not result:
            return -1, [], ""
        try:
            status = pq.PQresultStatus(result)
            if status in (COMMAND_DONE, COPY_OUT, COPY_IN, COPY_BOTH):
                return status, [], ""
            if status != TUPLES:
                return status, [], self.failure(result) or "unknown failure"
            counts = range(pq.PQntuples(result)), range(pq.PQnfields(result))
            values = [[pq.PQgetvalue(result, row, column) for column in counts[1]] for row in counts[0]]
            return status, [[(value or b"").decode("utf-8", "surrogateescape") for value in row] for row in values], ""
        finally:
            pq.PQclear(result)

    def expect(self, wanted: int) -> "list[list[str]]":
        status, rows, wrong = self.next_result()
        if status != wanted:
            raise Refused(wrong or f"the server answered with status {status} where {wanted} was expected")
        return rows

    def query(self, text: str) -> "list[list[str]]":
        self.send(text)
        rows = []  # type: list[list[str]]
        while True:
            status, more, wrong = self.next_result()
            if wrong:
                raise Refused(wrong)
            if status == -1:
                return rows
            rows += more

    def copied(self, wait: bool = True) -> "bytes | None":
        """The next message of a copy; None at its end, b"" when there is none yet and we do not `wait`."""
        data = ctypes.c_void_p()
        size = self.pq.PQgetCopyData(self.handle, ctypes.byref(data), 0 if wait else 1)
        if size == -2:
            raise Refused(self.failure(None))
        if size == -1:
            return None
        if size == 0:
            return b""
        try:
            return ctypes.string_at(data, size)
        finally:
            self.pq.PQfreemem(data)


RECEIVER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


def listen(connection: Connection) -> object:
    """Notices of the server become frames. The answer has to be kept alive."""
    pq = connection.pq

    def notice(_: object, result: int) -> None:
        severity = pq.PQresultErrorField(result, ord("V")) or pq.PQresultErrorField(result, ord("S")) or b""
        text = pq.PQresultErrorField(result, ord("M")) or b""
        say(b"N", {"severity": severity.decode(), "text": text.decode("utf-8", "replace")})

    receiver = RECEIVER(notice)
    pq.PQsetNoticeReceiver.argtypes = [ctypes.c_void_p, RECEIVER, ctypes.c_void_p]
    pq.PQsetNoticeReceiver.restype = ctypes.c_void_p
    pq.PQsetNoticeReceiver(connection.handle, receiver, None)
    return receiver


def base_backup(connection: Connection, label: str, system: str) -> int:
    """Everything up to E; the timeline."""
    options = "PROGRESS, CHECKPOINT 'fast', WAL false, WAIT false, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256'"
    quoted = label.replace("'", "''")
    connection.send(f"BASE_BACKUP (LABEL '{quoted}', {options})")
    ((start, timeline),) = connection.expect(TUPLES)
    spaces = [row[:3] for row in connection.expect(TUPLES)]  # oid, path, size in kB; both empty for the data directory
    say(b"B", {"lsn": start, "timeline": int(timeline), "tablespaces": spaces, "system": system})
    connection.expect(COPY_OUT)
    while True:
        message = connection.copied()
        if message is None:
            break
        kind = message[:1]
        if kind == b"d":
            frame(b"D", message[1:])
        elif kind == b"n":
            frame(b"A", message[1:].split(b"\0")[0])
        elif kind == b"m":
            frame(b"M", b"")
    end, failed = [], ""  # type: list[list[str]], str
    while True:
        status, rows, wrong = connection.next_result()
        if status == -1:
            break
        end, failed = end or rows, failed or wrong
    if not end:
        raise Refused(failed or "the base backup has no end")
    say(b"E", {"lsn": end[0][0], "timeline": int(end[0][1]), "failed": failed})
    return int(timeline)


def send_wal(connection: Connection, start: int, timeline: int, until: int, state: "dict[str, int]") -> None:
    """Frames from `start` on until all before `until` has been sent. `state` holds how far we are between two calls."""
    if "sent" not in state:
        connection.send(f"START_REPLICATION PHYSICAL {lsn_text(start)} TIMELINE {timeline}")
        connection.expect(COPY_BOTH)
        state["sent"] = start
    pq, answered = connection.pq, 0.0
    while state["sent"] < until:
        message = connection.copied(wait=False)
        if message is None:
            raise Refused("the server ended the stream of its log at " + lsn_text(state["sent"]))
        now = time.time()
        if message[:1] == b"w":
            (first,) = struct.unpack(">Q", message[1:9])
            frame(b"W", message[1:9] + message[25:])
            state["sent"] = max(state["sent"], first + len(message) - 25)
        if (message[:1] == b"k" and message[17:18] == b"\1") or now - answered > KEEPALIVE_SECONDS:
            at = int((now - POSTGRES_EPOCH) * 1000000)
            status = b"r" + struct.pack(">QQQqB", state["sent"], 0, 0, at, 0)
            if pq.PQputCopyData(connection.handle, status, len(status)) != 1 or pq.PQflush(connection.handle) < 0:
                raise Refused(connection.failure(None))
            answered = now
        if message == b"":
            select.select([pq.PQsocket(connection.handle)], [], [], KEEPALIVE_SECONDS)
            if not pq.PQconsumeInput(connection.handle):
                raise Refused(connection.failure(None))
    frame(b"U", b"")
    sys.stdout.buffer.flush()


def run(request: "dict[str, object]") -> None:
    pq = load_library(request["libraries"])  # type: ignore[arg-type]  # a JSON list
    prepare(pq)
    log = Connection(pq, str(request["conninfo"]))
    ((system, _, _, _),) = log.query("IDENTIFY_SYSTEM")
    ((size,),) = log.query("SHOW wal_segment_size")
    log.query(f"CREATE_REPLICATION_SLOT {request['slot']} TEMPORARY PHYSICAL RESERVE_WAL")
    backup = Connection(pq, str(request["conninfo"]))
    kept = listen(backup)
    timeline = base_backup(backup, str(request["label"]), system + " " + size)
    state = {}  # type: dict[str, int]
    for line in sys.stdin:
        send_wal(log, int(line.split()[0]), timeline, int(line.split()[1]), state)
    frame(b"Z", b"")
    sys.stdout.buffer.flush()
    del kept


def main() -> int:
    try:
        run(json.loads(sys.argv[1]))
    except Refused as error:
        sys.stderr.write(str(error) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
