"""A machine that systemd has booted, in namespaces: pid 1 is the real one, with a cgroup tree of its own, over a copy in memory of
this machine's files. It reaches nothing outside, nothing outside is changed, and all ends with its first process.

None of the units that somebody enabled on this machine starts: `/etc/systemd/system` is empty there.

Needs root, and a kernel that gives namespaces, overlays and cgroups of version 2.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.end_to_end.processes import gone, wait_until, words_of
from tests.servers.machines import Machine, process
from tests.servers.sshd import descendants, find

# into a cgroup below our own first: what that namespace begins with is the root that systemd sees
ENTER = r"""
set -eu
mount -t tmpfs -o size=2g,mode=755 tmpfs "$1"
mkdir "$1/cgroup"
mount -t cgroup2 cgroup2 "$1/cgroup"
own="$1/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/$2"
mkdir "$own"
echo $$ > "$own/cgroup.procs"
exec unshare --cgroup --pid --net --ipc --uts --fork --kill-child sh -c "$3" sh "$@"
"""
BOOT = r"""
set -eu
memory=$1 name=$2 systemd=$4
shift 4
root=$memory/root
umount "$memory/cgroup"
mkdir "$memory/upper" "$memory/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$memory/upper,workdir=$memory/work" "$root"
for place in "$@"; do  # the program and its Python, which may lie in another file system
  mkdir -p "$root$place"
  mount --bind "$place" "$root$place"
  mount -o remount,bind,ro "$root$place"
done
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for place in run tmp dev etc/systemd/system; do mount -t tmpfs -o mode=755 tmpfs "$root/$place"; done
chmod 1777 "$root/tmp"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for unit in systemd-modules-load systemd-remount-fs systemd-sysctl; do
  ln -s /dev/null "$root/etc/systemd/system/$unit.service"  # what they would change is this machine's
done
hostname "$name"
chmod 0711 "$root/root"  # this machine's Python may be there, and services of others start it
cd "$root"
mkdir before
pivot_root . before
umount -l before
exec env -i container=tests PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  "$systemd" --system --unit=basic.target --show-status=no
"""
LEAVE = r"""
mount -t tmpfs tmpfs "$1" && mkdir "$1/cgroup" && mount -t cgroup2 cgroup2 "$1/cgroup" || exit 0
own="$1/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/$2"
[ ! -d "$own" ] || find "$own" -depth -type d -exec rmdir {} +
"""
SYSTEMD = "/lib/systemd/systemd"
PRIVATE = ("/tmp", "/var/tmp", "/run", "/dev")  # what PrivateTmp= and the boot hide


class RefusedError(Exception):
    """This machine does not let one be booted; says why."""


@contextmanager
def booted(directory: Path, *places: Path) -> Iterator[Machine]:
    """The machine; beside its files it has `places` of this one, read-only. Raises RefusedError."""
    if os.geteuid() != 0:
        raise RefusedError("only root can boot a machine in namespaces")
    if missing := [one for one in ("unshare", "nsenter", SYSTEMD) if find(one) is None]:
        raise RefusedError(f"no {', '.join(missing)}")
    if hidden := [one for one in places for private in PRIVATE if one.is_relative_to(private)]:
        raise RefusedError(f"{hidden[0]} is in a directory that services have one of their own of")
    memory, log = directory / "memory", directory / "boot.log"
    memory.mkdir(parents=True)
    name = f"booted-{secrets.token_hex(4)}"
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    argv = [*enter, ENTER, "sh", str(memory), name, BOOT, SYSTEMD, *map(str, places)]
    try:
        with process(argv, None, log=log) as outer:
            inner = wait_until(lambda: _first(outer, log), "a first process")[0]
            machine = Machine(name, "", inner)
            try:
                wait_until(lambda: _is_up(machine, log), "systemd to have booted", 120)
                yield machine
            finally:
                os.kill(inner, 9)
                wait_until(lambda: gone(inner), "the machine to end")
    finally:
        wait_until(lambda: _left([*enter, LEAVE, "sh", str(memory), name]), "its cgroups to be empty")


def _first(outer: int, log: Path) -> list[int]:
    if gone(outer):
        raise RefusedError(f"no machine can be booted here: {log.read_text().strip()}")
    return [pid for pid in descendants(outer)[:1] if words_of(pid)[:1] == [SYSTEMD]]


def _is_up(machine: Machine, log: Path) -> bool:
    if gone(machine.pid):
        raise RefusedError(f"systemd does not boot here: {log.read_text().strip()}")
    return machine.run("systemctl", "is-system-running", expect=None).strip() in ("running", "degraded")


def _left(argv: list[str]) -> bool:
    return subprocess.run(argv, capture_output=True, timeout=60).returncode == 0


def installed() -> tuple[Path, ...]:
    """Where the program under test and its Python are; not the system's /usr, which a booted machine has, and may write to."""
    return tuple({Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2]} - {Path("/usr")})
