from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backupctl.config.secrets import fetch_secret
from backupctl.errors import ConfigError
from backupctl.hosts.process import redact
from backupctl.hosts.secret import SecretRef


def private(path: Path, content: bytes) -> SecretRef:
    path.write_bytes(content)
    path.chmod(0o600)
    return SecretRef(file=str(path))


def test_a_file_loses_one_newline_and_is_redacted_from_then_on(tmp_path: Path) -> None:
    assert fetch_secret(private(tmp_path / "a", b" correct horse \n\n")) == b" correct horse \n"
    assert fetch_secret(private(tmp_path / "b", b"battery-staple\r\n")) == b"battery-staple"
    assert "battery-staple" not in redact("login with battery-staple failed")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_file_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    reference = private(tmp_path / "key", b"hunter2")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}\)\n  next: chmod 600 {tmp_path}/key") as caught:
        fetch_secret(reference)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_missing_empty_or_huge(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        fetch_secret(SecretRef(file=str(tmp_path / "gone")))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        fetch_secret(SecretRef(file=str(tmp_path)))
    with pytest.raises(ConfigError, match="missing or empty"):
        fetch_secret(private(tmp_path / "empty", b"\n"))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        fetch_secret(private(tmp_path / "huge", b"x" * (2**20 + 1)))


def test_a_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY is not set"):
        fetch_secret(SecretRef(credential="offsite"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "offsite").write_text("from systemd\n")
    (tmp_path / "offsite").chmod(0o440)  # as systemd does it
    assert fetch_secret(SecretRef(credential="offsite")) == b"from systemd"
    with pytest.raises(ConfigError, match="no name of a credential"):
        fetch_secret(SecretRef(credential="../offsite"))


def test_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFSITE_KEY", "from the environment")
    assert fetch_secret(SecretRef(env="OFFSITE_KEY")) == b"from the environment"
    monkeypatch.delenv("OFFSITE_KEY")
    with pytest.raises(ConfigError, match="env OFFSITE_KEY is missing or empty"):
        fetch_secret(SecretRef(env="OFFSITE_KEY"))


def test_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch_secret(SecretRef(command=["printf", "%s\\n", "from a command"])) == b"from a command"
    with pytest.raises(ConfigError, match="'false' ended with exit code 1"):
        fetch_secret(SecretRef(command=["false"]))
    with pytest.raises(ConfigError, match="exit code 127"):
        fetch_secret(SecretRef(command=["no-such-program-here"]))
    monkeypatch.setattr("backupctl.config.secrets.COMMAND_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(ConfigError, match="hangs"):
        fetch_secret(SecretRef(command=[sys.executable, "-c", "import time; time.sleep(60)"]))
