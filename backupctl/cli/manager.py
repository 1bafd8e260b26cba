"""What the service manager that started us hears from us: sd_notify(3), a datagram to the socket that it names."""

from __future__ import annotations

import os
import socket


def tell_ready() -> None:
    """From now on a reload finds a listener. Says nothing where no manager waits for it.

    Without this systemd takes a service for started as soon as its process exists, and a SIGHUP that a reload sends before the
    handler is set would end it, which systemd takes for a clean end and starts nothing again.
    """
    address = os.environ.pop("NOTIFY_SOCKET", "")  # popped: those that we start have nothing to say there
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
        manager.send(b"READY=1")
