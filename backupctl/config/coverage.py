"""What should be protected at all, to find what is not."""

from __future__ import annotations

import posixpath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def check_pattern(text: str) -> str:
    if not text.startswith("/") or posixpath.normpath(text) != text or text == "/":
        raise ValueError("is an absolute path, which may hold `*`, such as /srv/*")
    return text


def check_accepted(text: str) -> str:
    host, colon, rest = text.partition(":")
    if not (host and colon and rest):
        raise ValueError("is HOST:PATH, HOST:KIND:DATABASE, HOST:KIND:server or HOST:host; `*` stands for anything")
    return text


class CoverageSettings(BaseModel):
    """What `status --coverage` looks for on every host that a job names, and on every other host that is no staging host."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    directories: list[Annotated[str, AfterValidator(check_pattern)]] = Field(
        default=["/srv/*", "/home/*", "/var/www/*"],
        description="Each directory that matches, and holds something, shall be in some job. A missing one is none.",
    )
    accepted: list[Annotated[str, AfterValidator(check_accepted)]] = Field(
        default_factory=list,
        description="What is left out on purpose: `web1:/srv/tmp`, `web1:postgresql:scratch`, `web1:redis:server`, "
        "`old:host`; `*` stands for anything.",
    )
