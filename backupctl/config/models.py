"""What the configuration says, checked. `load` reads it from files and checks what names what.

The options of stores, hosts, sources and notice channels are the models of their own modules; they are composed here,
never copied. Everything is frozen: a configuration is loaded once and does not change.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    TypeAdapter,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from backupctl.config.channels import NotifyOptions
from backupctl.config.coverage import CoverageSettings
from backupctl.config.drilling import ScenarioName
from backupctl.config.durations import PositiveDuration, parse_duration
from backupctl.config.fleet import FleetSettings
from backupctl.config.hooks import HookSettings
from backupctl.config.logging import LogSettings, TelemetrySettings
from backupctl.config.pruning import PruneSettings
from backupctl.config.scheduling import AtOnce, Concurrency, Cron, Schedule, Zone
from backupctl.config.standby import StandbySettings
from backupctl.config.watching import AnomalySettings
from backupctl.hosts.options import HostOptions, Tag
from backupctl.hosts.secret import SecretRef
from backupctl.hosts.sizes import Size, parse_size
from backupctl.storage.limits import LimitOptions
from backupctl.storage.options import StorageOptions

LOCAL = "local"  # the host that always exists


NAME_PATTERN = r"^\w[\w.-]{0,89}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)


class Defaults(_Model):
    timezone: Zone = Field(default="UTC", description="For every schedule that names none of its own.")


def check_budget(text: str) -> str:
    if re.fullmatch(r"\d+(\.\d+)?%", text):
        if not 0 < float(text[:-1]) <= 100:
            raise ValueError("must be more than 0% and at most 100%")
    elif parse_size(text) <= 0:
        raise ValueError("must be more than zero")
    return text


Budget = Annotated[str, AfterValidator(check_budget)]
"""An amount of bytes such as 5GiB, or a share such as 10%."""


class CheckSettings(_Model):
    cron: Cron
    read_data: bool = Field(default=False, description="Read every byte, not only the structure.")
    budget: Budget | None = Field(
        default=None, description="Read so much (5GiB, 10%) of what was not read for the longest time."
    )
    within: PositiveDuration | None = Field(
        default=None, description="Every stored byte shall be read at least this often; `status` says when it was not."
    )

    @model_validator(mode="after")
    def _one_amount(self) -> CheckSettings:
        if self.read_data and self.budget is not None:
            raise ValueError("give read_data or budget, not both")
        return self


class PriceSettings(_Model):
    """What reading back costs at the provider: for `drill plan`, which says it before anything is read."""

    read_per_gib: Annotated[float, Field(ge=0)] = Field(description="For each GiB that leaves the store.")
    per_1000_requests: Annotated[float, Field(ge=0)] = 0.0
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"


class RepositorySettings(_Model):
    storage: StorageOptions
    password: SecretRef
    check: CheckSettings | None = Field(default=None, description="A scheduled reading of the repository.")
    limits: LimitOptions | None = Field(default=None, description="How fast one run may use the store.")
    price: PriceSettings | None = Field(default=None, description="What reading from the store costs.")
    prune: PruneSettings = Field(default=PruneSettings(), description="How `prune` frees space in it.")
    concurrency: AtOnce | None = Field(default=None, description="How many scheduled runs may use it at once.")
    needs: list[Tag] = Field(default_factory=list, description="Tags that a fleet's worker must have to use it.")


class SourceSettings(_Model):
    """One thing to protect, written as `{KIND: {options}}`; `host` is where it is."""

    kind: str
    options: SerializeAsAny[BaseModel]
    host: str = LOCAL

    @model_validator(mode="before")
    @classmethod
    def _by_kind(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "options" in value:
            return value
        from backupctl.sources.registry import SOURCE_KINDS  # a kind's module is imported when the kind is used

        if len(value) != 1:
            raise ValueError(f"give exactly one kind of source: {', '.join(sorted(SOURCE_KINDS))}")
        (kind,) = value
        if kind not in SOURCE_KINDS:
            raise ValueError(f"{kind!r} is no kind of source; there are {', '.join(sorted(SOURCE_KINDS))}")
        by_kind: Any = dict  # a type made at run time
        adapter: TypeAdapter[dict[str, BaseModel]] = TypeAdapter(by_kind[str, SOURCE_KINDS[kind][0]])
        options = adapter.validate_python(value)[kind]
        return {"kind": kind, "options": options, "host": getattr(options, "host", LOCAL)}

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {self.kind: self.options.model_dump(mode="json", exclude_none=True)}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        from backupctl.sources.registry import SOURCE_KINDS

        kinds = {kind: handler(model.__pydantic_core_schema__) for kind, (model, _) in SOURCE_KINDS.items()}
        return {
            "type": "object",
            "properties": kinds,
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }


class Objectives(_Model):
    rpo: PositiveDuration = Field(description="How much work, in time, may be lost.")
    rto: PositiveDuration = Field(description="How long a recovery may take.")


class Retention(_Model):
    """Which snapshots stay. A snapshot that any rule keeps stays."""

    keep_last: Annotated[int, Field(ge=1)] | None = None
    keep_hourly: Annotated[int, Field(ge=1)] | None = None
    keep_daily: Annotated[int, Field(ge=1)] | None = None
    keep_weekly: Annotated[int, Field(ge=1)] | None = None
    keep_monthly: Annotated[int, Field(ge=1)] | None = None
    keep_yearly: Annotated[int, Field(ge=1)] | None = None
    keep_within: PositiveDuration | None = None

    @model_validator(mode="after")
    def _keeps_something(self) -> Retention:
        if not any(value is not None for value in dict(self).values()):
            raise ValueError("keeps nothing: give at least one keep_* rule, such as keep_daily: 14")
        return self


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


class Job(_Model):
    job: Name
    rating: Literal["low", "medium", "high"] = Field(default="medium", alias="class", description="普、中、高")
    owner: str = ""
    sources: Annotated[dict[Name, SourceSettings], Field(min_length=1)]
    repository: Name
    copies: list[Name] = Field(
        default_factory=list,
        description="Further repositories that get every snapshot of this job, with their own keys.",
    )
    schedule: Schedule | None = None
    objectives: Objectives
    retention: Retention | None = Field(default=None, description="None: nothing ever expires.")
    hooks: list[HookSettings] = Field(
        default_factory=list, description="Commands before and after the sources are read."
    )
    drills: dict[Name, DrillSettings] = Field(default_factory=dict)
    notify: list[Name] = Field(default_factory=list)
    restricted: bool = Field(
        default=False, description="Its name stays out of notices, which then name only the run's id."
    )
    anomalies: AnomalySettings = AnomalySettings()
    epoch: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Which primary the sources are read from: one more with each `standby promote`, which says the number. A "
        "lower one is refused, wherever its configuration lies.",
    )
    timezone: Zone = Field(default="UTC", description="By default `defaults.timezone`.")

    @field_validator("rating", mode="before")
    @classmethod
    def _in_any_language(cls, value: Any) -> Any:
        return {"普": "low", "中": "medium", "高": "high"}.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _steps_have_something_to_do(self) -> Job:
        steps = self.schedule.then if self.schedule is not None else []
        if "prune" in steps and self.retention is None:
            raise ValueError("schedule.then names prune, but the job has no `retention`")
        if "copy" in steps and not self.copies:
            raise ValueError("schedule.then names copy, but the job has no `copies`")
        return self


class ReportSettings(_Model):
    directory: Path = Path("reports")
    organisation: str = ""
    fonts: Path | None = Field(default=None, description="Directory with further fonts for the PDF.")


class CacheSettings(_Model):
    """Where indexes, and trees of far repositories, are kept for the next time. Safe to delete, also while in use."""

    directory: Path | None = Field(
        default=None, description="None: `$XDG_CACHE_HOME/backupctl`, else `~/.cache/backupctl`."
    )
    max_size: Size = Field(
        default=2 << 30,
        description="For the trees of each repository, e.g. 2GiB. The index comes on top, about 110 bytes per blob.",
    )


def _no_cache(value: object) -> object:
    return None if value is False else value


Cache = Annotated[
    CacheSettings | None,
    BeforeValidator(_no_cache, json_schema_input_type=CacheSettings | Literal[False] | None),
]


class _Common(_Model):
    version: Literal[1] = 1
    defaults: Defaults = Defaults()
    catalog: str = Field(default="sqlite:///catalog.db", description="SQLAlchemy URL, without a password.")
    repositories: dict[Name, RepositorySettings] = Field(default_factory=dict)
    hosts: dict[Name, HostOptions] = Field(default_factory=dict)
    concurrency: Concurrency = Concurrency()
    fleet: FleetSettings | None = Field(
        default=None, description="Scheduled runs are executed by `backupctl worker` on any machine, not by `serve`."
    )
    jobs_dir: Path | None = Field(default=None, description="Every *.yaml in it is a job.")
    hosts_dir: Path | None = Field(
        default=None,
        description="Every *.yaml in it is a host: `host: NAME`, and what would stand below it in `hosts`.",
    )
    standby: dict[Name, StandbySettings] = Field(
        default_factory=dict, description="Machines that are kept warm from backups."
    )
    notify: dict[Name, NotifyOptions] = Field(default_factory=dict)
    reports: ReportSettings = ReportSettings()
    coverage: CoverageSettings = CoverageSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings | None = None
    cache: Cache = Field(default=CacheSettings(), description="`false`: none; everything is read from the repository.")

    @model_validator(mode="after")
    def _fleet_has_a_server(self) -> Self:
        if self.fleet is not None and not self.catalog.startswith("postgresql"):
            raise ValueError(
                "`fleet` needs a catalog that many machines reach: catalog: postgresql+psycopg://user@host/name"
            )
        return self


class MainFile(_Common):
    """The main file as written. Its jobs and drills are validated one by one, see `load`."""

    jobs: Any = Field(default=None, description="Jobs by name, or a list of jobs.")
    drills: Any = Field(default=None, description="Further drills by JOB/DRILL.")


class Settings(_Common):
    """The whole configuration. `path` is the main file, `base` its directory; every path in here is absolute.
    `written`: when the file that each job stands in was last written, and under "" the main file."""

    jobs: dict[Name, Job] = Field(default_factory=dict)
    path: Path = Field(default=Path("backupctl.yaml"), exclude=True)
    base: Path = Field(default=Path(), exclude=True)
    written: dict[str, datetime] = Field(default_factory=dict, exclude=True)
