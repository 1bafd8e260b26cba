"""The content of an S3 secret. Nothing in here ever shows it."""

from __future__ import annotations

import configparser
import json
from dataclasses import dataclass, field

from backupctl.errors import ConfigError

SHAPES = (
    'JSON {"access_key_id": …, "secret_access_key": …}, one line ACCESS:SECRET, two lines (access key, then secret), '
    "or an AWS credentials file with one profile or a [default]"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)

    @classmethod
    def parse(cls, secret: bytes) -> Credentials:
        """Raises ConfigError, which says what is missing and nothing of what is there."""
        try:
            text = secret.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise _unreadable("it is not UTF-8 text") from None  # the cause would quote the content
        if text.startswith("{"):
            found = _from_json(text)
        elif text.startswith("["):
            found = _from_ini(text)
        elif len(lines := text.split()) == 2:
            found = {"access_key_id": lines[0], "secret_access_key": lines[1]}
        elif len(lines) == 1 and ":" in text:
            access, _, key = text.partition(":")
            found = {"access_key_id": access, "secret_access_key": key}
        else:
            raise _unreadable("it has none of the known shapes")
        for needed in ("access_key_id", "secret_access_key"):
            if not found.get(needed):
                raise _unreadable(f"it has no {needed}")
        return cls(found["access_key_id"], found["secret_access_key"], found.get("session_token", ""))


def _from_json(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        raise _unreadable("it begins like JSON and is not") from None
    known = {"access_key_id", "secret_access_key", "session_token"}
    if (
        not isinstance(found, dict)
        or not all(isinstance(value, str) for value in found.values())
        or found.keys() - known
    ):
        raise _unreadable(f"the JSON may hold only the texts {', '.join(sorted(known))}")
    return found


def _from_ini(text: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(text)
    except configparser.Error:
        raise _unreadable("it begins like an AWS credentials file and is not") from None
    names = parser.sections()
    if "default" not in names and len(names) != 1:
        raise _unreadable("it has several profiles and none is [default]")
    section = parser["default" if "default" in names else names[0]]
    return {key.removeprefix("aws_"): value for key, value in section.items()}


def _unreadable(why: str) -> ConfigError:
    return ConfigError(f"cannot understand the S3 credentials: {why}", next_step=f"give them as {SHAPES}")
