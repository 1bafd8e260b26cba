"""What the option models of all sources share. One model per kind validates configuration and documents it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupctl.hosts.secret import SecretRef

Text = Annotated[str, Field(min_length=1)]
SecretFetcher = Callable[[SecretRef], bytes]


def near(address: str) -> str:
    """ "" for an address that means the machine itself: none, a socket's, a loopback one."""
    try:
        itself = ipaddress.ip_address(address).is_loopback
    except ValueError:
        itself = address == "localhost" or address[:1] in ("", "/", "@")
    return "" if itself else address


class SourceOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: Text = Field(default="local", description="the host, from `hosts`, on which the source is read")

    def listens(self) -> list[tuple[str, int]]:
        """Address and port of each server that it is read from; the address is "" for one on the source's own host, of which the
        port is at least likely."""
        return []


class TlsOptions(BaseModel):
    """Paths on the source's host. The server's certificate is always verified."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: Text | None = Field(
        default=None, description="file of the authorities that may have signed the server's certificate"
    )
    certificate: Text | None = Field(default=None, description="our own certificate, where the server asks for one")
    key: Text | None = Field(default=None, description="the private key of `certificate`")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("`certificate` and `key` belong together")
        return self
