"""What the option models of all sources share. One model per kind validates configuration and documents it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from backupctl.hosts.secret import SecretRef

Text = Annotated[str, Field(min_length=1)]
SecretFetcher = Callable[[SecretRef], bytes]


class SourceOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: Text = Field(default="local", description="the host, from `hosts`, on which the source is read")
