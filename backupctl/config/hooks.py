"""Commands around a run: what a job's `hooks` say."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupctl.config.durations import PositiveDuration
from backupctl.hosts.secret import SecretRef

Word = Annotated[str, Field(min_length=1)]


class HookSettings(BaseModel):
    """A command before the first source is read, or after the last one was, whatever came of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    before: Literal["run"] | None = Field(default=None, description="When it fails, the run fails and nothing is read.")
    after: Literal["run"] | None = Field(
        default=None, description="Runs after failures too; when it fails itself, the run ends with a warning."
    )
    host: Word = Field(default="local", description="Where it runs, from `hosts`.")
    command: Annotated[list[Word], Field(min_length=1)] = Field(
        description="An argv, no shell. It finds BACKUPCTL_JOB, BACKUPCTL_RUN and, after, BACKUPCTL_STATE in its environment."
    )
    stdin: SecretRef | None = Field(default=None, description="A secret that it reads from its standard input.")
    timeout: PositiveDuration = timedelta(minutes=5)

    @model_validator(mode="after")
    def _either(self) -> HookSettings:
        if (self.before is None) == (self.after is None):
            raise ValueError("a hook has either `before: run` or `after: run`")
        return self
