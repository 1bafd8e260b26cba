"""A network between a worker and a server that a test can cut, so that packets vanish and nobody is told.

`Wire`: a pair of interfaces into a network namespace in which the worker lives; cutting it takes the interface down, as pulling
a cable does. Where namespaces are not permitted, the `Relay` alone stands between them: it stops reading and writing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable

CLONE_NEWNET = 0x40000000


class Relay:
    """Forwards TCP from (`address`, `port`) to `target`, a port of 127.0.0.1 or a path, until it is `cut`."""

    def __init__(self, target: int | str, address: str = "127.0.0.1") -> None:
        self._target = target
        self._listener = socket.create_server((address, 0))
        self.address, self.port = self._listener.getsockname()
        self._flowing = threading.Event()
        self._flowing.set()
        self._ended = False
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._flowing.clear()

    def heal(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self._ended = True
        self._flowing.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if isinstance(self._target, str):
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
            else:
                far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [near, far]
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        ends = {near: far, far: near}
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            for one in ends:
                selector.register(one, selectors.EVENT_READ)
            while not self._ended:
                for key, _ in selector.select(0.2):
                    self._flowing.wait()
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(1 << 16)
                    self._flowing.wait()
                    if not data:
                        break
                    ends[key.fileobj].sendall(data)
                else:
                    continue
                break
        for one in ends:
            one.close()


class RelayOnly:
    """What a worker on the same machine goes through."""

    def __init__(self, target: int | str) -> None:
        self._relay = Relay(target)
        self.address, self.port = self._relay.address, self._relay.port
        self.cut, self.heal, self.close = self._relay.cut, self._relay.heal, self._relay.close

    def enter(self) -> None:
        """Called in the worker."""

    def connect(self, pid: int) -> None:
        """Called in the test, once the worker exists."""


class Wire:
    """The same through a namespace: `enter` waits in the worker until `connect` has laid the wire."""

    def __init__(self, target: int | str) -> None:
        self._name = f"bctl{os.getpid() % 100_000}"
        self._here, self._there = "10.213.77.1", "10.213.77.2"
        # laid out first, so that the relay can listen on our end; the other end moves into the worker's namespace
        ip("link", "add", self._name, "type", "veth", "peer", "name", self._name + "w")
        try:
            ip("address", "add", self._here + "/30", "dev", self._name)
            ip("link", "set", self._name, "up")
            self._relay = Relay(target, self._here)
        except BaseException:
            ip("link", "delete", self._name)
            raise
        self.address, self.port = self._here, self._relay.port
        self._unshared = os.pipe()
        self._laid = os.pipe()

    def enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        os.write(self._unshared[1], b"x")
        os.read(self._laid[0], 1)
        ip("address", "add", self._there + "/30", "dev", self._name + "w")
        ip("link", "set", self._name + "w", "up")
        ip("link", "set", "lo", "up")

    def connect(self, pid: int) -> None:
        os.read(self._unshared[0], 1)
        ip("link", "set", self._name + "w", "netns", str(pid))
        os.write(self._laid[1], b"x")

    def cut(self) -> None:
        ip("link", "set", self._name, "down")

    def heal(self) -> None:
        ip("link", "set", self._name, "up")

    def close(self) -> None:
        self._relay.close()
        with contextlib.suppress(subprocess.CalledProcessError):  # it went with the worker's namespace
            ip("link", "delete", self._name)
        for end in (*self._unshared, *self._laid):
            os.close(end)


Link = RelayOnly | Wire


def ip(*arguments: str) -> None:
    program = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise FileNotFoundError("ip")
    subprocess.run([program, *arguments], check=True, capture_output=True)


def namespaces() -> str:
    """Why network namespaces cannot be used here, "" when they can."""
    try:
        ip("link", "add", "bctlprobe", "type", "veth", "peer", "name", "bctlprobew")
        ip("link", "delete", "bctlprobe")
        pid = os.fork()
        if pid == 0:
            os._exit(0 if ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0 else 1)
        return "" if os.waitpid(pid, 0)[1] == 0 else "no new network namespace is permitted here"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no virtual interface can be made here: {error}"


KINDS: dict[str, Callable[[int | str], Link]] = {"relay": RelayOnly, "namespace": Wire}
