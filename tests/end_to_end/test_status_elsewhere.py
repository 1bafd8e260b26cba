"""`status` on a machine that has the configuration, a key that may only read, and the bucket: a real one, with versions and
locks. It must say what the machine says that made the backups."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import FakeClock, parse_iso
from backupctl.config.load import load
from backupctl.operations.context import Context
from backupctl.scheduling.standing import standing
from tests.end_to_end.site import Site
from tests.end_to_end.test_s3 import login
from tests.servers.plugin_rgw import admin_client
from tests.servers.rgw import Rgw
from tests.storage.test_s3_posture import allow

pytestmark = pytest.mark.servers

READING = ("s3:GetObject", "s3:ListBucket", "s3:GetObjectRetention")
# what belongs to the machine: how old it is by now, and runs, which leave no trace when they leave no snapshot
OF_THE_MOMENT = ("time", "age", "age_seconds")


def told(site: Site, *options: str, expect: int) -> list[dict[str, Any]]:
    lines = site.run("status", "--json", *options, expect=expect).lines
    return [
        {key: value for key, value in line.items() if key not in OF_THE_MOMENT}
        | ({"copies": None} if line["type"] == "status" else {})
        for line in lines
    ]


def test_another_machine_with_a_read_key_says_the_same(
    tmp_path: Path, rgw: Rgw, new_bucket: Callable[..., str]
) -> None:
    bucket = new_bucket(lock=True)
    site = Site.create(tmp_path / "orchestrator")
    login(site, *rgw.admin)
    storage = f"{{s3: {{bucket: {bucket}, endpoint: '{rgw.https}', ca_bundle: {rgw.ca}, credentials: {{file: s3.json}}"
    storage += ", read_credentials: {file: read.json}, lock: {mode: governance, days: 35}}}"
    site.configure(storage=storage)
    site.prepare()
    site.run("run")
    site.run("check", "--read-data")
    site.run("drill", "run")
    site.run("hold", "site", "--reason", "court order 7", "--owner", "legal")
    here = told(site, expect=0)

    monitor = Site(tmp_path / "monitor")
    monitor.root.mkdir()
    shutil.copy(site.root / "backupctl.yaml", monitor.root)
    shutil.copytree(site.root / "jobs", monitor.root / "jobs")
    shutil.copy(site.root / "repository.key", monitor.root)
    rgw.add_user("monitor")
    reading = rgw.add_user("monitor-reads")
    allow(rgw, bucket, "monitor-reads", *READING)
    login(monitor, *reading)
    (monitor.root / "s3.json").rename(monitor.root / "read.json")
    there = told(monitor, "--read-only", expect=0)
    for ours, theirs in zip(here, there, strict=True):
        assert theirs == ours
    assert not (monitor.root / "catalog.db").exists()
    repository = next(line for line in there if line["type"] == "repository")
    assert (repository["verdict"], repository["mode"], repository["holds"]) == ("pass", "read-data", 1)
    until = parse_iso(repository["locked_until"])
    assert abs(until - datetime.now(UTC) - timedelta(days=35)) < timedelta(minutes=10)
    assert not repository["unlocked"]

    # the lock that is claimed is lifted from one object: both see it, and neither is green
    client, settings = admin_client(rgw), load(site.root / "backupctl.yaml")
    key = client.list_objects_v2(Bucket=bucket, Prefix="snapshots/")["Contents"][0]["Key"]
    body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    client.put_object(Bucket=bucket, Key=key, Body=body)
    with Context.open(settings) as context:
        found = standing(context, list(settings.jobs.values()))
        assert (found.code, list(found.missed())) == (6, ["main: not locked"])
        assert f"not locked, although the configuration says so: {key}" in found.repositories[0].notes
    assert told(monitor, "--read-only", expect=6)[-2]["missed"] == ["main: not locked"]

    # 36 days on every lock is over, and that is told: it is no broken promise
    later = FakeClock(datetime.now(UTC) + timedelta(days=36))
    with Context.open(settings, clock=later) as context:
        (repository_status,) = standing(context, list(settings.jobs.values())).repositories
        assert not repository_status.unlocked
        assert repository_status.ended_packs == repository_status.packs
        assert any("the lock is over for" in note for note in repository_status.notes)
