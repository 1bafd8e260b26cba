"""A restricted account for reading one host: what it may do, and the files that make sure of it.

`Rules` say which paths and commands the sources of that host need. `files` puts them, with our own far programs, into one
wrapper that sshd runs instead of whatever the key's owner asks for (`wrapper.py`), and gives the line for
authorized_keys and, where root has to read, the one for sudo.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pprint import pformat
from types import ModuleType

from backupctl.hosts import agent, far, placing, posix, private, supervisor, wrapper

WRAPPER = "/usr/local/lib/backupctl/wrapper"
SUDOERS = "/etc/sudoers.d/backupctl-{user}"
PRIVATE_PATH = r"/[^\0]*/backupctl-\w+/private"  # what `private.put` gives, as a pattern


@dataclass(frozen=True, slots=True)
class Rules:
    """What reading needs. `paths` may be read whole, of `lists` only the names; `commands` are expressions that an argv, joined
    by NUL, must match as a whole (see `command`); `queries` are commands that take no input: their arguments are all there
    is, so they may start others. `private` are expressions for the content of password files."""

    paths: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __or__(self, other: Rules) -> Rules:
        return Rules(
            _merged(self.paths, other.paths),
            _merged(self.lists, other.lists),
            _merged(self.commands, other.commands),
            _merged(self.queries, other.queries),
            _merged(self.private, other.private),
            {**self.environment, **other.environment},
        )


@dataclass(frozen=True, slots=True)
class AccountFile:
    """To be installed as root, owned by root."""

    path: str
    mode: int
    content: str


def _merged(some: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*some, *others]))


def command(*words: str) -> str:
    """The rule for one argv of literal words."""
    return r"\0".join(map(re.escape, words))


def program(text: str, *words: str) -> str:
    """The rule for a program of ours, sent as `python3 -c TEXT`, with literal arguments."""
    digest = sha256(text.encode()).hexdigest()
    return r"\0".join(["python3", f"sha256:{digest}", *map(re.escape, words)])


def files(
    user: str,
    public_key: str,
    rules: Rules,
    *,
    addresses: Sequence[str] = (),
    as_root: bool = False,
    forwards: Sequence[str] = (),
) -> list[AccountFile]:
    """`forwards`: ADDRESS:PORT of each host that is reached through this one."""
    found = [
        AccountFile(WRAPPER, 0o755, wrapper_text(rules, as_root=as_root)),
        AccountFile(
            f"/home/{user}/.ssh/authorized_keys",
            0o644,
            authorized_key(public_key, addresses=addresses, forwards=forwards),
        ),
    ]
    if as_root:
        found.append(AccountFile(SUDOERS.format(user=user), 0o440, sudoers(user)))
    return found


def authorized_key(public_key: str, *, addresses: Sequence[str] = (), forwards: Sequence[str] = ()) -> str:
    """One line for authorized_keys, see sshd(8)."""
    options = ["restrict", f'command="{WRAPPER}"']
    options += [f'from="{",".join(addresses)}"'] if addresses else []
    options += ["port-forwarding", *(f'permitopen="{place}"' for place in forwards)] if forwards else []
    return f"{','.join(options)} {public_key}\n"


def sudoers(user: str) -> str:
    """The wrapper with one fixed argument, and nothing else."""
    return (
        f"Defaults!{WRAPPER} !requiretty, env_keep += SSH_CONNECTION\n"
        f"{user} ALL=(root) NOPASSWD: {WRAPPER} {wrapper.AS_ROOT}\n"
    )


def wrapper_text(rules: Rules, *, as_root: bool = False) -> str:
    agent_program = far.program()
    encoded = {
        "paths": [agent.text_of(path.encode("utf-8", "surrogateescape")) for path in rules.paths],
        "lists": [agent.text_of(path.encode("utf-8", "surrogateescape")) for path in rules.lists],
        "commands": list(rules.commands),
        "queries": list(rules.queries),
        "private": list(rules.private),
        "environment": dict(rules.environment),
        "as_root": as_root,
        "agent": sha256(agent_program).hexdigest(),
        "agent_bytes": len(agent_program),
        "start": sha256(far.START.encode()).hexdigest(),
        "supervisor": sha256(inspect.getsource(supervisor).encode()).hexdigest(),
    }
    last = f"rules = {pformat(encoded, width=110, sort_dicts=False)}\nsys.exit(module.main(rules, sys.argv[1:]))"
    modules: tuple[ModuleType, ...] = (posix, private, placing, agent, supervisor, wrapper)
    head = "#!/usr/bin/python3 -IS\n# Made by `backupctl host account`. Do not change: make it again.\n"
    return head + far.assembled(modules, last).decode("ascii") + "\n"
