"""Scenarios whose point is a real S3 server with object lock: what it refuses, and who is let in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.site import Site
from tests.servers.plugin_rgw import admin_client
from tests.servers.rgw import Rgw

pytestmark = pytest.mark.servers


def login(path: Path, access: str, secret: str) -> None:
    path.write_text(json.dumps({"access_key_id": access, "secret_access_key": secret}))
    path.chmod(0o600)


def scenario(site: Site, rgw: Rgw, bucket: str, name: str) -> None:
    place = f"bucket: {bucket}, endpoint: '{rgw.https}', ca_bundle: {rgw.ca}, credentials: {{file: s3.json}}"
    site.configure(
        storage=f"{{s3: {{{place}, lock: {{mode: compliance, days: 1}}}}}}",
        drill=f", scenario: {name}, stolen: {{file: ../stolen.json}}",
    )


def test_what_an_attacker_with_our_credentials_is_refused_on_a_real_server(
    tmp_path: Path, rgw: Rgw, new_bucket: Callable[..., str]
) -> None:
    site, bucket = Site.create(tmp_path), new_bucket(lock=True)
    login(site.root / "s3.json", *rgw.admin)
    scenario(site, rgw, bucket, "mock-attack")
    site.prepare()
    site.run("run")
    before = {info["Key"] for info in admin_client(rgw).list_objects_v2(Bucket=bucket)["Contents"]}
    done = site.run("drill", "run", "--json").line("finished")
    assert (done["verdict"], done["failed_checks"], done["cleaned_up"]) == ("pass", 0, True)
    checks = {one["name"]: one for one in site.run("drill", "show", "site/full", "--json").line("drill")["checks"]}
    tried = {name.removeprefix("attack on main: ") for name in checks if name.startswith("attack on main: ")}
    assert {
        "delete the locked version",
        "delete it in a batch",
        "shorten its lock",
        "weaken its lock",
        "overwrite it",
        "hide it behind a delete marker",
        "delete it by bypassing governance",
        "take away what is to be kept",
    } <= tried
    assert checks["the last clean backup is found"]["actual"] == "the newest clean one"
    after = {info["Key"] for info in admin_client(rgw).list_objects_v2(Bucket=bucket)["Contents"]}
    assert {key.rpartition("/")[0] for key in after - before} == {"backupctl/drill"}

    for name in ("stock-restic", "loss-of-orchestrator"):
        scenario(site, rgw, bucket, name)
        done = site.run("drill", "run", "--json").line("finished")
        assert (done["verdict"], done["failed_checks"]) == ("pass", 0), name


def test_stolen_credentials_open_nothing_once_they_are_rotated(
    tmp_path: Path, rgw: Rgw, new_bucket: Callable[..., str]
) -> None:
    site, bucket = Site.create(tmp_path), new_bucket(lock=True)
    login(site.root / "s3.json", *rgw.admin)
    login(site.root / "stolen.json", *rgw.admin)  # not rotated at all
    scenario(site, rgw, bucket, "credential-rotated")
    site.prepare()
    site.run("run")
    said = site.run("drill", "run", expect=4).text
    assert "main, stolen credentials: read the repository's configuration: expected refused, got accepted" in said
    login(site.root / "stolen.json", "WASOURS", "0" * 40)
    done = site.run("drill", "run", "--json").line("finished")
    assert (done["verdict"], done["failed_checks"]) == ("pass", 0)
    admin_client(rgw).put_object(Bucket=bucket, Key="data/readme.txt", Body=b"pay")
    assert "main: objects that are not of a repository: expected none" in site.run("drill", "run", expect=4).text
