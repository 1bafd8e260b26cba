"""What would go wrong with a PostgreSQL source, tonight or in its first drill; each finding says what to type."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from backupctl.errors import CouldNotRunError, UserError
from backupctl.hosts.protocol import Host
from backupctl.sources.postgresql_client import PostgresClient, identifier, major
from backupctl.sources.postgresql_instance import find_server
from backupctl.sources.protocol import PreflightFinding, StagingNeeds

SHOWN = 5
INSTANCE_BYTES = 160 << 20
RESTORE_GROWTH = 1.3
"""A loaded database and the log of loading it, against what it takes on the source."""
OLD_LOCKS = 64
CONTROL_BYTES = 1 << 16

SERVER = """
SELECT current_user AS role, pg_is_in_recovery() AS standby,
  (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN ('wal_level', 'max_wal_senders', 'fsync',
    'full_page_writes', 'data_checksums', 'hot_standby_feedback', 'max_locks_per_transaction', 'max_connections')) AS settings
"""

RIGHTS = """
SELECT r.rolsuper AS super, r.rolsuper OR r.rolbypassrls AS bypassrls,
  has_table_privilege('pg_authid', 'select') AS passwords,
  (SELECT count(*) FROM pg_largeobject_metadata) AS large_objects,
  (SELECT count(*) FROM pg_class c WHERE c.relrowsecurity AND c.relkind IN ('r', 'p')) AS row_security_tables,
  (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')) AS tables,
  ARRAY(SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        AND n.nspname !~ '^pg_(toast|temp)' AND NOT (CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'select')
        ELSE has_table_privilege(c.oid, 'select') END) ORDER BY 1 LIMIT 5) AS unreadable,
  ARRAY(SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'f' ORDER BY 1 LIMIT 5) AS foreign_tables
FROM pg_roles r WHERE r.rolname = current_user
"""

DRIFT_OF_DATABASE = """
SELECT datcollversion AS recorded, pg_database_collation_actual_version(oid) AS actual FROM pg_database
WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid)
"""
DRIFT_OF_COLLATIONS = """
SELECT DISTINCT n.nspname AS schema, l.collname AS name, l.collversion AS recorded, pg_collation_actual_version(l.oid) AS actual
FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace JOIN pg_attribute a ON a.attcollation = l.oid
JOIN pg_index i ON i.indrelid = a.attrelid AND a.attnum = ANY (i.indkey)
WHERE l.collversion <> pg_collation_actual_version(l.oid) ORDER BY 1, 2
"""

NEEDS = """
SELECT pg_database_size(current_database()) AS size, d.datcollate AS collation, d.datctype AS ctype,
  ARRAY(SELECT extname || ' ' || extversion FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1) AS extensions
FROM pg_database d WHERE d.datname = current_database()
"""


@dataclass
class Examination:
    """Of one server by one method. `client` is connected; `server` is its version."""

    client: PostgresClient
    server: str
    method: str
    parallel: int = 1
    role: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def server_findings(self, database: str) -> Iterator[PreflightFinding]:
        (row,) = self.client.records(database, SERVER)
        self.role, self.settings = identifier(row["role"]), row["settings"]
        yield from self._durability()
        yield from self._recovery()
        if row["standby"] and self.method != "physical" and self.settings["hot_standby_feedback"] == "off":
            yield PreflightFinding(
                "warning",
                "the server is a standby without hot_standby_feedback: it may cancel a long dump",
                "ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();",
            )

    def _durability(self) -> Iterator[PreflightFinding]:
        if self.settings["data_checksums"] == "off" and self.method != "physical":
            yield PreflightFinding(
                "warning",
                "data checksums are off: rows of a damaged page may be dumped as if they were right",
                "stop the server, pg_checksums --enable -D its data directory, and start it",
            )
        for name in ("fsync", "full_page_writes"):
            if self.settings[name] == "off":
                yield PreflightFinding(
                    "warning",
                    f"{name} is off: a crash of its machine may destroy the database",
                    f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();",
                )

    def _recovery(self) -> Iterator[PreflightFinding]:
        """What stands against recovery to a point in time. Dumps never give it: with them it is only worth knowing."""
        reasons = []
        if self.settings["wal_level"] == "minimal":
            reasons.append(("wal_level is minimal", "ALTER SYSTEM SET wal_level = replica; and restart the server"))
        if int(self.settings["max_wal_senders"]) == 0:
            reasons.append(("max_wal_senders is 0", "ALTER SYSTEM SET max_wal_senders = 10; and restart the server"))
        for reason, step in reasons:
            severity = "error" if self.method == "physical" else "info"
            yield PreflightFinding(severity, f"{reason}: recovery to a point in time is impossible", step)  # type: ignore[arg-type]  # one of the literals
        if self.method != "physical":
            yield PreflightFinding(
                "info",
                f"method {self.method} gives back the moment of each backup, nothing between two of them",
                "for any other moment: `method: physical`",
            )

    def database_findings(self, database: str) -> Iterator[PreflightFinding]:
        """Rights and drift. A database that cannot be reached is an error of its own."""
        try:
            (row,) = self.client.records(database, RIGHTS)
            drift = self.client.records(database, DRIFT_OF_DATABASE) if major(self.server) >= 15 else []
            collations = self.client.records(database, DRIFT_OF_COLLATIONS)
        except UserError as error:
            yield PreflightFinding("error", error.message, error.next_step)
            return
        yield from self._rights(database, row)
        yield from self._locks(database, int(row["tables"]))
        for one in drift:
            yield PreflightFinding(
                "warning",
                f"{database}: its text was sorted by collation version {one['recorded']}, the system has {one['actual']}: "
                "indexes may miss rows",
                f"REINDEX DATABASE {identifier(database)}; "
                f"ALTER DATABASE {identifier(database)} REFRESH COLLATION VERSION;",
            )
        for one in collations:
            name = f"{identifier(one['schema'])}.{identifier(one['name'])}"
            yield PreflightFinding(
                "warning",
                f"{database}: indexes use collation {one['name']} of version {one['recorded']}, the system has {one['actual']}",
                f"REINDEX those indexes; ALTER COLLATION {name} REFRESH VERSION;",
            )

    def _rights(self, database: str, row: dict[str, Any]) -> Iterator[PreflightFinding]:
        if self.method == "physical":
            return  # the replication connection reads files
        if row["unreadable"]:
            tables = ", ".join(row["unreadable"])
            step = f"GRANT pg_read_all_data TO {self.role};"
            if major(self.server) < 14:
                step = f"GRANT SELECT ON ALL TABLES IN SCHEMA … TO {self.role}; and ON ALL SEQUENCES"
            yield PreflightFinding("error", f"{database}: no right to read {tables}", step)
        if row["large_objects"] and not row["super"]:
            yield PreflightFinding(
                "error",
                f"{database}: {row['large_objects']} large objects, which only a superuser can dump in full",
                f"ALTER ROLE {self.role} SUPERUSER;",
            )
        if row["row_security_tables"] and not row["bypassrls"]:
            yield PreflightFinding(
                "error",
                f"{database}: {row['row_security_tables']} table(s) with row security would be refused",
                f"ALTER ROLE {self.role} BYPASSRLS;",
            )
        if not row["passwords"]:
            yield PreflightFinding(
                "warning",
                f"{database}: role passwords cannot be read; restored roles will have none",
                f"GRANT SELECT ON pg_authid TO {self.role};",
            )
        if row["foreign_tables"]:
            tables = ", ".join(row["foreign_tables"])
            yield PreflightFinding(
                "warning",
                f"{database}: the data of foreign tables is not here: {tables}",
                "back up the server that holds it",
            )

    def _locks(self, database: str, tables: int) -> Iterator[PreflightFinding]:
        """pg_dump and each reader lock every table; the server's table of locks holds so many for all its sessions."""
        room = int(self.settings["max_locks_per_transaction"]) * int(self.settings["max_connections"])
        sessions = {"dump": 1, "ordered": 1 + self.parallel}.get(self.method, 0)
        if tables * sessions > room:
            wanted = max(OLD_LOCKS, -(-tables * sessions * 2 // int(self.settings["max_connections"])))
            yield PreflightFinding(
                "warning",
                f"{database}: {tables} tables are locked by {sessions} session(s), the server has room for {room} locks",
                f"ALTER SYSTEM SET max_locks_per_transaction = {wanted}; and restart the server",
            )

    def staging_needs(self, names: Sequence[str], staging: Host, bin_dir: str | None) -> StagingNeeds:
        """What a restore on `staging` needs and does not find there."""
        needs = StagingNeeds(INSTANCE_BYTES)
        wanted = major(self.server)
        try:
            there = find_server(PostgresClient(staging, self.client.source, ""), bin_dir, wanted)
        except CouldNotRunError as error:
            needs.findings.append(PreflightFinding("error", error.message, error.next_step))
            there = None
        extensions: dict[str, str] = {}
        locales: set[str] = set()
        for name in names:
            (row,) = self.client.records(name, NEEDS)
            needs.bytes += int(row["size"] * (1.0 if self.method == "physical" else RESTORE_GROWTH))
            extensions |= dict(one.split(" ", 1) for one in row["extensions"])
            locales |= {row["collation"], row["ctype"]}
        if there is not None:
            needs.findings += _extensions(there, extensions, wanted, created_anew=self.method != "physical")
        needs.findings += _locales(staging, locales)
        return needs


def _extensions(
    there: PostgresClient, wanted: dict[str, str], number: int, *, created_anew: bool
) -> Iterator[PreflightFinding]:
    host = there.host
    completed = host.run([there.program("pg_config"), "--sharedir"])
    directory = completed.stdout.decode("utf-8", "surrogateescape").strip()
    try:
        if completed.returncode != 0:
            raise FileNotFoundError(f"no pg_config beside the server programs in {there.directory or 'PATH'}")
        present = host.list_directory(f"{directory}/extension".encode("utf-8", "surrogateescape"))
    except OSError as error:
        if wanted:
            listed = ", ".join(f"{name} {version}" for name, version in wanted.items())
            yield PreflightFinding(
                "warning",
                f"host {host.name}: which extensions it has cannot be told ({error}); needed are {listed}",
                f"install postgresql-client-{number} on host {host.name}",
            )
        return
    for name, version in wanted.items():
        control = f"{name}.control"
        if control.encode() in present:
            default = _default_version(host, f"{directory}/extension/{control}")
            if created_anew and default and default != version:
                yield PreflightFinding(
                    "warning",
                    f"host {host.name} would install {name} {default}, the source has {version}: dumps carry no version",
                    f"install {name} {version} for PostgreSQL {number} on host {host.name}",
                )
            continue
        yield PreflightFinding(
            "error",
            f"host {host.name} lacks the extension {name} {version} for PostgreSQL {number}: no restore there",
            f"install what brings {directory}/extension/{name}.control on host {host.name}; "
            f"try: apt-cache search postgresql-{number} | grep {name}",
        )


def _default_version(host: Host, control: str) -> str:
    with host.open_read(control.encode("utf-8", "surrogateescape")) as file:
        text = file.read(CONTROL_BYTES).decode("utf-8", "replace")
    found = re.search(r"^\s*default_version\s*=\s*'([^']*)'", text, re.MULTILINE)
    return found.group(1) if found else ""


def _locales(staging: Host, wanted: set[str]) -> Iterator[PreflightFinding]:
    completed = staging.run(["locale", "-a"])
    if completed.returncode != 0:
        return
    present = {_plain(one) for one in completed.stdout.decode("utf-8", "replace").split()} | {"c", "posix"}
    for name in sorted(wanted):
        if name and _plain(name) not in present:
            yield PreflightFinding(
                "error",
                f"host {staging.name} lacks the locale {name}: databases that sort by it cannot be restored there",
                f"on host {staging.name}: localedef -i {name.partition('.')[0]} -f UTF-8 {name}",
            )


def _plain(locale: str) -> str:
    """`en_US.UTF-8` and `en_US.utf8` are one."""
    return re.sub(r"[^a-z0-9_.@]", "", locale.lower())
