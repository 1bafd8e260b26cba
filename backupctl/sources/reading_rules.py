"""What each kind of source asks of its host when it is only read: the rules of a restricted account (`hosts/account.py`).

The patterns are made of the very argument lists that the sources use, with marks where a name or a number varies.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from pydantic import BaseModel

from backupctl.errors import UsageError
from backupctl.hosts.account import PRIVATE_PATH, Rules, command, program
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import ASK_TIME
from backupctl.sources import (
    copy_program,
    digest_program,
    discovery_program,
    postgresql_client,
    redis_program,
    sqlite_program,
    tee_program,
)
from backupctl.sources.files import FilesOptions
from backupctl.sources.mariadb import MariadbOptions
from backupctl.sources.mariadb_client import MariadbClient
from backupctl.sources.mariadb_fingerprint import GO_ON, SCHEMA
from backupctl.sources.mariadb_programs import SERIES
from backupctl.sources.mariadb_views import DUMP
from backupctl.sources.postgresql import PostgresqlOptions
from backupctl.sources.postgresql_client import DUMP_OPTIONS, MAJOR, PostgresClient
from backupctl.sources.postgresql_ordered import LOCK_WAIT
from backupctl.sources.postgresql_session import RESTRICT_KEY
from backupctl.sources.redis import RedisOptions
from backupctl.sources.software import SoftwareOptions
from backupctl.sources.software_inventory import (
    CRON_PATHS,
    DATABASES,
    EXTENSIONS,
    LISTS,
    PSQL,
    READING_COMMANDS,
    SERVER_PROGRAMS,
    SERVER_VERSION,
)
from backupctl.sources.sqlite import ASK_VERSION, SqliteOptions
from backupctl.sources.streams import program_text, programs_text

HELD = "\ue000"  # private use characters stand for what varies; in front of patterns they are replaced
NAME = "\ue001"
PROGRAM = "\ue002"

COMMON = Rules(commands=(program(ASK_TIME), program(program_text(discovery_program))))
"""What `doctor` and `status` ask any host."""


def rules(kind: str, options: BaseModel) -> Rules:
    """Raises UsageError for what a restricted account cannot do."""
    return COMMON | _KINDS[kind](options)


def _files(options: FilesOptions) -> Rules:
    snapshot = options.snapshot
    if snapshot is None:
        return Rules(paths=tuple(options.paths))
    made = [command(*argv) for argv in (*snapshot.create, *snapshot.remove)]
    lists = (*options.paths, snapshot.of, snapshot.at)  # what a preflight looks at
    return Rules(paths=tuple(options.places()), lists=lists, queries=tuple(made))


def _sqlite(options: SqliteOptions) -> Rules:
    text, scratch = program_text(sqlite_program), options.scratch or ""
    ordered = sorted(options.all_paths, key=lambda path: posixpath.basename(path).encode())
    copies = [program(text, "snapshot", path, scratch) for path in options.all_paths]
    copies += [program(text, "together", scratch, *ordered)] if options.together else []
    lists = (*options.all_paths, options.scratch or "/tmp")  # noqa: S108 - where the far Python's tempfile goes too
    return Rules(lists=lists, commands=(program(ASK_VERSION), *copies))


def _redis(_options: RedisOptions) -> Rules:
    text = program_text(redis_program)
    return Rules(commands=(program(text, "facts"), program(text, "dump")))


def _filled(argv: Iterable[str], marks: dict[str, str]) -> str:
    """The rule for an argv with marks."""
    rule = command(*argv)
    for mark, pattern in marks.items():
        rule = rule.replace(mark, pattern)
    return rule


def _maybe(rule: str) -> str:
    """What may follow a rule."""
    return rf"(?:\0{rule})?"


def _postgresql(options: PostgresqlOptions) -> Rules:
    if options.method == "physical":
        raise UsageError(
            "PostgreSQL with `method: physical` needs more of its host than a restricted account gives",
            next_step="use `method: dump` or `ordered`, or an account without a forced command for this host",
        )
    directories: tuple[str, ...] = (f"/usr/lib/postgresql/{MAJOR}/bin/", f"/usr/pgsql-{MAJOR}/bin/")
    if options.bin_dir:
        directories = (options.bin_dir.rstrip("/") + "/",)
    found = "|".join(re.escape(one).replace(re.escape(MAJOR), r"\d+(?:\.\d+)*") for one in directories)
    optional = "" if options.bin_dir else "?"
    names = "[^\\0]*"
    if options.databases != "all":
        known = [*options.databases, "postgres"]
        names = "(?:" + "|".join(re.escape(postgresql_client.conninfo_value(name)) for name in known) + ")"
    marks = {
        PROGRAM: f"(?:{found}){optional}",
        HELD: r"[0-9A-Fa-f-]+",
        re.escape(f" dbname='{NAME}'"): f"(?: dbname={names})?",
    }

    def rule(name: str, *words: str) -> str:
        return _filled([PROGRAM + name, *words], marks)

    client = PostgresClient(LocalHost(), "", options.conninfo)
    connect = ["-d", client.database(NAME)]
    dump = [*DUMP_OPTIONS, f"--snapshot={HELD}"]
    tables = r"(?:\0--exclude-table-data=[^\0]*)*"
    queries = [
        *(rule(name, "--version") for name in ("psql", "pg_dump")),
        rule("pg_dumpall", "--help"),
        rule("pg_dump", *dump, *connect),
        rule("pg_dump", *dump, f"--lock-wait-timeout={LOCK_WAIT}") + tables + r"\0" + _filled(connect, marks),
        rule("pg_dump", "--schema-only", "--no-password", *connect) + _maybe(_filled([f"--snapshot={HELD}"], marks)),
        rule("pg_dumpall", "--globals-only", "--no-password", *connect)
        + _maybe("--no-role-passwords")
        + _maybe(command(f"--restrict-key={RESTRICT_KEY}")),
    ]
    commands = [
        rule(*client.psql(NAME)),
        rule("pg_restore", "-f", "/dev/null"),
        program(program_text(tee_program)),
        program(program_text(digest_program)),
        program(programs_text(copy_program, digest_program)),
    ]
    parents = ["/usr/lib/postgresql", "/usr"]
    if options.bin_dir:
        parents = [posixpath.dirname(options.bin_dir.partition(MAJOR)[0]) or "/"]
    return Rules(
        lists=tuple(parents),
        commands=tuple(commands),
        queries=tuple(queries),
        private=(r"\*:\*:\*:\*:[^\n]*\n",),
        environment={
            "PGPASSFILE": PRIVATE_PATH,
            "PGAPPNAME": "backupctl",
            "PGCONNECT_TIMEOUT": r"\d+",
            "PGCLIENTENCODING": "UTF8",
        },
    )


def _mariadb(options: MariadbOptions) -> Rules:
    family = options.family
    if options.method != "logical" or options.binlog is not None:
        what = "binlog" if options.method == "logical" else f"method: {options.method}"
        raise UsageError(
            f"{family.name} with `{what}` needs more of its host than a restricted account gives",
            next_step="use `method: logical`, or an account without a forced command for this host",
        )
    if options.bin_dir and SERIES in options.bin_dir:
        raise UsageError(
            f"a restricted account runs {family.name}'s programs from one directory only",
            next_step="name it in `bin_dir`",
        )
    prefix = options.bin_dir.rstrip("/") + "/" if options.bin_dir else ""
    names = r"[^\0-][^\0]*"
    if options.databases != "all":
        names = "(?:" + "|".join(map(re.escape, options.databases)) + ")"
    marks = {HELD: PRIVATE_PATH, NAME: names}
    commands = []
    for name in (*family.clients, *family.dumpers):
        commands.append(command(prefix + name, "--version"))
    positions = _maybe(command(*family.positions)) if family.positions else ""
    connected = MariadbClient(LocalHost(), "", options.client_options(), f"--defaults-extra-file={HELD}", family)
    for name in family.clients:
        client = replace(connected, client=prefix + name)
        commands.append(_filled(client.argv(), marks) + _maybe(f"(?:{re.escape(GO_ON)}|{names})"))
    for name in family.dumpers:
        client = replace(connected, dumper=prefix + name)
        commands.append(_filled(client.dump_argv(*DUMP), marks) + positions + rf"\0--databases\0{names}")
        commands.append(_filled(client.dump_argv(*SCHEMA, "--databases", NAME), marks))
        if options.users and family.accounts is not None:
            commands.append(_filled(client.dump_argv(*family.accounts), marks))
    return Rules(
        commands=(*commands, program(program_text(digest_program))),
        private=(r'\[client\]\n(?:password="(?:[^"\\\n]|\\.)*"\n)?',),
    )


def _software(options: SoftwareOptions) -> Rules:
    versions = [command(name, "--version") for name in SERVER_PROGRAMS]
    versions += [rf"{re.escape(base)}[\w-]+/bin/postgres\0--version" for base in ("/usr/lib/postgresql/", "/usr/")]
    lists = ["/usr/lib/postgresql", "/usr", *(path.decode() for path in LISTS)]
    paths = ["/etc/passwd", "/etc/group", *(path.decode() for path in CRON_PATHS), *options.trees]
    asked = [command(*words) for words in READING_COMMANDS]
    quoted = r"'(?:[^'\\\0]|\\.)*'"
    asked += [command(*PSQL, "-d", "dbname=postgres", "-c", query) for query in (SERVER_VERSION, DATABASES)]
    asked.append(rf"{command(*PSQL)}\0-d\0dbname={quoted}\0-c\0{command(EXTENSIONS)}")
    return Rules(paths=tuple(paths), lists=tuple(lists), queries=(*versions, *asked))


_KINDS: dict[str, Callable[..., Rules]] = {
    "files": _files,
    "mariadb": _mariadb,
    "mysql": _mariadb,
    "postgresql": _postgresql,
    "redis": _redis,
    "software": _software,
    "sqlite": _sqlite,
}
