"""One byte form for one JSON value, so that its hash means something.

Keys sorted, no spaces, UTF-8, no NaN. A report's file holds exactly these bytes: `sha256sum` on it gives the report's hash.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """The canonical bytes of a JSON value. ValueError for NaN and for text that is not Unicode (see `cleaned`)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256, in hex, of the canonical bytes."""
    return hashlib.sha256(canonical(value)).hexdigest()


def cleaned(value: Any) -> Any:
    r"""The same value with file names that are not UTF-8 (lone surrogates) written as \udcXX, so that it can be encoded."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(item) for item in value]
    return value
