"""How much a prune may leave and rewrite."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from backupctl.hosts.sizes import Size

_PATTERN = r"^\d{1,2}(\.\d+)?\s*%$"


def parse_percent(value: object) -> float:
    """0.05 for `5%`. Raises ValueError for what is no percentage below 100."""
    if isinstance(value, float) and 0 <= value < 1:
        return value
    if not isinstance(value, str) or not re.fullmatch(_PATTERN, value.strip()):
        raise ValueError("write a percentage below 100, such as 5%")
    return float(value.strip().rstrip("%")) / 100


Percent = Annotated[
    float,
    BeforeValidator(parse_percent),
    PlainSerializer(lambda part: f"{part * 100:g}%", return_type=str),
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "examples": ["5%"]}),
]


class PruneSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    max_unused: Percent = Field(
        default=0.05,
        description="So much of what stays may be waste before a pack that is partly used is written anew.",
    )
    max_repack: Size | None = Field(
        default=None, description="Bytes that one prune writes anew at most, e.g. 20GiB; the rest next time."
    )
