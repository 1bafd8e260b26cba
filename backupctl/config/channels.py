"""What `notify:` says: a channel has a name and one or more ways to tell."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from backupctl.config.durations import PositiveDuration
from backupctl.hosts.secret import SecretRef

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def check_url(url: str) -> str:
    """An address notices may go to. Raises ValueError that does not repeat the address: it may be a secret."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or url != url.strip() or not url.isprintable():
        raise ValueError("must be https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password; give the whole address as a secret: {file: PATH}")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("must be https:// (http:// only to this machine)")
    return url


def check_address(address: str) -> str:
    name, at, domain = address.rpartition("@")
    if not (name and at and domain) or not address.isprintable() or any(sign in address for sign in " ,;<>\"'"):
        raise ValueError("must be one e-mail address, such as ops@example.gov")
    return address


Url = Annotated[str, AfterValidator(check_url)]
UrlOrSecret = Annotated[
    Annotated[Url, Tag("url")] | Annotated[SecretRef, Tag("secret")],
    Discriminator(lambda value: "url" if isinstance(value, str) else "secret"),
]
Address = Annotated[str, AfterValidator(check_address)]


class EmailOptions(_Options):
    host: Annotated[str, Field(min_length=1, description="Mail server.")]
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "tls", "none"] = Field(default="starttls", description="`none` only to this machine.")
    sender: Address
    to: Annotated[list[Address], Field(min_length=1)]
    user: str | None = None
    password: SecretRef | None = None

    @model_validator(mode="after")
    def _safe(self) -> EmailOptions:
        if self.tls == "none" and self.host not in _LOOPBACK:
            raise ValueError("tls: none is allowed to this machine only; use starttls or tls")
        if (self.user is None) != (self.password is None):
            raise ValueError("give user and password together, or neither")
        return self


class WebhookOptions(_Options):
    url: UrlOrSecret = Field(description="Where the notice is posted as JSON; by reference when it holds a token.")
    secret: SecretRef | None = Field(
        default=None, description="Signs each notice: header X-Backupctl-Signature, HMAC-SHA256."
    )


class HeartbeatOptions(_Options):
    url: UrlOrSecret = Field(description="Fetched after true success only, so that silence raises the alarm.")


class AppriseOptions(_Options):
    """Over a hundred services; needs the extra: `pip install 'backupctl[notify]'`."""

    url: SecretRef = Field(
        description="An address as apprise writes it, such as slack://…; by reference, it holds a token."
    )


States = Literal[
    "success",
    "problem",
    "complete",
    "incomplete",
    "failed",
    "skipped",
    "suspicious",
    "missed",
    "late",
    "pass",
    "fail",
    "inconclusive",
    "stale",
]


class NoticeRule(_Options):
    """Everything that is given must hold."""

    jobs: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="Names of jobs, with * and ?; empty: every job, and checks of repositories."
    )
    classes: list[Literal["low", "medium", "high"]] = Field(
        default_factory=list, description="Of jobs; empty: every one."
    )
    states: list[States] = Field(
        default_factory=list,
        description="How it ended; `success` and `problem` stand for all that did, or did not, truly succeed.",
    )


class NoticeLimit(_Options):
    most: Annotated[int, Field(ge=1)]
    per: PositiveDuration


class NotifyOptions(_Options):
    """A channel: one or more ways to tell the same people."""

    email: EmailOptions | None = None
    webhook: WebhookOptions | None = None
    apprise: AppriseOptions | None = None
    heartbeat: HeartbeatOptions | None = None
    rules: list[NoticeRule] = Field(
        default_factory=list, description="Tell what one of these says; without any, everything."
    )
    repeat: PositiveDuration | None = Field(
        default=None, description="Tell of what went wrong again and again, until it is acknowledged or has succeeded."
    )
    limit: NoticeLimit | None = Field(
        default=None, description="So many notices at most, each way; what is held back comes in one digest."
    )

    @model_validator(mode="after")
    def _something(self) -> NotifyOptions:
        if self.email is None and self.webhook is None and self.apprise is None and self.heartbeat is None:
            raise ValueError("give at least one of email, webhook, apprise and heartbeat")
        return self
