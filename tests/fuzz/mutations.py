"""Ways to spoil an object, all drawn from one `Random`, so that a seed names the spoilt object."""

from __future__ import annotations

import json
from random import Random
from typing import Any

_MARK = "\ue000spoilt\ue000"
NASTY_JSON = (
    "null",
    "true",
    "0",
    "-1",
    "-0.5",
    "1e309",
    "NaN",
    "4294967295",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1" + "0" * 400,
    "1" + "0" * 5000,
    '""',
    '"\\ud800"',
    '"\\udcff"',
    '"\\u0000"',
    '"a/b"',
    '".."',
    '"\\\\x2f"',
    '"' + "f" * 64 + '"',
    '"' + "ä" * 64 + '"',
    '"' + "A" * 100_000 + '"',
    '"0001-01-01T00:00:00Z"',
    '"0000-01-01T00:00:00Z"',
    '"9999-12-31T23:59:59.999999999-23:59"',
    '"2024-02-30T00:00:00Z"',
    "[]",
    "{}",
    "[[]]",
    '{"a":1,"a":2}',
    "[" * 200 + "]" * 200,
    "[" * 900 + "]" * 900,
    "[" * 100_000,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 100_000 + "1" + "}" * 100_000,
    "[" + "0," * 50_000 + "0]",
)


def flip(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8)) if changed else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(random: Random, data: bytes) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[place:] if random.random() < 0.3 else data[:place]


def splice(random: Random, data: bytes, other: bytes) -> bytes:
    """Some of this, some of that."""
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    first, last = sorted(random.randrange(len(other) + 1) for _ in range(2))
    return data[:start] + other[first:last] + data[end:]


def overwrite(random: Random, data: bytes) -> bytes:
    """A number in the middle becomes an extreme one."""
    if len(data) < 8:
        return data
    place = random.randrange(len(data) - 7)
    value = random.choice((b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8, b"\x01\0\0\0"))
    return data[:place] + value + data[place + len(value) :]


def spoil_bytes(random: Random, data: bytes, other: bytes) -> bytes:
    """One to three of the above."""
    for _ in range(random.choice((1, 1, 2, 3))):
        way = random.randrange(4)
        data = (
            flip(random, data)
            if way == 0
            else cut(random, data)
            if way == 1
            else splice(random, data, other)
            if way == 2
            else overwrite(random, data)
        )
    return data


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found = []
    todo = [value]
    while todo:
        container = todo.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                todo.append(container[key])
    return found


def spoil_json(random: Random, data: bytes) -> bytes:
    """The same JSON with a field of another type, twice, missing, many times, or absurd. Not always JSON any more."""
    value = json.loads(data)
    for _ in range(random.choice((1, 1, 2))):
        places = _places(value)
        if not places:
            break
        container, key = random.choice(places)
        way = random.random()
        if way < 0.15:
            del container[key]
        elif way < 0.25 and isinstance(container, list):
            container.extend([container[key]] * random.choice((1, 1000)))
        else:
            container[key] = _MARK
    text = json.dumps(value, ensure_ascii=random.random() < 0.5, separators=(",", ":"))
    quoted = {json.dumps(_MARK), json.dumps(_MARK, ensure_ascii=False)}
    for mark in quoted:
        text = text.replace(mark, random.choice(NASTY_JSON), 1)  # a list may hold it a thousand times
        text = text.replace(mark, random.choice(NASTY_JSON[:10]))
    if random.random() < 0.1 and text.startswith("{"):  # every key twice
        text = text[:-1] + "," + text[1:] if len(text) > 2 else text
    return text.encode("utf-8", "surrogatepass")
