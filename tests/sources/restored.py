"""Throw-away servers for tests of database sources."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from backupctl.sources.mariadb_client import MariadbClient, identifier, literal
from backupctl.sources.mariadb_family import MYSQL
from backupctl.sources.mariadb_instance import client_of
from backupctl.sources.mariadb_session import list_databases
from backupctl.sources.protocol import Instance
from tests.sources.helpers import HOST


@contextmanager
def scratch_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="bctl-drill-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@contextmanager
def throw_away(source, fingerprint) -> Iterator[Instance]:
    """For all tests that leave nothing behind in it: see `loaded`."""
    with scratch_directory() as directory:
        instance = source.boot(HOST, str(directory / "maria").encode(), fingerprint)
        yield instance
        source.stop(instance)


class Restored:
    """What was restored, in a server of its own; nothing of that is left afterwards."""

    def __init__(self, source, files, fingerprint, directory, host=HOST, **choice):
        self.source = source
        self.instance = source.boot(host, str(directory / "server").encode(), fingerprint)
        try:
            self.notes = source.load(self.instance, files, **choice)
        except BaseException:
            source.stop(self.instance)
            raise

    def __enter__(self):
        return self.instance

    def __exit__(self, *exc):
        pid, sockets = self.instance.pid, self.instance.connection["sockets"]
        self.source.stop(self.instance)
        self.source.stop(self.instance)
        assert not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        assert not Path(sockets).exists()


@dataclass
class Loaded(Instance):
    notes: list[str] = field(default_factory=list)


@contextmanager
def loaded(instance, source, files, **choice):
    """As `Restored`, in a server that goes on, whose databases go."""
    instance.connection.pop("databases", None)
    try:
        notes = source.load(instance, files, **choice)
        yield Loaded(**{one.name: getattr(instance, one.name) for one in fields(Instance)}, notes=notes)
    finally:
        with client_of(instance, "site-db") as client:
            drops = [f"DROP DATABASE {identifier(name)};" for name in list_databases(client)]
            client.rows("".join([*drops, *account_drops(client, instance.connection["user"]), "SELECT 1;"]))


def account_drops(client: MariadbClient, but: str) -> list[str]:
    kept = ", ".join(map(literal, [*client.family.own_users, "PUBLIC", but]))
    role = "'N'" if client.family is MYSQL else "is_role"  # there a role is an account like others
    rows = client.rows(f"SELECT QUOTE(user), QUOTE(host), {role} FROM mysql.user WHERE user NOT IN ({kept});")
    return [f"DROP ROLE {user};" if is_role == "Y" else f"DROP USER {user}@{host};" for user, host, is_role in rows]
