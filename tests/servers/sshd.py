"""A private sshd on 127.0.0.1: own keys, own port from the kernel, logs in whoever runs the tests. Stopped by pid."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

CONF = """
ListenAddress 127.0.0.1:{port}
{host_keys}
PidFile none
AuthorizedKeysFile {directory}/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 100
AllowTcpForwarding yes
LogLevel VERBOSE
"""


def missing_programs() -> list[str]:
    return [program for program in ("sshd", "ssh-keygen") if find(program) is None]


def find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class Sshd:
    def __init__(self, directory: Path, *, host_key_types: tuple[str, ...] = ("ed25519", "rsa")) -> None:
        self.directory = directory
        self.user = getpass.getuser()
        self.host_key_types = host_key_types
        self.address = "127.0.0.1"
        self.port = 0
        self.login_key = directory / "login_key"
        self.other_key = directory / "other_key"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> Sshd:
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in (self.login_key, self.other_key):
            make_key(path)
        for kind in self.host_key_types:
            make_key(self._host_key(kind), kind)
        shutil.copy(self.login_key.with_suffix(".pub"), self.directory / "authorized_keys")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own place for privilege separation
        for _attempt in range(5):  # somebody else may take the port between our asking and sshd's
            self.port = free_port()
            keys = "\n".join(f"HostKey {self._host_key(kind)}" for kind in self.host_key_types)
            conf = CONF.format(port=self.port, host_keys=keys, directory=self.directory)
            (self.directory / "sshd_config").write_text(conf)
            if self._launch():
                return self
        raise RuntimeError(f"sshd does not start: {self.log()}")

    def _launch(self) -> bool:
        program = find("sshd")
        assert program is not None
        with (self.directory / "sshd.log").open("ab") as log:
            argv = [program, "-D", "-e", "-f", str(self.directory / "sshd_config")]
            self._server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while self._server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), timeout=5) as probe:
                if probe.recv(4) == b"SSH-":
                    return True
            time.sleep(0.02)
        self.stop()
        return False

    def stop(self) -> None:
        if self._server is not None:
            self.cut_connections()
            self._server.kill()
            self._server.wait()
            self._server = None

    def cut_connections(self) -> None:
        """Kill what serves the open connections, as a machine that loses power does; the listener goes on."""
        assert self._server is not None
        for pid in reversed(descendants(self._server.pid)):
            if "sshd" in command_name(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def fingerprint(self, kind: str = "ed25519") -> str:
        argv = ["ssh-keygen", "-lf", str(self._host_key(kind))]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout.split()[1]

    def log(self) -> str:
        return (self.directory / "sshd.log").read_text(errors="replace")[-3000:]

    def _host_key(self, kind: str) -> Path:
        return self.directory / f"host_{kind}"

    def __enter__(self) -> Sshd:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> None:
    if not path.exists():
        argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "backupctl test", "-f", str(path)]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Children before grandchildren."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):  # it may end while we look
            for task in list(Path(f"/proc/{parent}/task").iterdir()):
                found += [int(child) for child in (task / "children").read_text().split()]
    return found[1:]


def command_name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
