"""What configuration says about how fast a store may be used: rates, and other rates at certain times of the week."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, field_validator

from backupctl.hosts.sizes import parse_size
from backupctl.hosts.windows import TimeWindow

UNLIMITED = "unlimited"
LEAST_BYTES_PER_SECOND = 64 << 10  # a pack of 16 MiB then takes four minutes


def parse_byte_rate(value: object) -> float:
    """Bytes per second of `20MiB/s` or `100Mbit/s`; infinity for `unlimited`. Raises ValueError."""
    advice = "write a rate such as 20MiB/s, 100Mbit/s or unlimited"
    if isinstance(value, float):
        return value
    if not isinstance(value, str) or not (value == UNLIMITED or value.endswith("/s")):
        raise ValueError(advice)
    if value == UNLIMITED:
        return math.inf
    amount = value.removesuffix("/s").strip()
    try:
        bits = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG])bit", amount)
        rate = float(bits[1]) * 1000 ** ("kMG".index(bits[2]) + 1) / 8 if bits else float(parse_size(amount))
    except ValueError:
        raise ValueError(advice) from None
    if rate < LEAST_BYTES_PER_SECOND:
        raise ValueError("must be at least 64KiB/s: a backup that cannot finish protects nothing")
    return rate


def parse_request_rate(value: object) -> float:
    """Requests per second of `100/s` or `600/min`; infinity for `unlimited`. Raises ValueError."""
    if isinstance(value, float):
        return value
    if value == UNLIMITED:
        return math.inf
    match = re.fullmatch(r"(\d+)\s*/\s*(s|min)", value) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError("write a rate such as 100/s, 600/min or unlimited")
    return int(match[1]) / (60 if match[2] == "min" else 1)


def _format_byte_rate(rate: float) -> str:
    if math.isinf(rate):
        return UNLIMITED
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if rate % 1024**power == 0:
            return f"{rate / 1024**power:.0f}{unit}/s"
    return f"{rate * 8 / 1000:g}kbit/s"


def _format_request_rate(rate: float) -> str:
    if math.isinf(rate):
        return UNLIMITED
    return f"{rate:.0f}/s" if rate == round(rate) else f"{rate * 60:.0f}/min"


ByteRate = Annotated[
    float,
    BeforeValidator(parse_byte_rate),
    PlainSerializer(_format_byte_rate, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["20MiB/s", "100Mbit/s", UNLIMITED]}),
]
RequestRate = Annotated[
    float,
    BeforeValidator(parse_request_rate),
    PlainSerializer(_format_request_rate, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["100/s", "600/min", UNLIMITED]}),
]


class _Rates(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    upload: ByteRate | None = Field(default=None, description="Bytes to the store per second, e.g. 20MiB/s.")
    download: ByteRate | None = Field(default=None, description="Bytes from the store per second.")
    requests: RequestRate | None = Field(default=None, description="Calls to the store, e.g. 100/s.")


class LimitWindow(_Rates, TimeWindow):
    """Other rates from one time of day to another, on the wall clock of `defaults.timezone`; what is not given stays as it
    is outside."""


class LimitOptions(_Rates):
    """How fast this repository's store may be used by one run."""

    windows: list[LimitWindow] = Field(default_factory=list, description="The first that fits the moment counts.")

    @field_validator("windows")
    @classmethod
    def _say_something(cls, value: list[LimitWindow]) -> list[LimitWindow]:
        for window in value:
            if window.upload is None and window.download is None and window.requests is None:
                raise ValueError("a window changes nothing: give upload, download or requests")
        return value

    def rates(self, instant: datetime, zone: str) -> dict[str, float]:
        """What counts at this instant, for `upload`, `download` (bytes) and `requests`, per second. It can change only
        where a minute of UTC begins, also where clocks are changed."""
        wall = instant.astimezone(ZoneInfo(zone))
        window: Any = next((one for one in self.windows if one.covers(wall)), None)
        found = {}
        for name in ("upload", "download", "requests"):
            rate = getattr(window, name, None)
            rate = getattr(self, name) if rate is None else rate
            found[name] = math.inf if rate is None else rate
        return found
