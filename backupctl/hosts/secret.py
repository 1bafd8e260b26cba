"""Secrets by reference: configuration says where a secret is, never what it is. `backupctl.config` fetches it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Text = Annotated[str, Field(min_length=1)]
KINDS = ("file", "credential", "command", "env")


class SecretRef(BaseModel):
    """Exactly one of: `file` (its content), `credential` (a name under $CREDENTIALS_DIRECTORY, as systemd provides),
    `command` (argv; what it prints), `env` (a variable of our own environment). Shows the reference, never a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    file: Text | None = None
    credential: Text | None = None
    command: Annotated[list[Text], Field(min_length=1)] | None = None
    env: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_reference(cls, value: object) -> object:
        if isinstance(value, str | bytes | int | float):
            raise PydanticCustomError(
                "secret_reference",
                "a secret is given by reference: file, credential, command or env, for example `{file: PATH}`",
            )
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretRef:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(KINDS)}" + (f", not {' and '.join(given)}" if given else "")
            )
        return self

    def __str__(self) -> str:
        (kind,) = (kind for kind in KINDS if getattr(self, kind) is not None)
        value = getattr(self, kind)
        return f"{kind} {' '.join(value) if isinstance(value, list) else value}"

    def __repr__(self) -> str:
        return f"SecretRef({self})"
