"""Machines in namespaces: each has its own processes, network, host name, machine-id and SSH keys, and its own /etc, /home, /opt,
/root, /run, /srv, /usr and /var over those of this machine, in memory. They reach each other over a switch, and nothing outside.

Needs root, and a kernel that gives namespaces and overlays. Nothing of this machine is changed; all ends with the processes.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.processes import wait_until
from tests.servers.sshd import descendants, find, make_key

NETWORK = "10.77.0"
BOOT = r"""
set -eu
name=$1 identity=$2 keys=$3 memory=$4
mount -t tmpfs -o size=2g,mode=755 tmpfs "$memory"
for place in etc home opt root srv usr var; do
  mkdir -p "$memory/$place/upper" "$memory/$place/work"
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$memory/$place/upper,workdir=$memory/$place/work" "/$place"
done
mount -t tmpfs -o mode=755 tmpfs /run
mount -t proc proc /proc
mkdir -p /run/sshd /run/lock
install -d -o postgres -g postgres -m 2775 /run/postgresql
install -d -o mysql -g mysql /run/mysqld
hostname "$name"
echo "$identity" > /etc/machine-id
chmod 0711 /root  # this machine's Python may be there, and services of others start it
rm -rf /root/.ssh /root/.bash* /root/.profile /etc/ssh/ssh_host_*  # what a shell of ours would start there is slow
ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
install -d -m 0700 /root/.ssh
install -m 0600 "$keys" /root/.ssh/authorized_keys
ip link set lo up
exec "$5" -D -e -f /dev/null -o UsePAM=no -o HostKey=/etc/ssh/ssh_host_ed25519_key \
  -o Subsystem="sftp internal-sftp" -o MaxStartups=100
"""
SWITCH = r"""
set -eu
ip link set lo up
ip link add switch type bridge
ip address add "$1.1/24" dev switch
ip link set switch up
echo up
exec cat
"""


def missing() -> str:
    """Why there can be no such machines here; "" when there can."""
    if os.geteuid() != 0:
        return "only root can make machines in namespaces"
    programs = [one for one in ("unshare", "nsenter", "ip", "sshd", "ssh-keygen") if find(one) is None]
    if programs:
        return f"no {', '.join(programs)}"
    script = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w && ip link add switch type bridge"
    script += " && mount -t overlay overlay -o lowerdir=/srv,upperdir=/mnt/u,workdir=/mnt/w /srv"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script], capture_output=True, text=True, timeout=30
    )
    return "" if tried.returncode == 0 else f"no namespaces, overlays or bridges here: {tried.stderr.strip()}"


def machines_or_skip() -> None:
    """Skips the test where there can be none; in CI that is a failure."""
    if why := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"what needs machines cannot be tried: {why}")
        pytest.skip(why)


@dataclass(frozen=True)
class Machine:
    name: str
    address: str
    pid: int  # its first process, as this machine sees it

    def run(self, *argv: str, user: str = "root", expect: int | None = 0, stdin: str = "", timeout: float = 120) -> str:
        """A command there, past SSH and Ansible; what it printed on both streams."""
        before = ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", "--", "runuser", "-u", user, "--"]
        done = subprocess.run(
            [*before, *argv], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
        )
        if expect is not None:
            assert done.returncode == expect, f"{self.name}: {argv}: exit status {done.returncode}\n{done.stdout}"
        return done.stdout

    def read(self, path: str) -> str:
        return self.run("cat", path)

    def write(self, path: str, content: str | bytes) -> None:
        where = Path(f"/proc/{self.pid}/root") / path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(content.encode() if isinstance(content, str) else content)


class Machines:
    """A switch and what is plugged into it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = directory / "administrator"
        self.address = f"{NETWORK}.1"  # whence `before` lets something reach the machines
        self.all: dict[str, Machine] = {}
        self._ends = ExitStack()
        self._switch = 0

    def __enter__(self) -> Machines:
        self.directory.mkdir(parents=True, exist_ok=True)
        make_key(self.key)
        with self._ends as ends:
            self._switch = ends.enter_context(process(["unshare", "--net", "sh", "-c", SWITCH, "sh", NETWORK], b"up\n"))
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ends.close()

    def start(self, name: str) -> Machine:
        number = len(self.all) + 2
        memory = self.directory / name
        memory.mkdir()
        sshd, public = find("sshd"), self.key.with_suffix(".pub")
        assert sshd is not None
        argv = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--propagation", "private"]
        argv += ["sh", "-c", BOOT, name, name, secrets.token_hex(16), str(public), str(memory), sshd]
        outer = self._ends.enter_context(process(argv, None, log=self.directory / f"{name}.log"))
        inner = wait_until(lambda: descendants(outer)[:1], "no first process")[0]
        machine = Machine(name, f"{NETWORK}.{number}", inner)
        port = f"port{number}"
        self._on_switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(inner))
        self._on_switch("ip", "link", "set", port, "master", "switch", "up")
        _run("nsenter", "-t", str(inner), "-n", "ip", "address", "add", f"{machine.address}/24", "dev", "eth0")
        _run("nsenter", "-t", str(inner), "-n", "ip", "link", "set", "eth0", "up")
        wait_until(lambda: "listening on" in (self.directory / f"{name}.log").read_text(), f"{name}: no sshd")
        self.all[name] = machine
        with (self.directory / "known_hosts").open("a") as known:
            known.write(f"{machine.address} {machine.read('/etc/ssh/ssh_host_ed25519_key.pub')}")
        return machine

    def before(self) -> list[str]:
        """In front of a command that shall reach the machines: it runs here, plugged into the switch."""
        return ["nsenter", "-t", str(self._switch), "-n", "--"]

    def _on_switch(self, *argv: str) -> None:
        _run(*self.before(), *argv)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=30)


@contextmanager
def process(argv: Sequence[str], first: bytes | None, *, log: Path | None = None) -> Iterator[int]:
    """Its pid while it runs; it has said `first`. Killed by pid, and with it what it holds up."""
    with ExitStack() as files:
        said = files.enter_context(log.open("wb")) if log else subprocess.PIPE
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=said, stderr=said if log else None)
        try:
            if first is not None:
                assert process.stdout is not None
                assert process.stdout.readline() == first
            yield process.pid
        finally:
            process.kill()
            process.communicate()
