"""Hosts that are kept warm from backups."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backupctl.config.durations import PositiveDuration

Text = Annotated[str, Field(min_length=1)]


class StandbySettings(BaseModel):
    """`backupctl standby refresh` makes `directory` on `host` what the newest snapshots of `jobs` hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: Text = Field(description="The machine that is kept warm: one of `hosts`, no staging host.")
    jobs: Annotated[list[Text], Field(min_length=1)] = Field(description="What it follows.")
    directory: Text = Field(
        description="A directory there that belongs to the standby alone: what is in it and in no backup is removed."
    )
    servers: bool | list[Literal["postgresql", "mariadb"]] = Field(
        default=True,
        description="Servers with a physical backup whose log is stored are kept running there, replaying it: all, or those of "
        "the kinds that are named. `false`: their backups lie there as files.",
    )
    program: Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None,
        description="How PostgreSQL servers fetch log by themselves, and archive it once promoted: backupctl with a configuration "
        "and a key on that host, such as [backupctl, --config, /etc/backupctl/standby.yaml]. None: each refresh brings it.",
    )
    lag: PositiveDuration | None = Field(
        default=None, description="How far it may be behind the newest backup; `status` says when it is further."
    )

    @field_validator("jobs")
    @classmethod
    def _different(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("names a job twice")
        return value

    def keeps(self, kind: str) -> bool:
        """Whether servers of that kind are kept running."""
        return self.servers if isinstance(self.servers, bool) else kind in self.servers
