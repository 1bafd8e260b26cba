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
    lag: PositiveDuration | None = Field(
        default=None, description="How far it may be behind the newest backup; `status` says when it is further."
    )

    @field_validator("jobs")
    @classmethod
    def _different(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("names a job twice")
        return value
