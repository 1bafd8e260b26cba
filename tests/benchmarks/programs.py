"""The programs that are compared, each driven by its own command line into a repository on the local disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.measure import Measurement, run, stored_bytes

PASSWORD = "correct-horse-battery"


class Program(ABC):
    """`source` is a directory, or with `database` one SQLite file, which a program that knows such files may read as one."""

    name: str

    def __init__(self, work: Path) -> None:
        self.work = work / self.name
        self.repository = self.work / "repository"
        self.memory = False

    def prepare(self, source: Path, *, database: bool = False) -> None:
        """A new, empty repository for `source`."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.source = source
        self._create(database)

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def _create(self, database: bool) -> None: ...

    @abstractmethod
    def _environment(self) -> Mapping[str, str]: ...

    @abstractmethod
    def backup(self) -> Measurement: ...

    @abstractmethod
    def check(self) -> Measurement:
        """Every stored byte read and verified."""

    @abstractmethod
    def restore(self, target: Path) -> Measurement: ...

    def stored_bytes(self) -> int:
        return stored_bytes(self.repository)

    def _run(self, *argv: str, cwd: Path | None = None) -> Measurement:
        return run(argv, env=self._environment(), cwd=cwd or self.work, memory=self.memory)


class Backupctl(Program):
    name = "backupctl"

    def __init__(self, work: Path, workers: int | None = None) -> None:
        self._workers = workers
        super().__init__(work)

    def version(self) -> str:
        from backupctl import __version__

        return f"backupctl {__version__}"

    def _create(self, database: bool) -> None:
        kind = f"{{sqlite: {{path: {self.source}}}}}" if database else f"{{files: {{paths: [{self.source}]}}}}"
        (self.work / "key").write_text(PASSWORD)
        (self.work / "key").chmod(0o600)
        (self.work / "backupctl.yaml").write_text(
            "version: 1\n"
            "repositories:\n"
            f"  bench: {{storage: {{local: {{path: {self.repository}}}}}, password: {{file: key}}}}\n"
            "jobs:\n"
            f"  bench: {{sources: {{input: {kind}}}, repository: bench, objectives: {{rpo: 24h, rto: 2h}},"
            " retention: {keep_daily: 7}}\n"
        )
        self._run(*self._command, "init")

    @property
    def _command(self) -> list[str]:
        return [str(Path(sys.executable).with_name("backupctl"))]

    def _environment(self) -> Mapping[str, str]:
        count = {} if self._workers is None else {"BACKUPCTL_WORKERS": str(self._workers)}
        return {
            "BACKUPCTL_CONFIG": str(self.work / "backupctl.yaml"),
            "XDG_CACHE_HOME": str(self.work / "cache"),
            "PYTHONDONTWRITEBYTECODE": "",  # an installed program has its byte code
            **count,
        }

    def backup(self) -> Measurement:
        return self._run(*self._command, "run", "bench", "--quiet")

    def check(self) -> Measurement:
        return self._run(*self._command, "check", "--read-data", "--quiet")

    def restore(self, target: Path) -> Measurement:
        return self._run(*self._command, "restore", "bench", "--into", str(target), "--quiet")


class Restic(Program):
    name = "restic"

    def __init__(self, work: Path, binary: str) -> None:
        self._binary = binary
        super().__init__(work)

    def version(self) -> str:
        done = subprocess.run([self._binary, "version"], capture_output=True, text=True, check=True)
        return " ".join(done.stdout.split()[:2])

    def _create(self, database: bool) -> None:
        self._run(self._binary, "init", "--quiet")

    def _environment(self) -> Mapping[str, str]:
        return {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(self.work / "cache"),
        }

    def backup(self) -> Measurement:
        return self._run(self._binary, "backup", "--quiet", str(self.source))

    def check(self) -> Measurement:
        return self._run(self._binary, "check", "--read-data", "--quiet")

    def restore(self, target: Path) -> Measurement:
        return self._run(self._binary, "restore", "latest", "--quiet", "--target", str(target))


class Borg(Program):
    name = "borg"

    def __init__(self, work: Path, binary: str) -> None:
        self._binary = binary
        self._backups = 0
        super().__init__(work)

    def version(self) -> str:
        done = subprocess.run([self._binary, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def _create(self, database: bool) -> None:
        self._backups = 0
        self._run(self._binary, "init", "--encryption=repokey")

    def _environment(self) -> Mapping[str, str]:
        return {
            "BORG_REPO": str(self.repository),
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_BASE_DIR": str(self.work / "base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def backup(self) -> Measurement:
        self._backups += 1
        return self._run(self._binary, "create", "--compression=zstd,3", f"::{self._backups}", str(self.source))

    def check(self) -> Measurement:
        return self._run(self._binary, "check", "--verify-data")

    def restore(self, target: Path) -> Measurement:
        target.mkdir(parents=True)
        return self._run(self._binary, "extract", f"::{self._backups}", cwd=target)


def available(work: Path) -> list[Program]:
    """Ours, and what this machine has of the others; of restic the newest."""
    programs: list[Program] = [Backupctl(work)]
    binaries = [*os.environ.get("BACKUPCTL_RESTIC_BINARIES", "").split(":"), shutil.which("restic") or ""]
    found = [Restic(work, binary) for binary in binaries if binary]
    if found:
        programs.append(max(found, key=lambda one: [int(part) for part in one.version().split()[1].split(".")]))
    if borg := shutil.which("borg"):
        programs.append(Borg(work, borg))
    return programs
