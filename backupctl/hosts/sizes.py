"""Amounts of bytes as people write them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGTP", start=1):
    _UNITS |= {f"{_letter}iB": 1024**_power, f"{_letter}B": 1000**_power}


def parse_size(value: object) -> int:
    """Bytes of `200GiB`, `1.5 TB`, `4096` or a plain number; KiB is 1024, kB and KB are 1000. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
    unit = match[2].replace("k", "K", 1) if match else ""
    if match is None or unit not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write for example 200GiB or 500MB")
    return int(float(match[1]) * _UNITS[unit]) if "." in match[1] else int(match[1]) * _UNITS[unit]


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
