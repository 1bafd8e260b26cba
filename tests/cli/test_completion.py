"""Completion as a shell asks for it: commands, options, and names out of the configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.site import Site

PROGRAM = [sys.executable, "-P", "-m", "backupctl"]


def completed(words: str, directory: Path) -> list[str]:
    """What bash would offer for the last word of `words`."""
    # `python -m` names its variable after the module; a shell calls the installed program
    program = "import sys; from backupctl.cli.main import main; sys.argv[0] = 'backupctl'; main()"
    position = str(words.count(" "))
    asked = {"COMP_WORDS": words, "COMP_CWORD": position, "_BACKUPCTL_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=directory,
        env=os.environ | asked,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that was never initialised: completion needs no repository and no key."""
    return Site.create(tmp_path_factory.mktemp("site")).root


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("backupctl stat", ["status"]),
        ("backupctl drill pl", ["plan"]),
        ("backupctl prune --a", ["--apply"]),
        ("backupctl run ", ["site"]),
        ("backupctl backup s", ["site"]),
        ("backupctl run site ", []),
        ("backupctl check m", ["main"]),
        ("backupctl drill run site/", ["site/full"]),
        ("backupctl runs ", ["main", "site", "site/full"]),
        ("backupctl host check ", ["local", "staging"]),
        ("backupctl host register ", ["staging"]),
        ("backupctl find --job ", ["site"]),
        ("backupctl completion f", ["fish"]),
    ],
)
def test_words_are_completed(words: str, offered: list[str], configured: Path) -> None:
    assert sorted(completed(words, configured)) == offered


def test_a_configuration_named_on_the_line_is_the_one_asked(configured: Path, tmp_path: Path) -> None:
    assert completed(f"backupctl --config {configured}/backupctl.yaml run ", tmp_path) == ["site"]


def test_a_missing_or_broken_configuration_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    assert completed("backupctl run ", tmp_path) == []
    (tmp_path / "backupctl.yaml").write_text("version: [1\n")
    assert completed("backupctl run ", tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str, tmp_path: Path) -> None:
    done = subprocess.run([*PROGRAM, "completion", shell], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "_BACKUPCTL_COMPLETE" in done.stdout
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, timeout=60).returncode == 0
