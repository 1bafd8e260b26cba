"""When a job runs, and beside what: the options of `schedule:` and `concurrency:`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from backupctl.config.durations import Duration, PositiveDuration
from backupctl.hosts.sizes import Size
from backupctl.hosts.windows import TimeWindow

Step = Literal["check", "prune", "copy", "refresh", "drill"]


def check_cron(expression: str) -> str:
    try:
        next(CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        said = str(error) or "it never fires"
        raise ValueError(f'is no cron expression such as "15 2 * * *": {said}') from error
    return expression


def check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # OSError: the name of a directory of zones
        raise ValueError("is no IANA time zone such as Asia/Taipei or UTC") from error
    return name


Cron = Annotated[str, AfterValidator(check_cron)]
Zone = Annotated[str, AfterValidator(check_zone)]
AtOnce = Annotated[int, Field(ge=1, le=10_000)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)


class Retries(_Options):
    """Trying again after a failure that may pass: something unreachable or locked, a store that stumbled, a process that
    was killed. Never after a wrong key, damage or a mistake in the configuration."""

    times: Annotated[int, Field(ge=1, le=100)] = Field(description="How often, beyond the first attempt.")
    wait: PositiveDuration = Field(
        default=timedelta(minutes=5), description="Before the first; doubled before each further one."
    )
    longest: PositiveDuration = Field(default=timedelta(hours=1), description="No wait is longer than this.")


class Schedule(_Options):
    cron: Cron = Field(description="Minute, hour, day, month, weekday (Sunday is 0 and 7).")
    timezone: Zone | None = None
    jitter: Duration = Field(
        default=timedelta(0), description="The start moves by a fixed part of this, the same every day."
    )
    catch_up: Literal["once", "all", "skip"] = Field(
        "once", description="After missed starts: run once when possible, once for each of them, or not."
    )
    allowed: list[TimeWindow] = Field(
        default_factory=list, description="Runs begin only in one of these; a start outside waits for the next."
    )
    denied: list[TimeWindow] = Field(default_factory=list, description="Runs do not begin in these.")
    deadline: PositiveDuration | None = Field(default=None, description="A run that takes longer is stopped.")
    overlap: Literal["skip", "queue", "replace"] = Field(
        default="skip",
        description="When a run is due while the last one still runs: leave it out, let it wait, or stop the last one.",
    )
    retries: Retries | None = None
    then: list[Step] = Field(
        default_factory=list,
        description="What follows a complete run, each when the one before it ended well: `check` of the repository, "
        "`prune` by the job's retention, `copy` into its copies, `refresh` the standbys that follow it, "
        "`drill`: each of its drills without a `cron`.",
    )
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(
        default=0, description="Of several that wait, the higher one starts first."
    )

    @model_validator(mode="after")
    def _can_begin(self) -> Schedule:
        """The windows leave some minute of the week; the steps are different ones."""
        if len(set(self.then)) != len(self.then):
            raise ValueError("`then` names a step twice")
        week = (datetime(2026, 1, 5) + timedelta(minutes=n) for n in range(7 * 24 * 60))  # noqa: DTZ001  a wall clock
        if (self.allowed or self.denied) and not any(map(self.permits, week)):
            raise ValueError("its windows leave no minute of the week in which it may begin")
        return self

    def permits(self, wall: datetime) -> bool:
        """Whether a run may begin at this time of the wall clock."""
        allowed = not self.allowed or any(window.covers(wall) for window in self.allowed)
        return allowed and not any(window.covers(wall) for window in self.denied)


class Concurrency(_Options):
    """How many runs that a schedule started go on at once. A run that somebody asks for by name does not wait, but counts."""

    total: AtOnce | None = None
    host: AtOnce | None = Field(default=None, description="On each host that does not say its own `concurrency`.")
    repository: AtOnce | None = Field(
        default=None, description="In each repository that does not say its own `concurrency`."
    )
    memory: Size | None = Field(
        default=None,
        description="Most bytes of its own that each process of a run may have, e.g. 2GiB; a run that wants more fails.",
    )
