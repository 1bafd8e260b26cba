"""Who still lives in a sandbox, and ending them: one small program sent to the staging host's Python (>= 3.6, Linux).

A process belongs to a sandbox when its command line or working directory contains one of the sandbox's directories,
when its environment says `DRILL_DIRECTORY=` one of them, or when it is one the drill started itself (same pid *and* same
start time, so that a reused pid is left alone). The directories travel by stdin: on the command line the program would
find itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backupctl.errors import CouldNotRunError
from backupctl.hosts.protocol import Host

GRACE_SECONDS = 5.0

_PROGRAM = r"""
import json, os, re, signal, sys, time

asked = json.loads(sys.stdin.read())
directories = [os.fsencode(text) for text in asked["directories"]] or [b"/nonexistent"]
inside = re.compile(b"(?:" + b"|".join(map(re.escape, directories)) + rb")(?![^/\0\s:,;'\"])")
variables = {b"DRILL_DIRECTORY=" + directory for directory in directories}

def read(pid, name):
    try:
        with open("/proc/%s/%s" % (pid, name), "rb") as stream:
            return stream.read()
    except OSError:
        return b""

def stat(pid):
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return (fields[0], int(fields[1]), fields[19].decode()) if len(fields) > 19 else (b"Z", 0, "")

def cwd(pid):
    try:
        return os.fsencode(os.readlink("/proc/%s/cwd" % pid))
    except OSError:
        return b""

own, pid = set(), os.getpid()
while pid > 0 and pid not in own:
    own.add(pid)
    pid = stat(pid)[1]

def living():
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in own:
            continue
        state, _, start = stat(name)
        if state in (b"Z", b"X") or not start:
            continue
        command = read(name, "cmdline")
        here = cwd(name)
        if (asked["pids"].get(name) == start or inside.search(command) or inside.match(here)
                or variables.intersection(read(name, "environ").split(b"\0"))):
            shown = command.split(b"\0")[0] or read(name, "comm")
            found[int(name)] = (start, os.path.basename(shown.decode("utf-8", "replace").strip()))
    return found

def send(number):
    for pid, (start, _) in living().items():
        try:
            if stat(pid)[2] == start:
                os.kill(pid, number)
        except OSError:
            pass

def wait(seconds):
    until = time.monotonic() + seconds
    while living() and time.monotonic() < until:
        time.sleep(0.05)

def listening():
    # (inode, port) of every TCP socket that listens
    for name in ("net/tcp", "net/tcp6"):
        for line in read("self", name).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == b"0A":
                yield fields[9].decode(), name[4:] + " port %d" % int(fields[1].rpartition(b":")[2], 16)

def ports_of(pids):
    held = set()
    for pid in pids:
        try:
            for number in os.listdir("/proc/%d/fd" % pid):
                held.add(os.readlink("/proc/%d/fd/%s" % (pid, number)))
        except OSError:
            pass
    return {"%s %s" % (inode, port) for inode, port in listening() if "socket:[%s]" % inode in held}

if not os.path.exists("/proc/self/stat"):
    sys.exit("this host has no /proc: nothing can be said about its processes")
ended = living() if asked["end"] else {}
listened = ports_of(ended)
if ended:
    send(signal.SIGTERM)
    wait(asked["grace"])
    for _ in range(5):
        if living():
            send(signal.SIGKILL)
            wait(1)
sockets = []
for line in read("net", "unix").splitlines()[1:]:
    path = line.split(None, 7)[7:]
    if path and inside.match(path[0]):
        sockets.append(os.fsdecode(path[0]).encode("utf-8", "replace").decode())
there = {"%s %s" % one for one in listening()}
sockets += sorted(one.partition(" ")[2] for one in (listened | set(asked["listened"]) | ports_of(living())) & there)
print(json.dumps({
    "listened": sorted(listened),
    "ended": ["%s (pid %d)" % (name, pid) for pid, (_, name) in sorted(ended.items())],
    "living": ["%s (pid %d)" % (name, pid) for pid, (_, name) in sorted(living().items())],
    "sockets": sorted(set(sockets)),
    "starts": {str(pid): stat(pid)[2] for pid in asked["ask"]},
}))
"""


@dataclass(frozen=True, slots=True)
class Inhabitants:
    """For people: `ended` were sent away, `living` are still there; `sockets` listen below the directory, or are TCP ports on
    which one of the drill's processes listened and something still does."""

    ended: list[str]
    living: list[str]
    sockets: list[str]
    listened: list[str]  # inode and port of what those who were ended had listened on


def find(
    host: Host, directories: Sequence[bytes], pids: Mapping[str, str], listened: Sequence[str] = ()
) -> Inhabitants:
    """Who lives in one of `directories`. `pids`: what the drill started itself, pid → start time (see `start_time`).
    `listened`: as `end` said."""
    return _inhabitants(_ask(host, "find", directories, pids, listened=listened))


def end(host: Host, directories: Sequence[bytes], pids: Mapping[str, str]) -> Inhabitants:
    """End them: SIGTERM, after `GRACE_SECONDS` SIGKILL. Says who is left."""
    return _inhabitants(_ask(host, "end", directories, pids))


def start_time(host: Host, pid: int) -> str:
    """When `pid` started, in the kernel's own words; "" when there is no such process."""
    answer = _ask(host, "find", (), {}, ask=pid)
    return str(answer["starts"][str(pid)])


def _inhabitants(answer: dict[str, Any]) -> Inhabitants:
    return Inhabitants(list(answer["ended"]), list(answer["living"]), list(answer["sockets"]), list(answer["listened"]))


def _ask(
    host: Host,
    verb: Literal["find", "end"],
    directories: Sequence[bytes],
    pids: Mapping[str, str],
    *,
    ask: int = 0,
    listened: Sequence[str] = (),
) -> dict[str, Any]:
    question = {
        "end": verb == "end",
        "directories": [os.fsdecode(directory) for directory in directories],
        "pids": dict(pids),
        "grace": GRACE_SECONDS,
        "ask": [ask] if ask else [],
        "listened": list(listened),
    }
    done = host.run([host.python, "-c", _PROGRAM], stdin=json.dumps(question).encode(), timeout=GRACE_SECONDS + 60)
    if done.returncode != 0:
        raise CouldNotRunError(
            f"the processes of host {host.name} cannot be listed: {done.stderr.strip()[-500:] or done.returncode}",
            next_step=f"check that {host.python} runs there and that /proc is mounted",
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
