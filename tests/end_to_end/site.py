"""A whole small set-up in one directory, driven through the real command line in real processes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.end_to_end.warm import Command, warm

PROGRAM = (sys.executable, "-P", "-m", "backupctl")


@dataclass
class Said:
    """What one command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of a --json command."""
        return [json.loads(line) for line in self.out.splitlines()]

    def line(self, kind: str) -> dict[str, Any]:
        """The only JSON line of that type."""
        (found,) = [line for line in self.lines if line["type"] == kind]
        return found

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Site:
    """Files and an SQLite database under `input`, one job `site` with the drill `full`, everything in `root`."""

    root: Path
    sources: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()  # a command that starts ours, such as setpriv

    @classmethod
    def create(cls, root: Path) -> Site:
        (root / "input" / "www" / "deep").mkdir(parents=True)
        (root / "input" / "www" / "index.html").write_text("<h1>hello</h1>\n")
        (root / "input" / "www" / "deep" / "picture.bin").write_bytes(os.urandom(700_000))
        (root / "input" / "www" / "empty").touch()
        (root / "input" / "www" / "link").symlink_to("index.html")
        os.link(root / "input" / "www" / "index.html", root / "input" / "www" / "hard")
        with sqlite3.connect(root / "input" / "shop.db") as database:
            database.execute("create table orders(id integer primary key, customer text, total real)")
            rows = [(number, f"customer {number % 7}", number * 1.25) for number in range(2_000)]
            database.executemany("insert into orders values (?, ?, ?)", rows)
        database.close()
        site = cls(root, {"db": "{sqlite: {path: ../input/shop.db}}", "www": "{files: {paths: [../input/www]}}"})
        (root / "jobs").mkdir()
        site.configure()
        return site

    def configure(
        self, *, storage: str = "{local: {path: repository}}", main: str = "", job: str = "", drill: str = ""
    ) -> None:
        """Write both files again; the arguments are YAML that is put into the main file, the job and its drill."""
        (self.root / "backupctl.yaml").write_text(
            "version: 1\n"
            "defaults: {timezone: Asia/Taipei}\n"
            f"repositories:\n  main: {{storage: {storage}, password: {{file: repository.key}}}}\n"
            "hosts:\n  staging: {local: {}, role: staging, scratch: staging}\n"
            "jobs_dir: jobs/\n"
            "reports: {directory: reports, organisation: Test Office}\n" + main
        )
        sources = "".join(f"  {name}: {options}\n" for name, options in self.sources.items())
        (self.root / "jobs" / "site.yaml").write_text(
            f"job: site\nclass: high\nowner: web team\nsources:\n{sources}repository: main\n"
            'schedule: {cron: "15 2 * * *"}\nobjectives: {rpo: 24h, rto: 2h}\nretention: {keep_daily: 7}\n'
            f"drills:\n  full: {{on: staging{drill}}}\n" + job
        )

    def run(self, *arguments: str, expect: int | Sequence[int] | None = 0, timeout: float = 120) -> Said:
        """One command; `expect` is its exit code (None: any)."""
        return self.ended(self.start(*arguments), expect=expect, timeout=timeout)

    def start(self, *arguments: str) -> subprocess.Popen[bytes] | Command:
        """One command, not waited for: see `ended`."""
        if not self.before and "PYTHONPATH" not in self.environment:  # that one is read as an interpreter starts
            return warm().start(
                ["--config", str(self.root / "backupctl.yaml"), *arguments],
                cwd=self.root,
                environment=os.environ | self.environment,
            )
        return subprocess.Popen(
            [*self.before, *PROGRAM, "--config", str(self.root / "backupctl.yaml"), *arguments],
            cwd=self.root,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def ended(
        self,
        process: subprocess.Popen[bytes] | Command,
        *,
        expect: int | Sequence[int] | None = 0,
        timeout: float = 120,
    ) -> Said:
        arguments = process.args[process.args.index("--config") + 2 :]
        out, err = process.communicate(timeout=timeout)
        said = Said(process.returncode, out.decode(), err.decode())
        if expect is not None:
            allowed = (expect,) if isinstance(expect, int) else tuple(expect)
            assert said.code in allowed, f"{arguments}: exit code {said.code}, expected {expect}\n{said.text}"
        if said.code != 0:
            assert "Traceback" not in said.text, said.text
        return said

    def prepare(self) -> Site:
        self.run("init")
        self.run("host", "register", "staging")
        return self

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    def objects(self, kind: str) -> list[Path]:
        """Files of one kind in the local repository, largest first: data, index, snapshots, keys, locks, backupctl."""
        return sorted(
            (one for one in (self.repository / kind).rglob("*") if one.is_file()), key=lambda one: -one.stat().st_size
        )
