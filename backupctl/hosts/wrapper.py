"""The forced command of a restricted account: whoever logs in with the key gets this program and nothing else.

`account.py` puts it together with `posix`, `placing`, `agent` and `supervisor` into one file that stands on the host and
belongs to root. Standard library only, Python >= 3.6. What was asked for comes in SSH_ORIGINAL_COMMAND (sshd(8)); it is
compared, never run: the agent is the one in this file, whatever text was sent, and serves the reading requests alone,
below the paths it was made for. A command must match one of the rules as a whole. Everything else is refused, and the
system log says so. Queries are commands that read nothing but their arguments.

Database clients read scripts, and their scripts can start shells and write files (`\\!`, `\\o`). So they run with
RLIMIT_NPROC and RLIMIT_FSIZE at 0: they can start no process and write no byte into a file. Programs of ours that start a
client do so through the same rules.
"""

# ruff: noqa: PTH100, PTH115, PTH118 - pathlib knows no bytes

import errno
import hashlib
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import syslog
from typing import TYPE_CHECKING, Any

from backupctl.hosts import agent, posix, supervisor

REFUSED = 126
SIGN = "backupctl wrapper"  # by which the asker tells our refusals from anything else on standard error
OTHER_VERSION = "this wrapper was made by another version of backupctl: install the one of `backupctl host account`"
SHOWN_CHARACTERS = 900
PRIVATE_LIMIT_BYTES = 64 * 1024
READ = ("scan", "next", "end_scan", "open", "read", "changed", "end_read")
LOOK = ("stat", "list", "free", "facts", "private", "end_private")
AS_ROOT = "agent"  # our only argument: what sudo may start

if TYPE_CHECKING:
    from typing import NoReturn

    from backupctl.hosts.agent import Answer, Head

    Rules = dict[str, Any]


class Refused(Exception):
    """Why."""


def log(what: str, why: str) -> None:
    peer = os.environ.get("SSH_CONNECTION", "").split(" ")[0] or "somebody"
    user = os.environ.get("SUDO_USER", "") or posix.user_name(os.getuid())
    syslog.openlog("backupctl-wrapper", syslog.LOG_PID, syslog.LOG_AUTH)
    syslog.syslog(syslog.LOG_WARNING, f"refused {user} from {peer}: {why}: {what[:SHOWN_CHARACTERS]!a}")


def refuse(what: str, why: str) -> "NoReturn":
    log(what, why)
    sys.stderr.write(f"{SIGN}: refused: {why}\n")
    sys.exit(REFUSED)


def inside(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root.rstrip(b"/") + b"/")


def real(root: bytes) -> bytes:
    """`root` with the links resolved that lead to it; a link of that name itself is not followed."""
    parent, name = posix.split(root)
    return b"/" if name == b"." else os.path.join(os.path.realpath(parent), name)


class ReadingAgent(agent.Agent):
    """The agent, without anything that writes, for the paths of the rules. One file is written: what a password needs."""

    def __init__(self, rules: "Rules") -> None:
        super().__init__()
        self.private_forms = rules["private"]
        self.roots = [agent.bytes_of(path) for path in rules["paths"]]
        self.listed = self.roots + [agent.bytes_of(path) for path in rules["lists"]]
        self.real_roots = [real(root) for root in self.roots]

    def answer(self, head: "Head", payload: bytes) -> "Answer":
        try:
            self._allow(str(head.get("do")), head, payload)
        except Refused as reason:
            log(str(head.get("do")) + " " + str(head.get("path", "")), str(reason))
            return {"errno": errno.EACCES, "text": f"{SIGN}: refused: {reason}", "file": ""}, b""
        return super().answer(head, payload)

    def _allow(self, do: str, head: "Head", payload: bytes) -> None:
        """Scans begin at whole roots only: a directory on the way to one below could be a link by now."""
        path = agent.bytes_of(head.get("path", ""))
        if do not in READ + LOOK:
            raise Refused("not a request that reads")
        if do == "scan":
            allowed = path in self.roots
        elif do == "stat":
            shown = path[:-2] if path.endswith(b"/.") else path  # what is behind it, should it be a link
            allowed = any(inside(root, shown or b"/") for root in self.listed)  # with what is above
        elif do in ("list", "free"):
            allowed = path in self.listed
        elif do == "open":
            allowed = any(inside(path, root) for root in self.roots)
        elif do == "private":
            text = payload.decode("utf-8", "surrogateescape")
            if len(payload) > PRIVATE_LIMIT_BYTES or not any(re.fullmatch(form, text) for form in self.private_forms):
                raise Refused("not the password file of a database client")
            return
        else:
            return
        if not allowed:
            raise Refused("not a path of this account")

    def opened(self, path: bytes) -> "tuple[int, os.stat_result]":
        descriptor, status = super().opened(path)
        where = os.readlink(b"/proc/self/fd/%d" % descriptor)
        if any(inside(where, root) for root in self.real_roots):
            return descriptor, status
        os.close(descriptor)
        log(os.fsdecode(path), "a link leads out of what this account may read")
        raise PermissionError(errno.EACCES, f"{SIGN}: refused: a link leads elsewhere", os.fsdecode(path))

    def do_private(self, head: "Head", payload: bytes) -> "Answer":
        answer = super().do_private(head, payload)
        owner = os.environ.get("SUDO_UID", "")
        if os.getuid() == 0 and owner:  # the client that reads it runs as who logged in
            path = agent.bytes_of(answer[0]["path"])
            for one in (path, posix.split(path)[0]):
                os.chown(one, int(owner), int(os.environ["SUDO_GID"]))
        return answer


def serve_agent(rules: "Rules") -> int:
    """The agent of this file, when the one that is sent is the same."""
    sent = sys.stdin.buffer.read(rules["agent_bytes"])
    if hashlib.sha256(sent).hexdigest() != rules["agent"]:
        refuse(f"an agent of {len(sent)} bytes", OTHER_VERSION)
    agent.serve(ReadingAgent(rules))
    return 0


def checked(argv: "list[str]", rules: "Rules") -> "tuple[str, bool]":
    """The text of a program of ours, or "" for another command; and whether it is a query. Raises Refused."""
    words, text = list(argv), ""
    if len(argv) > 2 and argv[0] == "python3" and argv[1] == "-c":
        text = argv[2]
        words[1:3] = ["sha256:" + hashlib.sha256(os.fsencode(text)).hexdigest()]
    asked = "\0".join(words)
    if any(re.fullmatch(rule, asked) for rule in rules["queries"]):
        return text, True
    if any(re.fullmatch(rule, asked) for rule in rules["commands"]):
        return text, False
    raise Refused("no rule allows this command")


def limit() -> None:
    for what in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(what, (0, 0))


def become(argv: "list[str]", environment: "dict[str, str]", rules: "Rules") -> int:
    """In the child that the supervisor watches: a program of ours, or a client under limits."""
    text, query = checked(argv, rules)
    if query:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    elif not text:
        limit()
    if not text:
        return supervisor.execute(argv, environment)

    start = subprocess.Popen

    def start_checked(command: "list[str]", **options: Any) -> "subprocess.Popen[bytes]":
        other, query = checked(command, rules)
        if other:
            raise Refused("a program of ours starts no other")
        return start(command, preexec_fn=None if query else limit, **options)

    supervisor.settle()
    os.environ.clear()
    os.environ.update(environment)
    vars(subprocess)["Popen"] = start_checked  # the program imports this very module
    sys.argv = ["-c", *argv[3:]]
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    try:
        exec(compile(text, "backupctl", "exec"), main.__dict__)  # noqa: S102 - its digest is in the rules
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
    except Refused as reason:
        log("what a program of ours was told to start", str(reason))
        sys.stderr.write(f"{SIGN}: refused: {reason}\n")
        code = REFUSED
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def run_command(words: "list[str]", rules: "Rules") -> int:
    """`words`: the arguments of the supervisor, which is the one of this file."""
    if len(words) < 3 or words[0] != "1" or not words[1].isdigit():
        raise Refused("not a command of backupctl")
    count = int(words[1])
    environment = supervisor.minimal_environment()
    for pair in words[2 : 2 + count]:
        name, _, value = pair.partition("=")
        if not re.fullmatch(rules["environment"].get(name, "(?!)"), value):
            raise Refused(f"no rule allows the variable {name}")
        environment[name] = value
    argv = words[2 + count :]
    checked(argv, rules)
    if os.getuid() == 0:
        raise Refused("limits do not bind root: commands need an account of their own")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return supervisor.supervise(1, argv, environment, lambda command, variables: become(command, variables, rules))


def main(rules: "Rules", arguments: "list[str]") -> int:
    if arguments == [AS_ROOT]:
        return serve_agent(rules)
    asked = os.environ.pop("SSH_ORIGINAL_COMMAND", "")
    try:
        words = shlex.split(asked)
    except ValueError:
        words = []
    if words[:5] != ["exec", "python3", "-I", "-S", "-c"] or len(words) < 7:
        refuse(asked or "a shell", "not a command of backupctl")
    program = hashlib.sha256(os.fsencode(words[5])).hexdigest()
    if program == rules["start"] and words[6:] == [str(rules["agent_bytes"])]:
        if rules["as_root"]:
            ourselves = os.path.abspath(sys.argv[0])  # the path that sudoers knows, not where it leads
            os.execvp("sudo", ["sudo", "-n", ourselves, AS_ROOT])  # noqa: S606 - no shell is the point
        return serve_agent(rules)
    if program != rules["supervisor"]:
        refuse(asked, OTHER_VERSION)
    try:
        return run_command(words[6:], rules)
    except Refused as reason:
        refuse(" ".join(words[6:]), str(reason))
