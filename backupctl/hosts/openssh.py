"""SSH by the program `ssh`: what a key on a security token, Kerberos or an ssh_config need, at the price of a process each.

The first command, which is the agent, is the master of a control socket (ControlMaster in ssh_config(5)): all others go through
its connection, and where sshd opens no further channel `ssh` connects by itself. Configuration files are read only when asked
for. Nobody is asked anything.

A pinned fingerprint becomes a known_hosts file of our own: the machine shows its key to a connection that logs in with nothing,
and only if it is the pinned one is it written down; the connection that counts accepts that key alone.

`ssh` ends with 255 when it or the connection failed. So 255 is never a command's own exit status here.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from backupctl.errors import CouldNotRunError, UnreachableError, UserError, WrongKeyError
from backupctl.hosts import process
from backupctl.hosts.options import SshOptions
from backupctl.hosts.process import LocalProcess, RunningProcess
from backupctl.hosts.transport import (
    CONNECT_SECONDS,
    KEEPALIVE_SECONDS,
    Login,
    command_line,
    connection_lost,
    wrong_host_key,
)

FAILED = 255
MEMORY = "/dev/shm"  # noqa: S108 - only used as the parent of mkdtemp's own private directory
HOST_KEY_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521",
    "rsa-sha2-512,rsa-sha2-256",
)
FIXED = {
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_SECONDS),
    "ServerAliveInterval": str(KEEPALIVE_SECONDS),
    "ServerAliveCountMax": "3",
    "Ciphers": "aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr",
    "GlobalKnownHostsFile": "none",
    "UpdateHostKeys": "no",
    "CheckHostIP": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RequestTTY": "no",
    "EscapeChar": "none",
    "ControlPersist": "no",
    "LogLevel": "INFO",  # below it, `ssh` keeps to itself why a connection ended
}


class OpenSshProcess(LocalProcess):
    """A running `ssh`. The end of stdout counts only when `ssh` brought an exit status along."""

    def __init__(self, argv: Sequence[str], ssh: Sequence[str], where: str, user: str) -> None:
        super().__init__(ssh, environment(), where)
        self.argv = tuple(argv)
        self._user = user
        self.spoke = False

    def read_stdout(self, size: int) -> bytes:
        data = super().read_stdout(size)
        if data:
            self.spoke = True
        else:
            self.wait()
        return data

    def wait(self) -> int:
        code = super().wait()
        if code == FAILED and not self.killed:
            self._stderr.join(10)
            raise failure(self.where, self.shown, self._user, self.stderr_text().strip())
        return code

    def ended(self) -> bool:
        return self._popen.poll() is not None


class OpenSshTransport:
    def __init__(self, name: str, options: SshOptions, login: Login, jump: OpenSshTransport | None = None) -> None:
        self._name, self._options, self._login, self._jump = name, options, login, jump
        self._where = f"host {name}"
        self._directory: tempfile.TemporaryDirectory[str] | None = None  # goes away with us, should nobody close it
        self._ssh: list[str] = []  # how this host is called, once its key is known to be the right one
        self._lock = threading.RLock()
        self._master: OpenSshProcess | None = None

    def start(self, argv: Sequence[str], command: Sequence[str]) -> RunningProcess:
        line = os.fsdecode(command_line(self._where, argv, command))
        with self._lock:
            master = self._master
            if master is None or (master.ended() and not master.spoke):  # it never came to a login
                self._master = self._run(argv, "ControlMaster=yes", line)
                return self._master
            if master.ended():
                raise connection_lost(self._where, argv[0], "it was lost before")
        return self._run(argv, "ControlMaster=no", line)

    def _run(self, argv: Sequence[str], role: str, line: str) -> OpenSshProcess:
        return OpenSshProcess(argv, [*self.ssh(), "-o", role, *self._place(), line], self._where, self._options.user)

    def ssh(self) -> list[str]:
        """`ssh` with all options, so that it accepts this host's pinned key alone."""
        with self._lock:
            if not self._ssh:
                if shutil.which("ssh") is None:
                    raise CouldNotRunError(
                        f"{self._where}: there is no program ssh on this machine",
                        next_step="install openssh-client, or use `transport: paramiko`",
                    )
                if self._directory is None:
                    memory = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else None
                    self._directory = tempfile.TemporaryDirectory(prefix="backupctl-ssh-", dir=memory)
                self._ssh = self._pinned(Path(self._directory.name))
            return self._ssh

    def through(self, address: str, port: int) -> str:
        """The ProxyCommand with which `ssh` reaches another host by way of this one."""
        argv = [*self.ssh(), "-o", "ControlMaster=no", "-W", f"[{address}]:{port}", *self._place()]
        return shlex.join(argv).replace("%", "%%")

    def close(self) -> None:
        with self._lock:
            if self._directory is not None:
                self._directory.cleanup()
                self._directory, self._ssh, self._master = None, [], None

    def _place(self) -> list[str]:
        return ["-l", self._options.user, "-p", str(self._options.port), "--", self._options.address]

    def _base(self, directory: Path) -> list[str]:
        options = FIXED | {"HostKeyAlias": self._name, "ControlPath": f"{directory}/control"}
        if self._jump is not None:
            options["ProxyCommand"] = self._jump.through(self._options.address, self._options.port)
        given = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-T", "-F", str(self._options.ssh_config or "none"), *given]

    def _pinned(self, directory: Path) -> list[str]:
        known, base = directory / "known_hosts", self._base(directory)
        kind = self._learn(known, base)
        ssh = [*base, "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known}"]
        ssh += ["-o", f"HostKeyAlgorithms={kind}"]
        if self._login.key:
            ssh += [
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "IdentityAgent=none",
                "-i",
                private(directory / "key", self._login.key.rstrip() + b"\n"),
            ]
        if self._login.certificate:
            ssh += ["-o", f"CertificateFile={private(directory / 'certificate', self._login.certificate)}"]
        return ssh

    def _learn(self, known: Path, base: Sequence[str]) -> str:
        """Write the pinned key into `known` and give its algorithms. Each type is tried: a machine shows one key at a time."""
        pinned, offered = self._options.host_key.rstrip("="), []
        for algorithms in HOST_KEY_ALGORITHMS:
            private(known, b"")
            asking = ["-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={known}"]
            asking += ["-o", "HashKnownHosts=no", "-o", f"HostKeyAlgorithms={algorithms}", "-o", "ControlMaster=no"]
            asking += ["-o", "PreferredAuthentications=none", "-o", "ControlPath=none"]
            completed = process.run(
                [*base[:1], *asking, *base[1:], *self._place(), "true"],
                env=environment(),
                timeout=2 * CONNECT_SECONDS,
                where=self._where,
            )
            shown = known.read_text().split()
            if len(shown) < 3:
                if "no matching host key type" in completed.stderr:
                    continue
                raise unreachable(self._where, completed.stderr.strip())
            found = fingerprint(shown[2])
            if found == pinned:
                return algorithms
            offered.append(f"{found} ({shown[1]})")
        known.unlink()
        raise wrong_host_key(
            self._name, f"{self._options.address} port {self._options.port}", self._options.host_key, offered
        )


def private(path: Path, content: bytes) -> str:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
    return str(path)


def fingerprint(key: str) -> str:
    """As `ssh-keygen -l` prints it, of the Base64 in a known_hosts line."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(key)).digest()).decode().rstrip("=")


def environment() -> dict[str, str]:
    """What `ssh` needs of ours: the ssh-agent, and Kerberos."""
    return {name: os.environ[name] for name in ("SSH_AUTH_SOCK", "KRB5CCNAME") if name in os.environ}


def failure(where: str, shown: str, user: str, text: str) -> UserError:
    """What an exit status of 255 means, by what `ssh` said."""
    if "Permission denied (" in text:
        return WrongKeyError(
            f"{where}: login as {user} refused: {text}",
            next_step=f"on that host, add the key's public half (`ssh-keygen -y -f FILE`) to ~{user}/.ssh/authorized_keys",
        )
    if "passphrase" in text or "error in libcrypto" in text or "invalid format" in text:
        return UserError(
            f"{where}: the private key cannot be used: {text}",
            next_step="make one without a passphrase: `ssh-keygen -t ed25519 -N '' -f FILE`",
        )
    return connection_lost(where, shown, text)


def unreachable(where: str, text: str) -> UnreachableError:
    return UnreachableError(
        f"{where}: SSH connection failed: {text}", next_step="try it by hand with `ssh -v`, then run the command again"
    )
