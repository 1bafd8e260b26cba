"""Hosts that are kept warm from backups."""

from __future__ import annotations

from typing import Annotated

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
    servers: bool = Field(
        default=True,
        description="PostgreSQL servers whose log is archived are kept running there, replaying it. `false`: their base "
        "backups lie there as files.",
    )
    program: Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None,
        description="How these servers fetch log by themselves, and archive it once promoted: backupctl with a configuration "
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
