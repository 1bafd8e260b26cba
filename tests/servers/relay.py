"""A port before a server that counts what the server sends, and cuts every connection once that is enough."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Relay:
    """Passes everything on until the server has sent `left` bytes on all connections together; then nobody gets through any
    more."""

    def __init__(self, address: tuple[str, int], left: int) -> None:
        self._address, self.left = address, left
        self._lock = threading.Lock()
        self.flowing = threading.Event()  # cleared: what the client sends waits here
        self.flowing.set()
        self._front = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._front.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._front.accept()
            except OSError:
                return  # the test is over
            far = socket.create_connection(self._address)
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(65536):
                if not counted:
                    self.flowing.wait()
                else:
                    with self._lock:
                        data = data[: max(0, self.left)]
                        self.left -= len(data)
                sink.sendall(data)
                if counted and self.left <= 0:
                    break
        except OSError:
            pass  # the other direction has been cut
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # was cut from the other side already

    def close(self) -> None:
        self._front.close()


@contextmanager
def relay(port: int, left: int = 1 << 60) -> Iterator[Relay]:
    made = Relay(("127.0.0.1", port), left)
    try:
        yield made
    finally:
        made.close()
