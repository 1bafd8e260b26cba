from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.clock import FakeClock
from backupctl.errors import ConfigError, UnreachableError
from backupctl.hosts.secret import SecretRef
from backupctl.storage.credentials import Credentials
from backupctl.storage.options import S3Options, StorageOptions
from backupctl.storage.registry import open_store

ACCESS, SECRET = "AKIDEXAMPLE", "wJalr/XUtn:FEMI+K7=MDENG"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"access_key_id": ACCESS, "secret_access_key": SECRET}),
        f"{ACCESS}:{SECRET}\n",
        f"{ACCESS}\n{SECRET}\n",
        f"\ufeff{ACCESS}\r\n{SECRET}\r\n",
        f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n",
        f"[backup]\naws_access_key_id={ACCESS}\naws_secret_access_key={SECRET}\nregion=x\n",
        f"[a]\naws_access_key_id=b\n[default]\naws_access_key_id={ACCESS}\naws_secret_access_key={SECRET}\n",
    ],
)
def test_credentials_in_every_known_shape(text: str) -> None:
    credentials = Credentials.parse(text.encode())
    assert (credentials.access_key_id, credentials.secret_access_key, credentials.session_token) == (ACCESS, SECRET, "")
    assert SECRET not in repr(credentials)


def test_a_session_token_is_taken() -> None:
    text = json.dumps({"access_key_id": ACCESS, "secret_access_key": SECRET, "session_token": "t"})
    assert Credentials.parse(text.encode()).session_token == "t"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"wJalrSECRET",
        b"one wJalrSECRET three",
        b'{"access_key_id": "a", "secret_access_key": "wJalrSECRET"',
        b'{"access_key_id": "a", "secret": "wJalrSECRET"}',
        b'{"secret_access_key": "wJalrSECRET"}',
        b'{"access_key_id": "a", "secret_access_key": ["wJalrSECRET"]}',
        b"[default]\naws_secret_access_key = wJalrSECRET",
        b"[default\nwJalrSECRET",
        b"[default]\nwJalrSECRET",
        b"[a]\naws_access_key_id=a\naws_secret_access_key=wJalrSECRET\n[b]\n",
        b":wJalrSECRET",
        b"\xff\xfewJalrSECRET",
    ],
)
def test_credentials_that_cannot_be_understood_are_never_shown(text: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        Credentials.parse(text)
    error: BaseException | None = caught.value
    while error is not None and not error.__suppress_context__:
        assert "wJalr" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    assert "wJalr" not in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize(
    "value", [{"file": "/a"}, {"credential": "a"}, {"env": "A"}, {"command": ["pass", "show", "a"]}]
)
def test_a_secret_is_exactly_one_reference(value: dict[str, object]) -> None:
    reference = SecretRef.model_validate(value)
    assert reference.model_dump(exclude_none=True) == value
    assert repr(reference).startswith(f"SecretRef({next(iter(value))} ")


@pytest.mark.parametrize(
    "value", [{}, {"file": "a", "env": "B"}, {"file": ""}, {"command": []}, {"vault": "a"}, "hunter2", 5]
)
def test_everything_else_is_no_reference_and_is_not_quoted(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        SecretRef.model_validate(value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"local": {"path": "a"}, "s3": {"bucket": "abc"}},
        {"local": {"path": "a", "mode": 1}},
        {"sftp": {}},
        {"s3": {"bucket": "ab"}},
        {"s3": {"bucket": "abc", "prefix": "/a"}},
        {"s3": {"bucket": "abc", "prefix": "a/../b"}},
        {"s3": {"bucket": "abc", "endpoint": "ftp://host"}},
        {"s3": {"bucket": "abc", "endpoint": "https://user:pass@host"}},
        {"s3": {"bucket": "abc", "endpoint": "https://host/path"}},
        {"s3": {"bucket": "abc", "lock": {"mode": "compliance", "days": 0}}},
        {"s3": {"bucket": "abc", "lock": {"mode": "maybe", "days": 1}}},
    ],
)
def test_options_that_make_no_sense_are_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StorageOptions.model_validate(value)


def test_prefix_and_endpoint_are_normalised() -> None:
    options = S3Options(bucket="abc", prefix="a/b/", endpoint="https://host:9000/")
    assert (options.prefix, options.endpoint) == ("a/b", "https://host:9000")


def test_a_local_store_is_relative_to_its_file_and_made_only_at_init(tmp_path: Path) -> None:
    options = StorageOptions.model_validate({"local": {"path": "repository"}})
    clock = FakeClock(datetime(2026, 11, 22, tzinfo=UTC))

    def no_secrets(reference: SecretRef) -> bytes:
        raise AssertionError(reference)

    with pytest.raises(UnreachableError):
        open_store(options, secrets=no_secrets, base=tmp_path, clock=clock)
    store = open_store(options, secrets=no_secrets, base=tmp_path, clock=clock, create=True)
    store.put("config", b"c")
    assert (tmp_path / "repository/config").read_bytes() == b"c"
    again = open_store(options, secrets=no_secrets, base=tmp_path, clock=clock)
    assert again.get("config") == b"c"
