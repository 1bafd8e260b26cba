"""How a fleet of workers is watched: the options of `fleet:`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupctl.config.durations import PositiveDuration


class FleetSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    heartbeat: PositiveDuration = Field(
        default=timedelta(seconds=15), description="How often a worker, and each run, says that it lives."
    )
    stalled_after: PositiveDuration = Field(
        default=timedelta(minutes=2), description="A run that was silent for so long is taken over by another worker."
    )
    takeovers: Annotated[int, Field(ge=0, le=100)] = Field(
        default=2, description="How often one run may be taken over before it counts as failed."
    )

    @model_validator(mode="after")
    def _three_beats(self) -> FleetSettings:
        if self.stalled_after < 3 * self.heartbeat:
            raise ValueError("`stalled_after` must be at least three times `heartbeat`: one lost packet is no death")
        return self
