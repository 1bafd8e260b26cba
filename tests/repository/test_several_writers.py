"""Several processes write into one repository while another prunes it: nobody loses anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from backupctl.clock import SystemClock
from backupctl.repository.check import check
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.repository.contender import ROUNDS, WRITERS, files
from tests.repository.engine import PASSWORD, restore


def test_nobody_loses_anything(tmp_path: Path) -> None:
    (tmp_path / "turns").mkdir()
    place = tmp_path / "repository"
    Repository.create(LocalStore(place, create=True), PASSWORD, clock=SystemClock(), scrypt_n=1024)
    contenders = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.repository.contender", role, str(tmp_path), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for role, number in [("prune", 0), *(("write", number) for number in range(WRITERS))]
    ]
    outputs = []
    try:
        for contender in contenders:
            said, errors = contender.communicate(timeout=150)
            assert contender.returncode == 0, errors
            outputs.append([json.loads(line) for line in said.splitlines()])
    finally:
        for contender in contenders:
            contender.kill()
            contender.wait()
    (pruned,), *written = outputs
    assert pruned["prunes"] >= ROUNDS // 2 - 1 and pruned["deleted"] > 0, "the pruner had work"
    expected = {}
    for writer, lines in enumerate(written):
        forgotten = {line["forgot"] for line in lines if "forgot" in line}
        for line in lines:
            if "saved" in line and line["saved"] not in forgotten:
                expected[line["saved"]] = files(writer, line["turn"])
        assert len(forgotten) == ROUNDS - 1
    repository = Repository.open(LocalStore(place), PASSWORD, clock=SystemClock())
    assert {snapshot.id for snapshot in repository.snapshots()} == set(expected) and len(expected) == WRITERS
    for snapshot in repository.snapshots():
        assert restore(repository, snapshot) == expected[snapshot.id]
    assert check(repository, read_data=True).problems == []
    assert list(repository.store.list("locks/")) == []
    if shutil.which("restic"):
        environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_CACHE_DIR": str(tmp_path / "restic")}
        done = subprocess.run(
            ["restic", "-r", str(place), "check", "--read-data"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and "no errors were found" in done.stdout, done.stdout + done.stderr
