"""What configuration says about a store. Unknown keys are errors; secrets only by reference."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backupctl.hosts.secret import SecretRef


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class LocalOptions(_Options):
    path: Path = Field(description="Directory of the repository; relative to the file that names it.")


class LockOptions(_Options):
    mode: Literal["compliance", "governance"] = Field(
        description="`compliance`: nobody can delete early, not even the owner. `governance`: a special right can."
    )
    days: Annotated[int, Field(ge=1, le=36500)] = Field(description="How long each object is kept from deletion.")


class S3Options(_Options):
    bucket: Annotated[str, Field(min_length=3, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    prefix: str = Field(default="", description="Everything of this repository stands below it; `a/b`, no leading `/`.")
    endpoint: str | None = Field(
        default=None, description="https://HOST[:PORT] of an S3-compatible server; none means AWS."
    )
    region: str = "us-east-1"
    addressing: Literal["path", "virtual"] | None = Field(
        default=None,
        description="Where the bucket's name goes; by default `path` for an own endpoint, `virtual` for AWS.",
    )
    credentials: SecretRef | None = Field(
        default=None,
        description='JSON {"access_key_id": …, "secret_access_key": …}, one line ACCESS:SECRET, or an AWS credentials '
        "file. None: the machine's own AWS identity (instance role).",
    )
    read_credentials: SecretRef | None = Field(
        default=None,
        description="Of the same shapes: a key that may only read, for commands with `--read-only`. None: `credentials`.",
    )
    ca_bundle: Path | None = Field(
        default=None, description="PEM file to verify the server with, instead of the system's."
    )
    lock: LockOptions | None = Field(
        default=None, description="Object lock for everything but the repository's own locks."
    )

    @field_validator("prefix")
    @classmethod
    def _clean_prefix(cls, value: str) -> str:
        value = value.rstrip("/")
        if value and any(part in ("", ".", "..") for part in value.split("/")):
            raise ValueError("must look like `a/b`: no leading `/`, no empty part, no `.` or `..`")
        return value

    @field_validator("endpoint")
    @classmethod
    def _safe_endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query or url.username:
            raise ValueError("must be https://HOST or https://HOST:PORT")
        if url.scheme == "http" and not _is_loopback(url.hostname):
            raise ValueError("must be https://: http:// would send every request readable (allowed for loopback only)")
        return value.rstrip("/")


def endpoint_of(options: S3Options) -> tuple[str, int]:
    """Address and port."""
    if options.endpoint is None:
        return f"s3.{options.region}.amazonaws.com{'.cn' if options.region.startswith('cn-') else ''}", 443
    url = urlsplit(options.endpoint)
    return str(url.hostname), url.port or (443 if url.scheme == "https" else 80)


class StorageOptions(_Options):
    """Exactly one kind of store."""

    local: LocalOptions | None = None
    s3: S3Options | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> StorageOptions:
        if (self.local is None) == (self.s3 is None):
            raise ValueError("give exactly one of `local` and `s3`")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
