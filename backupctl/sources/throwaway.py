"""What throw-away servers share: a private directory, a short socket directory, a detached process stopped by pid."""

from __future__ import annotations

import json
from collections.abc import Callable

from backupctl.clock import SystemClock
from backupctl.errors import CouldNotRunError
from backupctl.hosts.protocol import Host
from backupctl.hosts.unprivileged import Identity, unprivileged
from backupctl.sources import server_program
from backupctl.sources.protocol import Instance
from backupctl.sources.streams import program_text, said

START_SECONDS = 90.0
POLL_SECONDS = 0.05
MAKE_SOCKET_DIRECTORY = "import tempfile; print(tempfile.mkdtemp(prefix='bctl-', dir='/tmp'))"


def prepare(host: Host, directory: bytes, preferred: str) -> tuple[Identity, str]:
    """Makes `directory` and a socket directory (a socket's path may have 107 bytes), both owned by whom the server runs
    as: `preferred` where there is such a user and we are root."""
    shown = directory.decode("utf-8", "backslashreplace")
    if host.stat(directory) is not None:
        raise CouldNotRunError(
            f"{shown} on host {host.name} exists already", next_step="name a directory that does not exist"
        )
    identity = unprivileged(host, [preferred])
    host.make_directory(directory)
    identity.give(directory)
    if host.run(identity.command(["test", "-w", shown, "-a", "-x", shown])).returncode != 0:
        host.remove_tree(directory)
        raise CouldNotRunError(
            f"host {host.name}: the server would run as {identity.user}, who cannot reach {shown}",
            next_step=f"choose a directory whose parents {identity.user} may enter (chmod o+x)",
        )
    completed = host.run([host.python, "-c", MAKE_SOCKET_DIRECTORY], check=True)
    sockets = completed.stdout.decode().strip()
    identity.give(sockets.encode())
    return identity, sockets


def start(instance: Instance, argv: list[str], log: str) -> None:
    """Starts the server detached; its pid and start time go into the instance."""
    host = instance.host
    completed = host.run([host.python, "-c", program_text(server_program), "start", log, *argv], check=True)
    answer = json.loads(completed.stdout)
    instance.pid = answer["pid"]
    instance.connection["started"] = answer["started"]


def wait_until_ready(
    instance: Instance,
    ready: Callable[[], bool],
    log: str,
    *,
    seconds: float = START_SECONDS,
    alive: Callable[[Instance], bool] | None = None,
    next_step: str = "see the log above for what the host lacks",
) -> None:
    """Raises CouldNotRunError, quoting the log, when the server ends or is not ready in time. `alive`: how it is told that it has
    not ended; by its pid when None."""
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    while not ready():
        running = (alive or is_alive)(instance)
        if not running or clock.monotonic() > deadline:
            what = "is not ready in time" if running else "ended while starting"
            raise CouldNotRunError(
                f"{instance.kind} server in {instance.directory.decode()} on host {instance.host.name} {what}:\n"
                + log_tail(instance.host, log),
                next_step=next_step,
            )
        clock.sleep(POLL_SECONDS)


def is_alive(instance: Instance) -> bool:
    host, started = instance.host, instance.connection.get("started", "")
    if not instance.pid or not started:
        return False
    argv = [host.python, "-c", program_text(server_program), "alive", str(instance.pid), started]
    return host.run(argv).returncode == 0


def stop(instance: Instance, signal_number: int, *, seconds: float = 60.0) -> None:
    """Ends the server by pid (never another process that has got the same pid) and removes its socket directory."""
    host = instance.host
    if instance.pid:
        argv = [host.python, "-c", program_text(server_program), "stop", str(instance.pid)]
        completed = host.run([*argv, instance.connection["started"], str(signal_number), str(seconds)])
        if completed.returncode != 0:
            raise CouldNotRunError(
                f"{instance.kind} server {instance.pid} on host {host.name} could not be stopped: {said(completed)}",
                next_step=f"end process {instance.pid} on host {host.name} by hand",
            )
        instance.pid = 0
    sockets = instance.connection.get("sockets", "")
    if sockets:
        host.remove_tree(sockets.encode())


def log_tail(host: Host, log: str, limit_bytes: int = 2000) -> str:
    info = host.stat(log.encode())
    if info is None:
        return "(no log)"
    with host.open_read(log.encode()) as file:
        data = b""
        while more := file.read(1 << 20):
            data = (data + more)[-limit_bytes:]
    return data.decode("utf-8", "replace").strip()
