"""MySQL databases by logical dump. What it shares with MariaDB, which is nearly all, is in the modules `mariadb_*`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from backupctl.sources.mariadb import MariadbOptions, MariadbSource, MariadbTls
from backupctl.sources.mariadb_family import MYSQL, Family
from backupctl.sources.options import Text


class MysqlOptions(MariadbOptions):
    """The client's own words: `socket`, or `address` and `port`; `user`; the password is a reference. MySQL 8.0.17 or newer."""

    family: ClassVar[Family] = MYSQL

    tls: MariadbTls | Literal[False] | None = Field(
        default=None,
        description="connect to `address` with TLS and verify the server's certificate. By default the client encrypts where the"
        " server can, and verifies nothing. `false`: without, for a connection that stays on the machine",
    )
    method: Literal["logical", "binlog"] = Field(
        default="logical",
        description="`logical`: each database by mysqldump; `binlog`: the server's binary logs alone, for the time between two"
        " backups",
    )
    binlog: None = Field(default=None, description="not for MySQL")
    bin_dir: Text | None = Field(
        default=None,
        description="directory of MySQL's programs on the host; by default the PATH. `{series}` in it stands for any version, "
        "for several side by side: /opt/mysql-{series}/bin",
    )

    @field_validator("binlog", mode="before")
    @classmethod
    def _no_logs(cls, value: Any) -> Any:
        if value is not None:
            raise ValueError(
                "MySQL's binary logs are not received as they are written; a job with `method: binlog` stores them every few"
                " minutes"
            )
        return value

    @field_validator("method", mode="before")
    @classmethod
    def _no_files(cls, value: Any) -> Any:
        if value == "physical":
            raise ValueError(
                "MySQL is not backed up file by file: that takes XtraBackup, of the server's own series, which is not supported."
                " Use `method: logical`; where dumps take too long, dump a replica"
            )
        return value


class MysqlSource(MariadbSource):
    kind = "mysql"
