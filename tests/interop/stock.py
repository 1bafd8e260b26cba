"""Stock restic in the versions that are here, as a program that is called."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

NONE = "NOT TESTED against stock restic: none on PATH; `apt-get install restic`"


def _binaries() -> list[str]:
    """Every stock restic there is, each once; of several on PATH that are one file, the first."""
    candidates = os.environ.get("BACKUPCTL_RESTIC_BINARIES", "").split(os.pathsep)
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        if os.access(directory, os.R_OK | os.X_OK):
            candidates += [str(path) for path in sorted(Path(directory).glob("restic*")) if path.is_file()]
    found = {os.path.realpath(path): path for path in reversed(candidates) if path and os.access(path, os.X_OK)}
    return sorted(found.values())


BINARIES = _binaries()


@dataclass
class Said:
    code: int
    out: str
    text: str  # with what went to stderr


class Restic:
    """One program, one password, its files in `directory`."""

    def __init__(self, binary: str, directory: Path, password: str) -> None:
        self._binary, self.home = binary, directory
        self.password_file = directory / f"{password} is the password"
        self.password_file.write_text(password)
        self.version = version_of(binary)

    @property
    def short_version(self) -> str:
        return ".".join(map(str, self.version[:2]))

    def __call__(self, repository: Path, *args: str, stdin: bytes = b"", directory: Path | None = None) -> str:
        """All it says. It must succeed."""
        return self.ended(repository, *args, stdin=stdin, directory=directory).text

    def ended(
        self,
        repository: Path,
        *args: str,
        stdin: bytes = b"",
        directory: Path | None = None,
        expect: Sequence[int] | None = (0,),
    ) -> Said:
        """`expect`: the exit codes that are right, None for any."""
        done = subprocess.run(
            [self._binary, "--no-cache", "-r", str(repository), "--password-file", str(self.password_file), *args],
            input=stdin,
            capture_output=True,
            cwd=directory,
            # another zone than ours: times must be equal instants, not equal texts
            env={"PATH": os.defpath, "HOME": str(self.home), "TZ": "Asia/Taipei"},
            check=False,
        )
        output = (done.stdout + done.stderr).decode(errors="backslashreplace")
        assert expect is None or done.returncode in expect, f"restic {' '.join(args)}: {done.returncode}\n{output}"
        return Said(done.returncode, done.stdout.decode(errors="backslashreplace"), output)

    def with_password(self, password: str) -> Restic:
        return Restic(self._binary, self.home, password)

    def copy(self, origin: Path, into: Path) -> str:
        return self(into, "copy", "--from-repo", str(origin), "--from-password-file", str(self.password_file))


def required() -> None:
    """Skip where no stock restic is; in CI that is a failure."""
    if not BINARIES:
        if os.environ.get("CI") == "true":
            pytest.fail(NONE)
        pytest.skip(NONE)


def newest() -> str:
    """The program of the highest version that is here."""
    return max(BINARIES, key=version_of)


def version_text(binary: str) -> str:
    return subprocess.run([binary, "version"], capture_output=True, text=True, check=True).stdout.split()[1]


def version_of(binary: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version_text(binary).split("-")[0].split("."))
