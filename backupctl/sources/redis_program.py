"""Speaks to a Redis or Valkey server from the host that can reach it: sent as text to the far Python (>= 3.6).

    facts      what the server says about itself, and which commands it refuses
    dump       one line of facts, then an RDB as a replica gets it; exit status 0 only when its end was seen
    command    one command, its answer

The first line of stdin is JSON: `socket` or `address` and `port` (with `tls`), `user`, `password`, and for `command` its
`arguments`. A refusal is a line with `error`, exit status 3.
"""

import json
import os
import socket
import sys

SILENCE_SECONDS = 300.0  # a server that is about to send says something every 10 s
RECEIVE_BYTES = 1 << 18
MARKER_BYTES = 40
SETTINGS = ["save", "appendonly", "maxmemory", "maxmemory-policy", "rdbchecksum", "dir", "dbfilename", "databases"]
SETTINGS += ["repl-diskless-sync", "repl-diskless-sync-delay", "client-output-buffer-limit"]


class Refusal(Exception):
    """The server answered with an error."""


class Connection:
    def __init__(self, where: "dict[str, object]") -> None:
        if where.get("socket"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(10.0)
            self._socket.connect(str(where["socket"]))
        else:
            self._socket = socket.create_connection((str(where["address"]), int(str(where["port"]))), 10.0)
            if where.get("tls") is not None:
                self._socket = encrypted(self._socket, where["tls"], str(where["address"]))  # type: ignore[arg-type]  # a mapping, as JSON gave it
        self._socket.settimeout(SILENCE_SECONDS)
        self._data = b""
        if where.get("password") is not None:
            user = [str(where["user"])] if where.get("user") else []
            self.ask("AUTH", *user, str(where["password"]))
        self.ask("PING")

    def ask(self, *words: str) -> object:
        self.send(*words)
        return self.answer()

    def send(self, *words: str) -> None:
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            raw = word.encode("utf-8", "surrogateescape")
            parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
        self._socket.sendall(b"".join(parts))

    def receive(self) -> bytes:
        """What is there; b"" when the server has closed the connection."""
        data, self._data = self._data, b""
        return data or self._socket.recv(RECEIVE_BYTES)

    def line(self) -> bytes:
        while b"\r\n" not in self._data:
            self._need()
        line, _, self._data = self._data.partition(b"\r\n")
        return line

    def _need(self) -> None:
        more = self._socket.recv(RECEIVE_BYTES)
        if not more:
            raise OSError("the server closed the connection")
        self._data += more

    def answer(self) -> object:
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise Refusal(rest.decode("utf-8", "replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            while len(self._data) < size + 2:
                self._need()
            data, self._data = self._data[:size], self._data[size + 2 :]
            return data.decode("utf-8", "backslashreplace")
        if kind == b"*":
            # an error inside of an answer is part of it
            return None if int(rest) < 0 else [self.answer() for _ in range(int(rest))]
        return rest.decode("utf-8", "replace")

    def replica_answer(self) -> bytes:
        """The next line of a replication handshake; a server that is busy sends empty ones meanwhile."""
        while True:
            while b"\n" not in self._data:
                self._need()
            line, _, self._data = self._data.partition(b"\n")
            if line.strip():
                return line.strip()


def encrypted(plain: socket.socket, tls: "dict[str, str]", address: str) -> socket.socket:
    """The server's certificate is verified, whatever it costs: the password comes next."""
    import ssl

    context = ssl.create_default_context(cafile=tls["ca"])
    if tls["certificate"]:
        context.load_cert_chain(tls["certificate"], tls["key"])
    return context.wrap_socket(plain, server_hostname=tls["name"] or address)


def parse_info(text: str) -> "dict[str, str]":
    pairs = [line.partition(":") for line in text.splitlines() if line and not line.startswith("#")]
    info = {name: value for name, _, value in pairs if name != "module"}
    modules = [value for name, _, value in pairs if name == "module"]
    if modules:
        info["modules"] = " ".join(sorted(modules))
    return info


def facts(connection: Connection) -> "dict[str, object]":
    refused = {}

    def attempt(name: str, *words: str) -> object:
        try:
            return connection.ask(*words)
        except Refusal as error:
            refused[name] = str(error)
            return None

    info = parse_info(str(connection.ask("INFO")))
    info.update(parse_info(str(attempt("INFO", "INFO", "modules") or "")))
    settings = {}
    for name in SETTINGS:
        answer = attempt("CONFIG GET", "CONFIG", "GET", name)
        if isinstance(answer, list) and len(answer) == 2:
            settings[name] = answer[1]
    user = attempt("ACL WHOAMI", "ACL", "WHOAMI")
    may_replicate = attempt("ACL DRYRUN", "ACL", "DRYRUN", str(user), "PSYNC", "?", "-1") if user else None
    return {"info": info, "settings": settings, "refused": refused, "user": user, "may_replicate": may_replicate}


def dump(connection: Connection, out: "object") -> None:
    """The header and then the RDB as the server makes it for a replica that wants nothing after it."""
    header = facts(connection)
    for words in (("REPLCONF", "capa", "eof", "capa", "psync2"), ("REPLCONF", "rdb-only", "1")):
        try:
            connection.ask(*words)
        except Refusal as error:  # rdb-only: unknown before version 7
            if "NOPERM" in str(error):
                raise
    connection.send("PSYNC", "?", "-1")
    answer = connection.replica_answer()
    if answer.startswith(b"-"):
        raise Refusal(answer[1:].decode("utf-8", "replace"))
    said = answer.decode("ascii", "replace").split()
    if said[0] != "+FULLRESYNC" or len(said) < 3:
        raise Refusal("unexpected answer to PSYNC: " + " ".join(said)[:100])
    header["replication"] = {"id": said[1], "offset": int(said[2])}
    announced = connection.replica_answer()
    if not announced.startswith(b"$"):
        raise Refusal(announced.lstrip(b"-").decode("utf-8", "replace"))
    write = out.write  # type: ignore[attr-defined]  # a file of bytes: the far Python need not load `typing`
    write(json.dumps(header).encode() + b"\n")
    if announced.startswith(b"$EOF:"):
        until_marker(connection, announced[5:], write)
    else:
        left = int(announced[1:])
        while left:
            data = connection.receive()[:left]
            if not data:
                raise OSError(f"the connection ended {left} bytes before the end of the RDB")
            left -= len(data)
            write(data)
    out.flush()  # type: ignore[attr-defined]  # likewise


def until_marker(connection: Connection, marker: bytes, write: "object") -> None:
    """The server closes, or waits for a word that it never gets, after the marker: nothing ever follows it."""
    held = b""
    while held[-MARKER_BYTES:] != marker:
        data = connection.receive()
        if not data:
            raise OSError("the connection ended before the end marker of the RDB")
        held += data
        write(held[:-MARKER_BYTES])  # type: ignore[operator]  # likewise, a function
        held = held[-MARKER_BYTES:]


def main(arguments: "list[str]") -> int:
    where = json.loads(sys.stdin.readline())
    out = sys.stdout.buffer
    try:
        connection = Connection(where)
        if arguments[0] == "dump":
            dump(connection, out)
        elif arguments[0] == "facts":
            out.write(json.dumps(facts(connection)).encode() + b"\n")
        else:
            if where.get("database"):
                connection.ask("SELECT", str(where["database"]))
            answer = connection.ask(*where["arguments"])
            out.write(json.dumps({"answer": answer}).encode() + b"\n")
    except BrokenPipeError:
        os._exit(1)  # whoever read it is gone
    except (Refusal, OSError) as error:
        what = str(error) or type(error).__name__
        sys.stderr.write(what + "\n")
        out.write(json.dumps({"error": what}).encode() + b"\n")
        out.flush()
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
