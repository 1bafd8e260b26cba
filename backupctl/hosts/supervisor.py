"""Runs one command so that it cannot outlive whoever asked for it. Standard library only, Python >= 3.6.

    python3 -I -S supervisor.py WATCH COUNT NAME=VALUE… PROGRAM [ARGUMENT…]

The command runs in its own process group with a minimal environment (PATH, HOME, LC_ALL, TZ) and the COUNT values
given. WATCH is a file descriptor whose other end the asker holds: here a pipe, over SSH standard output. When that
end closes, because the asker is done, was killed or lost the connection, the whole group gets SIGKILL. This needs no
signal from a dying parent (PR_SET_PDEATHSIG fires when the parent's *thread* ends) and works alike on a far host.
Ends with the command's exit status, 128 + n for signal n, 127 when there is no such program, 126 when it cannot run.
"""

import contextlib
import os
import select
import signal
import sys

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than everything else here together
if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def minimal_environment() -> "dict[str, str]":
    path = [part for part in os.environ.get("PATH", "").split(":") if part]
    path += [part for part in DIRECTORIES if part not in path]  # sshd leaves out sbin, where servers live
    return {"PATH": ":".join(path), "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def settle() -> None:
    """What a command expects: signals as they were made, the root directory."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.chdir("/")


def execute(argv: "list[str]", environment: "dict[str, str]") -> int:
    """Become the command; return only when that is not possible."""
    settle()
    try:
        os.environ["PATH"] = environment["PATH"]  # execvpe looks the program up in the command's PATH already
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - becoming the command is this program's purpose
    except OSError as error:
        # a directory of PATH that we may not enter gives EACCES for a program that is nowhere
        places = [argv[0]] if "/" in argv[0] else [part + "/" + argv[0] for part in environment["PATH"].split(":")]
        there = any(os.access(place, os.F_OK) for place in places)
        reason, code = (str(error.strerror), 126) if there else ("no such program", 127)
    os.write(2, os.fsencode(f"{argv[0]}: {reason}\n"))
    return code


def supervise(
    watch: int,
    argv: "list[str]",
    environment: "dict[str, str]",
    become: "Callable[[list[str], dict[str, str]], int]" = execute,
) -> int:
    """Run `become` in a child, and end as it does."""
    if watch > 2:
        os.set_inheritable(watch, False)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os._exit(become(argv, environment))
    with contextlib.suppress(OSError):  # fails when the child was faster and has already become the command
        os.setpgid(pid, pid)  # both sides set it: whoever comes first, a kill always finds the group
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in {0, 1, 2} - {watch}:  # an end that the command closes must not be held open here
        os.dup2(null, descriptor)
    poller = select.poll()
    poller.register(wake_read, select.POLLIN)
    poller.register(watch, 0)  # only POLLHUP and POLLERR: the other end is gone
    while True:
        stop = False
        for descriptor, _events in poller.poll():
            stop |= descriptor != wake_read or any(number != signal.SIGCHLD for number in os.read(wake_read, 512))
        if stop:
            with contextlib.suppress(PermissionError):  # it has become somebody else (sudo): wait for it instead
                os.killpg(pid, signal.SIGKILL)
        ended, status = os.waitpid(pid, 0 if stop else os.WNOHANG)
        if ended:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def main(arguments: "list[str]") -> int:
    watch, count = int(arguments[0]), int(arguments[1])
    environment = minimal_environment()
    for pair in arguments[2 : 2 + count]:
        name, _, value = pair.partition("=")
        environment[name] = value
    return supervise(watch, arguments[2 + count :], environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
