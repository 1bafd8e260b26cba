"""A part of the week on a wall clock: some days, from one time of day to another."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def parse_days(value: object) -> str:
    """`mon-fri`, `sat,sun` or `daily`, checked. Raises ValueError."""
    if not isinstance(value, str) or not _weekdays(value):
        raise ValueError("write days such as mon-fri or sat,sun or daily")
    return value


def _weekdays(text: str) -> frozenset[int]:
    """Monday is 0. Empty when the text is no such list."""
    found = set[int]()
    for part in ["mon-sun"] if text == "daily" else text.split(","):
        first, _, last = part.strip().partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            return frozenset()
        start = DAYS.index(first)
        found.update((start + n) % 7 for n in range((DAYS.index(last or first) - start) % 7 + 1))
    return frozenset(found)


def _minutes(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    return hours * 60 + minutes


Days = Annotated[
    str,
    BeforeValidator(parse_days),
    WithJsonSchema({"type": "string", "examples": ["mon-fri", "sat,sun", "daily"]}),
]
TimeOfDay = Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$", examples=["08:00"])]


class TimeWindow(BaseModel):
    """From one time of day to another, on some days of the week."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    days: Days = Field(default="daily", description="On which days it begins: mon-fri, or sat,sun, or daily.")
    start: TimeOfDay = Field(alias="from", description="Wall clock.")
    end: TimeOfDay = Field(alias="to", description="Not included; at or before `from` it is the next day's.")

    @model_validator(mode="after")
    def _begins_on_its_day(self) -> TimeWindow:
        if self.start == "24:00":
            raise ValueError("a window cannot begin at 24:00; write 00:00")
        return self

    def covers(self, wall: datetime) -> bool:
        """Whether this wall-clock time lies in the window. It can change only where a minute begins."""
        now, start, end = wall.hour * 60 + wall.minute, _minutes(self.start), _minutes(self.end)
        days = _weekdays(self.days)
        if start < end:
            return wall.weekday() in days and start <= now < end
        return (wall.weekday() in days and start <= now) or ((wall.weekday() - 1) % 7 in days and now < end)

    def __str__(self) -> str:
        return f"{self.days} {self.start}–{self.end}"
