"""What the configuration says of a drill, its probes, and the scenarios that it may follow, by name. What each does is in the
room `drills`, above this one."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from backupctl.config.durations import PositiveDuration, parse_duration
from backupctl.config.names import Name
from backupctl.config.scheduling import Cron
from backupctl.hosts.secret import SecretRef

Text = Annotated[str, Field(min_length=1)]

ScenarioName = Literal[
    "full",
    "single-file",
    "mock-attack",
    "loss-of-orchestrator",
    "stock-restic",
    "corrupted-objects",
    "second-destination",
    "key-holder-lost",
    "notification",
    "software-rebuild",
    "point-in-time",
    "destructive-statement",
    "credential-rotated",
    "standby-promotion",
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)


def _age(text: str) -> str:
    if text not in ("latest", "oldest") and parse_duration(text) <= timedelta(0):
        raise ValueError("must be more than zero")
    return text


class SqlProbe(_Model):
    """One statement whose first value is compared with `equals`, `at_least` or `at_most`."""

    source: Name | None = Field(default=None, description="Which database source; not needed when the job has one.")
    database: str = ""
    query: Text
    equals: str | int | float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _expects(self) -> SqlProbe:
        if self.equals is None and self.at_least is None and self.at_most is None:
            raise ValueError("expects nothing: give equals, at_least or at_most")
        return self


class CommandProbe(_Model):
    argv: Annotated[list[Text], Field(min_length=1)]
    expect_exit: int = 0
    expect_output: str | None = Field(default=None, description="Text that standard output must contain.")


class HttpProbe(_Model):
    """Fetched on the staging host."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+")]
    expect: Annotated[int, Field(ge=100, le=599)] = 200
    contains: str | None = None


def _plain_path(text: str) -> str:
    if not text.strip("/") or any(part in (".", "..") for part in text.split("/")):
        raise ValueError("must name a file, without . and ..")
    return text


class FileProbe(_Model):
    """One restored file by its digest."""

    source: Name
    path: Annotated[str, AfterValidator(_plain_path)] = Field(
        description="As it was on the source's host, such as /srv/www/index.html."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FreshProbe(_Model):
    """One statement whose first value is the time of the newest change: RFC 3339, or seconds since 1970. Without an offset it
    is UTC. That time also counts as the newest change proven present, from which the achieved RPO is reckoned."""

    source: Name | None = Field(default=None, description="Which database source; not needed when the job has one.")
    database: str = ""
    query: Text
    within: PositiveDuration | None = Field(
        default=None, description="How much older than the backup the newest change may be; by default the job's RPO."
    )


class ScanProbe(_Model):
    """Restored files looked over for malware on the staging host. Without a scanner there the answer is `not performed`."""

    engine: Literal["any", "clamav", "yara"] = "any"
    rules: str | None = Field(default=None, description="File of YARA rules on the staging host; yara needs it.")
    required: bool = Field(default=False, description="A scan that cannot be performed makes the drill inconclusive.")

    @model_validator(mode="after")
    def _has_rules(self) -> ScanProbe:
        if self.engine == "yara" and self.rules is None:
            raise ValueError("yara needs `rules`")
        return self


class IntegrityProbe(_Model):
    """The checker of each database kind: pg_amcheck, CHECK TABLE, integrity_check."""

    source: Name | None = Field(default=None, description="None: every restored database source.")


class ProbeSettings(_Model):
    """One assertion about the restored system: exactly one of its fields."""

    sql: SqlProbe | None = None
    command: CommandProbe | None = None
    http: HttpProbe | None = None
    file: FileProbe | None = None
    fresh: FreshProbe | None = None
    integrity: IntegrityProbe | None = None
    scan: ScanProbe | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> ProbeSettings:
        if sum(probe is not None for _, probe in self) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        return self


Age = Annotated[str, AfterValidator(_age)]
"""`latest`, `oldest`, or a duration: the newest snapshot that is at least so old."""


class SelectSettings(_Model):
    """What a scheduled drill takes, in turn: each age once before any again, each place, each source. Which comes next is
    drawn, and nobody can draw again unseen."""

    ages: Annotated[list[Age], Field(min_length=1)] = Field(
        default_factory=lambda: ["latest"],
        description="`latest`, `oldest`, or a duration such as 30d: the newest snapshot that is at least so old.",
    )
    places: list[Name] | None = Field(
        default=None, description="Repositories to restore from; by default the job's own and its copies."
    )
    sources: Literal["all", "one"] = Field(default="all", description="`one`: a drill takes one source, drawn.")

    @field_validator("ages")
    @classmethod
    def _different(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("names an age twice")
        return value


class DrillSettings(_Model):
    on: Name = Field(description="The staging host.")
    cron: Cron | None = Field(
        default=None, description="None: when somebody runs it, or as the step `drill` of the job's `schedule.then`."
    )
    scenario: ScenarioName = Field(default="full", description="What happens, see `backupctl drill scenarios`.")
    stolen: SecretRef | None = Field(
        default=None, description="For `credential-rotated`: the storage credentials that must open nothing any more."
    )
    probes: list[ProbeSettings] = Field(default_factory=list)
    select: SelectSettings | None = Field(
        default=None, description="Rotate over ages, places and sources. None: everything of the newest snapshot."
    )
    control: bool = Field(
        default=False,
        description="A negative control: the drill gets a copy that was damaged on purpose and must say `fail`; otherwise "
        "the drill system itself is reported as broken.",
    )
    timeout: PositiveDuration | None = None

    @model_validator(mode="after")
    def _control_of_everything(self) -> DrillSettings:
        if self.control and (self.scenario != "full" or (self.select is not None and self.select.sources == "one")):
            raise ValueError("control needs the scenario full and all sources: the damage may be anywhere")
        return self
