"""Starts and stops a throw-away server on a host: sent as text to the far Python (>= 3.6).

    start LOG ARGV…                     detached, output to LOG; prints {"pid", "started"}
    stop PID STARTED SIGNAL SECONDS     signal, wait, then SIGKILL; a PID that is another process by now is left alone
    alive PID STARTED                   exit status 0 or 1

`started` is the process's start time in clock ticks since boot (field 22 of /proc/PID/stat), which tells a recycled pid.
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
import time


def start_time(pid: int) -> str:
    """ "" when there is no such process, or only its zombie."""
    try:
        with pathlib.Path("/proc", str(pid), "stat").open("rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == b"Z" else fields[19].decode()


def start(log: str, argv: "list[str]") -> int:
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid == 0:
            null, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(null, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.closerange(3, 1024)
            try:
                os.execvp(argv[0], argv)  # noqa: S606 - no shell is the point
            finally:
                os._exit(127)
        os.write(writing, b"%d" % pid)
        os._exit(0)
    os.close(writing)
    pid = int(os.read(reading, 32))
    sys.stdout.write(json.dumps({"pid": pid, "started": start_time(pid)}) + "\n")
    return 0


def stop(pid: int, started: str, number: int, seconds: float) -> int:
    if not started:  # it had ended by the time that `start` looked
        return 0
    deadline = time.monotonic() + seconds
    for signal_number in (number, signal.SIGKILL):
        if start_time(pid) != started:
            return 0
        with contextlib.suppress(ProcessLookupError):  # it ended between the look and the signal
            os.kill(pid, signal_number)
        while start_time(pid) == started and (time.monotonic() < deadline):
            time.sleep(0.02)
        deadline = time.monotonic() + 10
    return 0 if start_time(pid) != started else 1


def main(arguments: "list[str]") -> int:
    verb = arguments[0]
    if verb == "start":
        return start(arguments[1], arguments[2:])
    pid, started = int(arguments[1]), arguments[2]
    if verb == "stop":
        return stop(pid, started, int(arguments[3]), float(arguments[4]))
    return 0 if start_time(pid) == started else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
