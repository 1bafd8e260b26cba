"""What MariaDB and MySQL do differently, side by side: names of programs, words of theirs, statements. What is not here is the
same for both, and the modules `mariadb_*` serve both."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SESSION = (  # a slow reader must not make the server hang up; values are printed alike everywhere
    "SET SESSION net_write_timeout = 86400, net_read_timeout = 86400, wait_timeout = 86400, lock_wait_timeout = 20,"
    " time_zone = '+00:00', sql_mode = '', group_concat_max_len = 1048576, "
)


@dataclass(frozen=True)
class Family:
    """`kind`: of source. Programs are named in the order in which they are looked for."""

    kind: str
    name: str
    clients: tuple[str, ...]
    dumpers: tuple[str, ...]
    servers: tuple[str, ...]
    log_reader: str
    client_package: str
    server_package: str
    version: re.Pattern[str]
    """What its programs say when they are asked for their version, and no other family's do."""
    oldest_server: tuple[int, ...]
    session: str
    server_id: str
    """The variable by which a server is told from all others."""
    position_right: str
    """Global privilege for asking where the binary log is."""
    backup_stages_since: tuple[int, ...] | None
    """The server's version with `BACKUP STAGE`; None when it has none."""
    status_renamed_in: tuple[int, ...] | None
    """The server's version from which on `SHOW MASTER STATUS` is `SHOW BINARY LOG STATUS`."""
    unencrypted: tuple[str, ...]
    verified: tuple[str, ...]
    dump: tuple[str, ...]
    positions: tuple[str, ...]
    replay: tuple[str, ...]
    """Options with which the log reader gives what another server takes that has no log."""
    executed: str | None
    """The variable with the transactions that a view holds, by their GTIDs; None where a dump says where it is by itself."""
    accounts: tuple[str, ...] | None
    """Options with which the dump program writes accounts; None: see `mysql_accounts`."""
    users_table: str
    own_users: tuple[str, ...]
    anybody: str
    """The account for which an administrator may grant PROXY."""
    install: tuple[str, ...]
    server: tuple[str, ...]

    def version_said(self, text: str) -> str:
        """E.g. "10.11.14", of what a program of this family says of itself; "" when it says nothing of the kind."""
        found = self.version.search(text)
        return found.group(1) if found else ""

    @property
    def grant(self) -> str:
        """The start of the statement that gives a backup user what it needs."""
        return f"GRANT SELECT, RELOAD, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, {self.position_right} ON *.* TO"

    @property
    def log_grant(self) -> str:
        """The statement that lets a backup user read binary logs."""
        return f"GRANT REPLICATION SLAVE, {self.position_right} ON *.* TO the backup user;"

    def log_status(self, version: str) -> str:
        """What a server of that version calls its place in the binary log."""
        renamed = self.status_renamed_in
        new = renamed is not None and tuple(map(int, version.split("-")[0].split("."))) >= renamed
        return "BINARY LOG" if new else "MASTER"

    def over_socket(self, path: str) -> tuple[str, ...]:
        """The options for a connection that stays on the machine. From MariaDB 11.4 on the clients would ask for TLS even there,
        and refuse a server without."""
        return (f"--socket={path}", *self.unencrypted)


MARIADB = Family(
    kind="mariadb",
    name="MariaDB",
    clients=("mariadb", "mysql"),
    dumpers=("mariadb-dump", "mysqldump"),
    servers=("mariadbd", "mysqld"),
    log_reader="mariadb-binlog",
    client_package="mariadb-client",
    server_package="mariadb-server",
    version=re.compile(r"(\d+\.\d+\.\d+)-MariaDB"),
    oldest_server=(0,),
    session=_SESSION + "max_statement_time = 0;\n",
    server_id="server_uid",
    position_right="BINLOG MONITOR",
    backup_stages_since=(10, 4),
    status_renamed_in=None,
    unencrypted=("--skip-ssl",),
    verified=("--ssl-verify-server-cert",),
    dump=(),
    positions=("--master-data=2", "--gtid"),
    replay=(),
    executed=None,
    accounts=("--system=users", "--insert-ignore"),
    users_table="mysql.global_priv",
    own_users=("mariadb.sys",),
    anybody="''@'%'",
    install=("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
    server=("--skip-slave-start",),
)

MYSQL = Family(
    kind="mysql",
    name="MySQL",
    clients=("mysql",),
    dumpers=("mysqldump",),
    servers=("mysqld",),
    log_reader="mysqlbinlog",
    client_package="mysql-client",
    server_package="mysql-server",
    version=re.compile(r"(?:Ver|Distrib) (\d+\.\d+\.\d+)(?!\d|-MariaDB)"),
    oldest_server=(8, 0, 17),  # print_identified_with_as_hex
    session=_SESSION  # sizes as they are, not as they were a day ago; hashes of passwords that are text
    + "max_execution_time = 0, information_schema_stats_expiry = 0, print_identified_with_as_hex = ON;\n",
    server_id="server_uuid",
    position_right="REPLICATION CLIENT",
    backup_stages_since=None,
    status_renamed_in=(8, 2),
    # without TLS caching_sha2_password wants the server's public key, over a network
    unencrypted=("--ssl-mode=DISABLED", "--get-server-public-key"),
    verified=("--ssl-mode=VERIFY_IDENTITY",),
    # with GTIDs it would keep out of the log what is loaded from the dump, and so from the replicas of that server
    dump=("--set-gtid-purged=OFF",),
    positions=(),
    replay=("--skip-gtids",),
    executed="gtid_executed",
    accounts=None,
    users_table="mysql.user",
    own_users=("mysql.infoschema", "mysql.session", "mysql.sys"),
    anybody="''@''",
    # what is built in is a directory that its packages make; and a small log is soon written
    install=("--secure-file-priv=NULL", "--loose-innodb-redo-log-capacity=16M"),
    # 8.4 knows accounts with that plugin, but lets them in only when it is told to
    server=("--mysqlx=OFF", "--loose-mysql-native-password=ON"),
)

FAMILIES = {family.kind: family for family in (MARIADB, MYSQL)}


def family_of_program(said: str) -> Family | None:
    """Whose program it is that says this of its version; None when it does not tell."""
    return next((family for family in FAMILIES.values() if family.version_said(said)), None)
