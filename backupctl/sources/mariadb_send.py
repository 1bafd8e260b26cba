"""A restored MariaDB or MySQL database, brought from its private server into one that others use, under a name that is free there.

Whatever way it was restored, it goes on as a dump without its own name. Events stay behind: in a live server they would run. It is
compared on both sides, and taken away again when anything went wrong.
"""

# ruff: noqa: S608 - names cannot be parameters: `identifier` and `literal` quote them

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from backupctl.errors import CouldNotRunError, DamageError, SourceError, UsageError
from backupctl.hosts.protocol import Host
from backupctl.sources.mariadb import MariadbOptions
from backupctl.sources.mariadb_client import (
    MariadbClient,
    identifier,
    literal,
    numbers,
    option_file,
    series,
)
from backupctl.sources.mariadb_family import Family
from backupctl.sources.mariadb_fingerprint import SCHEMA, defining_lines, digest_tables, read_sequences, read_tables
from backupctl.sources.mariadb_instance import load_sql
from backupctl.sources.mariadb_programs import any_client
from backupctl.sources.mariadb_session import of_database
from backupctl.sources.mariadb_views import DUMP, no_end
from backupctl.sources.protocol import CheckResult
from backupctl.sources.streams import ProcessStream, compare_tables, gone_unless_whole

WORDS = {"address": "--host", "port": "--port", "user": "--user"}
WITHOUT_EVENTS = "--skip-events"
OBJECTS = {  # of a view it is resolved; the text of these is what was typed
    "routine": "SELECT HEX(routine_name), HEX(routine_definition) FROM information_schema.routines WHERE routine_schema = {name};",
    "trigger": "SELECT HEX(trigger_name), HEX(action_statement) FROM information_schema.triggers WHERE trigger_schema = {name};",
}
DEFINERS = """
SELECT DISTINCT definer FROM (SELECT definer FROM information_schema.views WHERE table_schema = {name}
UNION SELECT definer FROM information_schema.routines WHERE routine_schema = {name}
UNION SELECT definer FROM information_schema.triggers WHERE trigger_schema = {name}) d;
"""


def live_options(text: str, family: Family) -> tuple[tuple[str, ...], str]:
    """The client's options, and the option file that `defaults=` names, from such words as `socket=/run/mysqld/mysqld.sock
    user=root`. Raises UsageError."""
    options: list[str] = []
    defaults = ""
    for word in shlex.split(text):
        key, _, value = word.partition("=")
        if key == "defaults" and value:
            defaults = value
        elif key == "socket" and value:
            options += family.over_socket(value)
        elif key in WORDS and value:
            options.append(f"{WORDS[key]}={value}")
        else:
            raise UsageError(
                f"--into-server: {key!r} is none of {', '.join(['socket', *WORDS, 'defaults'])}",
                next_step='--into-server "socket=/run/mysqld/mysqld.sock user=root"; a password belongs into ~/.my.cnf, or the'
                " option file that defaults= names",
            )
    if any(option.startswith("--host=") for option in options):
        options.append("--protocol=tcp")
    return tuple(options), defaults


@contextmanager
def live_client(host: Host, source: str, text: str, settings: MariadbOptions) -> Iterator[MariadbClient]:
    """`settings`: of the source, for its family and programs."""
    options, defaults = live_options(text, settings.family)
    with host.private_file(option_file(None)) as nothing:
        client = MariadbClient(host, source, options, f"--defaults-extra-file={defaults or nothing}", settings.family)
        yield any_client(client, settings.bin_dir)


def refuse_taken(live: MariadbClient, name: str) -> None:
    """Before anything is restored: may a database of that name be made there? Raises UsageError, SourceError."""
    ((taken, read_only),) = live.rows(
        f"SELECT COUNT(*), @@GLOBAL.read_only FROM information_schema.schemata WHERE schema_name = {literal(name)};"
    )
    if read_only not in ("0", "OFF"):
        raise UsageError("that server is read only: nothing can be made there", next_step="name the primary")
    if int(taken):
        raise UsageError(
            f"that server has a database {name} already; nothing was touched",
            next_step="choose another name: --as NAME",
        )


def send_database(private: MariadbClient, database: str, live: MariadbClient, name: str) -> list[str]:
    """Notes for people. Raises UsageError for what the live server lacks, DamageError when what came there differs; then the new
    database is gone again."""
    refuse_taken(live, name)
    here, there = private.server_version(), live.server_version()
    if numbers(series(there)) < numbers(series(here)):
        raise UsageError(
            f"that server is {live.family.name} {there}, older than the backup's {here}",
            next_step="name a server of that series or newer",
        )
    ((charset, collation),) = private.rows(
        "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata"
        f" WHERE schema_name = {literal(database)};"
    )
    run(live, f"CREATE DATABASE {identifier(name)} CHARACTER SET {charset} COLLATE {collation};")
    with gone_unless_whole(name, lambda: run(live, f"DROP DATABASE {identifier(name)};")):
        dump = private.start(private.dump_argv(*DUMP, WITHOUT_EVENTS, database))
        stream = ProcessStream(dump, source=private.source, item=f"restored database {database}", ending=no_end)
        load_sql(live, stream, f"database {database} as {name}", into=name)
        compare(private, database, live, name)
    sent = f"database {database} is on that server as {name}, and equal to what was restored, table by table"
    return [sent, *_notes(private, database, live)]


def run(live: MariadbClient, statement: str) -> None:
    try:
        live.rows(statement)
    except SourceError as error:
        raise CouldNotRunError(f"{statement} {error.message}", next_step="see what that user may do there") from error


def compare(private: MariadbClient, database: str, live: MariadbClient, name: str) -> None:
    sides = []
    for client, own in ((private, database), (live, name)):
        tables = digest_tables(client, read_tables(client, [own]))
        sequences = of_database(own, read_sequences(client, [own]))
        sides.append((of_database(own, tables), sequences, definitions(client, own)))
    (wanted, counters, made), (found, counters_there, made_there) = sides
    checks = compare_tables(f"{name}.", wanted, found)
    for sequence, value in counters.items():
        actual = str(counters_there.get(sequence))
        checks.append(CheckResult(f"sequence {name}.{sequence}", str(value), actual, actual == str(value), 4))
    checks.append(
        CheckResult(
            f"definitions in {name}",
            "the same",
            "the same" if made == made_there else "other ones",
            made == made_there,
            4,
        )
    )
    for one in checks:
        if not one.ok:
            raise DamageError(
                f"{one.name} on that server: {one.actual}, the restored one has {one.expected}; the new database is not kept",
                name=one.name,
                next_step="restore into a private server alone (without --into-server), and look there",
            )


def definitions(client: MariadbClient, database: str) -> list[str]:
    """As one dump program writes them for both sides; events, counters and what names a version of a server left out."""
    completed = client.host.run(client.dump_argv(*SCHEMA, WITHOUT_EVENTS, database))
    if completed.returncode != 0:
        raise client.failure(completed, f"definitions of database {database}")
    return defining_lines(completed.stdout)


def _notes(private: MariadbClient, database: str, live: MariadbClient) -> list[str]:
    """What a person should know of what came, or did not."""
    notes, own = [], literal(database)
    events = private.rows(f"SELECT event_name FROM information_schema.events WHERE event_schema = {own};")
    if events:
        notes.append(f"events left out, since they would run there: {', '.join(row[0] for row in events)}")
    named = re.compile(rf"(?<![\w$])`?{re.escape(database)}`?\s*\.")
    for kind, query in OBJECTS.items():
        for row in private.rows(query.format(name=own)):
            title, text = (bytes.fromhex(one).decode("utf-8", "replace") if one != "NULL" else "" for one in row)
            if named.search(text):
                notes.append(
                    f"{kind} {title} names {database} itself, not the new database: look at it before it is used"
                )
    known = {row[0] for row in live.rows("SELECT CONCAT(user, '@', host) FROM mysql.user;")}
    lacking = sorted({row[0] for row in private.rows(DEFINERS.format(name=own))} - known)
    if lacking:
        notes.append(f"that server lacks accounts that define views, routines or triggers: {', '.join(lacking)}")
    return notes
