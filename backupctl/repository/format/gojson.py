"""JSON as Go writes it, and readers that never hold more than one list element as objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from backupctl.repository.format import FormatError

_quote = json.JSONEncoder(ensure_ascii=False).encode
_PLAIN = re.compile(r"[ !#-%'-;=?-\[\]-~]*", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def go_string(text: str) -> str:
    """`text` as Go's encoding/json writes it, quotes included. Escaped bytes (surrogates) become `\\ufffd`."""
    if _PLAIN.fullmatch(text):
        return f'"{text}"'
    quoted = _quote(text).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    quoted = quoted.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return _SURROGATE.sub(r"\\ufffd", quoted)


def json_text(data: bytes) -> str:
    """Bytes as Go reads them: each byte that is not UTF-8 is U+FFFD."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _SURROGATE.sub("\ufffd", data.decode("utf-8", "surrogateescape"))


def load_object(data: bytes) -> dict[str, Any]:
    """One JSON object. Raises FormatError."""
    try:
        value = json.loads(json_text(data))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError("not a JSON object")
    return value


def iterate_list(data: bytes, key: str) -> Iterator[Any]:
    """The elements of the list under `key` of the JSON object in `data`, one at a time. Other keys are skipped; a list
    that is missing or null is an error. Raises FormatError. Between two elements only the text is held: what a tree says of
    one database is 20 MiB of objects, and stays open as long as the database is read."""
    text = json_text(data)
    del data
    seen = False
    found: list[Any] = []

    def skip(position: int) -> int:
        match = _SPACE.match(text, position)
        assert match is not None
        return match.end()

    def expect(position: int, wanted: str) -> int:
        position = skip(position)
        if text[position : position + 1] != wanted:
            raise FormatError(f"not JSON: expected {wanted!r} at character {position}")
        return skip(position + 1)

    def value(position: int) -> tuple[Any, int]:
        try:
            element, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"not JSON: {error}") from None
        return element, skip(position)

    position = expect(0, "{")
    while text[position : position + 1] != "}":
        name, position = value(position)
        position = expect(position, ":")
        if name != key:
            _, position = value(position)
        elif seen:
            raise FormatError(f"two lists named {key!r}")
        else:
            seen = True
            position = expect(position, "[")
            while text[position : position + 1] != "]":
                element, position = value(position)
                found.append(element)
                del element
                yield found.pop()
                if text[position : position + 1] != "]":
                    position = expect(position, ",")
                    if text[position : position + 1] == "]":
                        raise FormatError(f"not JSON: a list ends with a comma at character {position}")
            position = skip(position + 1)
        if text[position : position + 1] != "}":
            position = expect(position, ",")
            if text[position : position + 1] == "}":
                raise FormatError(f"not JSON: an object ends with a comma at character {position}")
    if skip(position + 1) != len(text):
        raise FormatError("not JSON: something follows the object")
    if not seen:
        raise FormatError(f"no list named {key!r}")


def hex_id(value: object) -> bytes:
    """A 32-byte id from its 64 hex digits. Raises FormatError."""
    if isinstance(value, str) and len(value) == 64:
        try:
            found = bytes.fromhex(value)
        except ValueError:
            found = b""
        if len(found) == 32:  # white space between digits is skipped
            return found
    raise FormatError(f"not an id: {str(value)[:80]!r}")


def unsigned(value: object, *, bits: int = 64) -> int:
    """A whole number in 0 … 2^bits - 1; None (absent) is 0. Raises FormatError."""
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << bits:
        return value
    raise FormatError(f"not an unsigned number of {bits} bits: {str(value)[:40]!r}")


def string(value: object) -> str:
    """A string; None (absent) is empty. Lone surrogates become U+FFFD as in Go. Raises FormatError."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    raise FormatError(f"not a string: {str(value)[:40]!r}")


def strings(value: object) -> list[str]:
    """A list of strings; None (absent) is empty. Raises FormatError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise FormatError("not a list of strings")
    return [string(item) for item in value]
