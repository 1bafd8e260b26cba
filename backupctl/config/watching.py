"""What a job says about the signs of an attack."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class AnomalySettings(BaseModel):
    """What nobody ever changes, so that any change tells of an intruder. Everything else that is watched needs no option."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    canaries: list[Annotated[str, Field(pattern="^/.")]] = Field(
        default_factory=list, description="Absolute paths of planted files in a source of kind `files`."
    )
    canary_tables: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="Planted tables, as in a fingerprint: SOURCE/DATABASE.TABLE.",
    )
