"""Makers of the whole repositories: ours by way of the real command line, the others by stock restic."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from backupctl.clock import SystemClock
from backupctl.repository.keys import add_key
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.golden import content
from tests.golden.golden import PASSWORD, Objects
from tests.interop.stock import BINARIES, Restic, newest, version_of, version_text

Made = tuple[Objects, dict[str, Any]]
Steps = tuple[Callable[[Restic, Path], None], ...]
WORK = Path("/var/tmp/backupctl-golden")
"""Fixed, because paths are content."""
SITE = WORK / "site"
SECOND_PASSWORD = "golden too"


@contextmanager
def place() -> Iterator[Path]:
    """The empty directory for one repository and what goes into it."""
    WORK.mkdir()  # fails when somebody else is at work
    try:
        yield WORK
    finally:
        rmtree(WORK)


def expectation(about: str, made_by: str, states: list[dict[str, Any]], root: str, repository: Repository) -> Made:
    """`states`: what the site was at each snapshot, oldest first; `root`: where it stands in them."""
    store = repository.store
    objects = {info.name: store.get(info.name) for info in store.list("") if not info.name.startswith("locks/")}
    snapshots = [
        {
            "id": snapshot.id,
            "time": snapshot.time.isoformat(),
            "hostname": snapshot.hostname,
            "paths": snapshot.paths,
            "tags": [tag for tag in snapshot.tags if ":" not in tag],
            "root": root,
            "files": state,
        }
        for snapshot, state in zip(repository.snapshots(), states, strict=True)
    ]
    records = Counter(name.split("/")[1] for name in objects if name.startswith("backupctl/"))
    expected = {"about": about, "made_by": made_by, "version": repository.config.version, "passwords": [PASSWORD]}
    return objects, {**expected, "records": dict(sorted(records.items())), "snapshots": snapshots}


def ours() -> Made:
    with place() as work:
        states = []
        repository = create(work / "repository")
        (work / "password").write_text(PASSWORD)
        (work / "password").chmod(0o600)
        (work / "backupctl.yaml").write_text(
            "version: 1\ndefaults: {timezone: UTC}\n"
            "repositories:\n  main: {storage: {local: {path: repository}}, password: {file: password}}\n"
            f"jobs:\n  - {{job: site, class: high, owner: web team, repository: main, retention: {{keep_daily: 7}},\n"
            f"     objectives: {{rpo: 24h, rto: 2h}},\n"
            f"     sources: {{www: {{files: {{paths: [{SITE}]}}}}}}}}\n"
        )
        SITE.mkdir()
        content.first_state(SITE, large=True)
        states.append(content.facts(SITE))
        ourselves(work, "run")
        content.second_state(SITE)
        states.append(content.facts(SITE))
        ourselves(work, "run")
        ourselves(work, "hold", "place", "site", "--reason", "kept forever", "--owner", "the tests")
        ourselves(work, "check", "--read-data")
        ourselves(work, "check", "--budget", "1KiB")
        repository.reset_index()
        root = f"www{SITE}"
        return expectation("two runs of a job, a hold, two checks", "backupctl", states, root, repository)


def ourselves(work: Path, *arguments: str) -> None:
    command = [sys.executable, "-P", "-m", "backupctl", "--config", str(work / "backupctl.yaml"), *arguments]
    environment = os.environ | {"XDG_CACHE_HOME": str(work / "cache")}
    subprocess.run(command, cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)


def create(path: Path) -> Repository:
    """With the cheapest key that the format allows."""
    return Repository.create(LocalStore(path, create=True), PASSWORD, clock=SystemClock(), scrypt_n=2)


def two_keys() -> Made:
    restic = newest()
    with place() as work:
        repository = create(work / "repository")
        add_key(repository, SECOND_PASSWORD, scrypt_n=2)
        SITE.mkdir()
        content.first_state(SITE, large=False)
        states = [content.facts(SITE)]
        backup(stock(restic, work), work)
        made = expectation(
            "ours, with two passwords; the snapshot is restic's",
            f"restic {version_text(restic)}",
            states,
            "",
            repository,
        )
    made[1]["passwords"].append(SECOND_PASSWORD)
    return made


def by_restic(restic: str, about: str, *, version: str = "2", large: bool = True, first: Steps, then: Steps) -> Made:
    """A repository of that version with two snapshots: `first` makes the one, `then` the other."""
    with place() as work:
        program = stock(restic, work)
        program(work / "repository", "init", "--repository-version", version)
        SITE.mkdir()
        content.first_state(SITE, large=large)
        states = [content.facts(SITE)]
        for step in first:
            step(program, work)
        content.second_state(SITE)
        states.append(content.facts(SITE))
        for step in then:
            step(program, work)
        repository = Repository.open(LocalStore(work / "repository"), PASSWORD, clock=SystemClock())
        return expectation(about, f"restic {version_text(restic)}", states, "", repository)


def stock(restic: str, work: Path) -> Restic:
    (work / "restic").mkdir()
    return Restic(restic, work / "restic", PASSWORD)


def backup(restic: Restic, work: Path, *options: str) -> None:
    restic(work / "repository", "backup", "--host", "golden", "--tag", "kept", *options, ".", directory=SITE)


def uncompressed(restic: Restic, work: Path) -> None:
    backup(restic, work, "--compression", "off")


def hardest(restic: Restic, work: Path) -> None:
    backup(restic, work, "--compression", "max")


def upgraded(restic: Restic, work: Path) -> None:
    restic(work / "repository", "migrate", "upgrade_repo_v2")


def makers() -> dict[str, Callable[[], Made]]:
    """By name, for every stock restic that is here."""
    found: dict[str, Callable[[], Made]] = {"ours": ours, "two-keys": two_keys}
    for restic in BINARIES:
        major, minor = version_of(restic)[:2]
        name = f"restic-{major}.{minor}"

        def version_1(restic: str = restic) -> Made:
            return by_restic(
                restic, "version 1: no compression", version="1", large=False, first=(backup,), then=(backup,)
            )

        def version_2(restic: str = restic) -> Made:
            return by_restic(restic, "version 2", first=(backup,), then=(backup,))

        found |= {f"{name}-v1": version_1, f"{name}-v2": version_2}
    found["mixed-compression"] = lambda: by_restic(
        newest(), "packs of plain blobs, then of compressed ones", large=False, first=(uncompressed,), then=(hardest,)
    )
    found["upgraded-from-v1"] = lambda: by_restic(
        newest(), "version 1, upgraded in place", version="1", large=False, first=(backup, upgraded), then=(backup,)
    )
    return found
