"""A real Redis server for tests, and a connection to it that is cut or falsified on the way."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.databases import ENVIRONMENT, end, free_port, private_directory, run, unprivileged_prefix, wait_for


@dataclass
class RedisServer:
    directory: Path
    port: int

    @property
    def socket(self) -> str:
        return str(self.directory / "s")

    @property
    def client(self) -> list[str]:
        return ["redis-cli", "-s", self.socket]

    def commands(self, *lines: str) -> list[str]:
        """Lines as they are typed into redis-cli; what it printed."""
        return run(self.client, "\n".join(lines) + "\n").splitlines()

    @contextmanager
    def load(self) -> Iterator[subprocess.Popen[bytes]]:
        """A script that writes until the context ends: both counters change in one step, and lists grow."""
        step = "redis.call('INCR','left') redis.call('INCR','right') redis.call('RPUSH','log'..math.random(50),ARGV[1])"
        argv = [*self.client, "-r", "-1", "EVAL", step, "0", "while it is backed up"]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd="/")
        try:
            yield process
        finally:
            assert process.poll() is None, "the writer ended while it was needed"
            process.kill()
            process.wait()


@contextmanager
def redis_server(*options: str, program: str = "redis-server") -> Iterator[RedisServer]:
    directory = private_directory()
    server, log = RedisServer(directory, free_port()), directory / "log"
    argv = [*unprivileged_prefix(), program, "--bind", "127.0.0.1", "--port", str(server.port)]
    argv += ["--unixsocket", server.socket, "--dir", str(directory), "--save", "", "--repl-diskless-sync-delay", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen([*argv, *options], stdout=output, stderr=output, env=ENVIRONMENT, cwd="/")
    try:
        ping = [*server.client, "PING"]
        wait_for(lambda: subprocess.run(ping, env=ENVIRONMENT, capture_output=True).returncode == 0, process, log)
        yield server
    finally:
        end(process, signal.SIGTERM)
        shutil.rmtree(directory, ignore_errors=True)


def redis_programs() -> bool:
    return all(shutil.which(name) for name in ("redis-server", "redis-cli"))


Meddle = Callable[[bytes], Sequence[bytes | None]]
"""Of everything the server sends after `$EOF:<marker>`: what is passed on instead. None: the connection ends here."""


@contextmanager
def meddling(server: RedisServer, meddle: Meddle) -> Iterator[str]:
    """A Unix socket that leads to the server; the RDB that comes back goes through `meddle`, all of it at once."""
    directory = private_directory()
    path = str(directory / "m")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        thread = threading.Thread(target=_serve, args=(listener, server.socket, meddle), daemon=True)
        thread.start()
        try:
            yield path
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(path)  # wakes an `accept` that nobody came to
            thread.join()
            shutil.rmtree(directory)


def _serve(listener: socket.socket, target: str, meddle: Meddle) -> None:
    near, _ = listener.accept()
    with near, socket.socket(socket.AF_UNIX) as far:
        far.connect(target)
        copier = threading.Thread(target=_copy, args=(near, far), daemon=True)
        copier.start()
        seen = b""
        while b"$EOF:" not in seen:
            data = far.recv(65536)
            if not data:
                return
            before = seen
            seen += data
            if b"$EOF:" not in seen:
                near.sendall(data)
        near.sendall(seen[len(before) : seen.index(b"$EOF:")])
        rdb = seen[seen.index(b"$EOF:") :]
        while len(rdb) < 100 or not rdb.endswith(rdb[5:45]):
            more = far.recv(65536)
            assert more, "the server ended before its RDB"
            rdb += more
        near.sendall(rdb[:47])
        for piece in meddle(rdb[47:]):
            if piece is None:
                near.shutdown(socket.SHUT_RDWR)  # closing alone does not wake the other thread
                return
            near.sendall(piece)
        copier.join()  # until who asked closes


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        return  # the other side was cut, as was asked for
