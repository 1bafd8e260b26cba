"""What the configuration says, checked. `load` reads it from files and checks what names what.

The options of stores, hosts, sources and notice channels are the models of their own modules; they are composed here,
never copied. Everything is frozen: a configuration is loaded once and does not change.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

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

from backupctl.config.coverage import CoverageSettings
from backupctl.config.durations import PositiveDuration
from backupctl.config.later import later
from backupctl.config.logging import LogSettings, TelemetrySettings
from backupctl.config.names import Name
from backupctl.config.pruning import PruneSettings
from backupctl.config.scheduling import AtOnce, Concurrency, Cron, Schedule, Zone
from backupctl.config.watching import AnomalySettings
from backupctl.hosts.options import HostOptions, Tag
from backupctl.hosts.secret import SecretRef
from backupctl.hosts.sizes import Size, parse_size
from backupctl.storage.limits import LimitOptions
from backupctl.storage.options import StorageOptions

if TYPE_CHECKING:
    from backupctl.config.channels import NotifyOptions
    from backupctl.config.drilling import DrillSettings
    from backupctl.config.fleet import FleetSettings
    from backupctl.config.hooks import HookSettings
    from backupctl.config.standby import StandbySettings
else:  # most configurations have none of these: together they were a third of what reading a small one costs
    NotifyOptions = later("backupctl.config.channels", "NotifyOptions")
    DrillSettings = later("backupctl.config.drilling", "DrillSettings")
    FleetSettings = later("backupctl.config.fleet", "FleetSettings")
    HookSettings = later("backupctl.config.hooks", "HookSettings")
    StandbySettings = later("backupctl.config.standby", "StandbySettings")

LOCAL = "local"  # the host that always exists


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


class _Common(_Model, defer_build=True):
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
