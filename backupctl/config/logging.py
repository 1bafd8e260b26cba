"""Where the log goes, and in which form; and where traces of runs are sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupctl.hosts.secret import SecretRef


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class LogSettings(_Options):
    """What commands and runs say and what happens inside, each line with the run's id. What a command was asked for still goes
    to standard output."""

    to: Literal["stderr", "journal", "syslog", "file"] = Field(
        default="stderr", description="`journal`: systemd's, with the run's id as a field of its own."
    )
    form: Literal["console", "json"] = Field(
        default="console", alias="format", description="`json`: one object a line. The journal has fields anyway."
    )
    file: Path | None = Field(default=None, description="With `to: file`; opened anew after each rotation.")
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is kept.")

    @model_validator(mode="after")
    def _file_for_file(self) -> LogSettings:
        if (self.to == "file") != (self.file is not None):
            raise ValueError("`file` belongs to `to: file`, and to nothing else")
        return self


class TelemetrySettings(_Options):
    """Each run as a trace, sent when it has ended: needs the extra `otel` (pip install 'backupctl[otel]')."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+$")] = Field(
        description="http(s)://HOST:PORT of an OTLP collector over HTTP; `/v1/traces` is added."
    )
    authorization: SecretRef | None = Field(default=None, description="What to send as the header `Authorization`.")
    service: str = Field(default="backupctl", description="The name it goes by.")
