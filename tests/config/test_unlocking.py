"""What is derived ahead is used for the place and the password that it was derived for, and for nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import SystemClock
from backupctl.config import unlocking
from backupctl.config.document import read_document
from backupctl.operations.ahead import before_all
from backupctl.repository import opening
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore

WRITTEN = {"storage": {"local": {"path": "repository"}}, "password": {"file": "key"}}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    Repository.create(LocalStore(tmp_path / "repository", create=True), "geheim", clock=SystemClock(), scrypt_n=2)
    (tmp_path / "key").write_text("geheim\n")
    return tmp_path


def test_the_keys_that_were_derived_are_those_of_the_repository(base: Path) -> None:
    place = str(base / "repository")
    unlocking.begin(base, WRITTEN)
    assert unlocking.begun(place, "geheim") == opening.unlock(LocalStore(base / "repository"), "geheim")
    assert unlocking.begun(place, "geheim") is None  # not kept


def test_another_password_or_place_gets_nothing(base: Path) -> None:
    place = str(base / "repository")
    unlocking.begin(base, WRITTEN)
    assert unlocking.begun(f"{place}2", "geheim") is None
    assert unlocking.begun(place, "other") is None


def test_a_password_that_can_be_read_only_once_is_left_alone(base: Path) -> None:
    (base / "key").unlink()
    os.mkfifo(base / "key")
    unlocking.begin(base, WRITTEN)
    assert unlocking.begun(str(base / "repository"), "geheim") is None


@pytest.mark.parametrize("password", ["wrong\n", "", "\xff\n"])
def test_what_does_not_open_is_no_failure_yet(base: Path, password: str) -> None:
    (base / "key").write_text(password, "latin-1")
    unlocking.begin(base, WRITTEN)
    assert unlocking.begun(str(base / "repository"), "geheim") is None


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"storage": []},
        {"storage": {"local": {"path": 3}}},
        {**WRITTEN, "password": "geheim"},
        {**WRITTEN, "storage": None},
    ],
)
def test_what_is_not_plain_is_not_guessed(base: Path, written: dict[Any, Any]) -> None:
    unlocking.begin(base, written)
    assert unlocking.begun(str(base / "repository"), "geheim") is None


@pytest.mark.parametrize(
    ("text", "names", "guessed"),
    [
        ("repositories: {r: R}\njobs: {a: {repository: r}}", (), True),
        ("repositories: {r: R}\njobs: {a: {repository: r}, b: {}}", (), False),
        ("repositories: {r: R}\njobs: {a: {repository: r}, b: {}}", ("b",), True),
        ("repositories: {r: R, s: S}\njobs: {a: {repository: r}}", ("a",), True),
        ("repositories: {r: R, s: S}\njobs_dir: jobs", ("a",), False),
        ("repositories: {r: R}\njobs_dir: jobs", ("a",), True),
        ("repositories: {r: R}\njobs: {a: {repository: [r]}}", ("a",), False),
        ("repositories: [R]\njobs: [a]\nconcurrency: 3", ("a",), False),
        ("nothing", ("a",), False),
    ],
)
def test_which_repository_is_taken_from_the_main_file(
    base: Path, monkeypatch: pytest.MonkeyPatch, text: str, names: tuple[str, ...], guessed: bool
) -> None:
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    (base / "main.yaml").write_text(text.replace("R", str(WRITTEN).replace("'", "")).replace("S}", "{}}"))
    with before_all(read_document(base / "main.yaml", "main.yaml"), "backup", names):
        assert (unlocking.begun(str(base / "repository"), "geheim") is not None) == guessed


@pytest.mark.parametrize(("names", "guessed"), [((), False), (("r",), True), (("s",), False), (("r", "s"), False)])
def test_a_check_of_one_repository(
    base: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], guessed: bool
) -> None:
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    (base / "main.yaml").write_text(f"repositories: {{r: {WRITTEN!s}, s: {{}}}}".replace("'", ""))
    with before_all(read_document(base / "main.yaml", "main.yaml"), "check", names):
        assert (unlocking.begun(str(base / "repository"), "geheim") is not None) == guessed
