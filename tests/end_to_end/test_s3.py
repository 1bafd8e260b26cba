"""The main job with its repository on a real S3 server (Ceph RGW) over TLS, and what its failures end in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.site import Said, Site
from tests.servers.databases import free_port
from tests.servers.plugin_rgw import admin_client
from tests.servers.rgw import Rgw
from tests.soak import rounds

pytestmark = pytest.mark.servers


@pytest.fixture
def bucket(new_bucket: Callable[..., str]) -> str:
    return new_bucket()


@pytest.fixture
def s3_site(tmp_path: Path, rgw: Rgw, bucket: str) -> Site:
    site = Site.create(tmp_path)
    login(site, *rgw.admin)
    return at(site, rgw.https, bucket, rgw.ca)


def login(site: Site, access: str, secret: str) -> None:
    path = site.root / "s3.json"
    path.write_text(json.dumps({"access_key_id": access, "secret_access_key": secret}))
    path.chmod(0o600)


def at(site: Site, endpoint: str, bucket: str, ca: Path) -> Site:
    site.configure(
        storage=f"{{s3: {{bucket: {bucket}, endpoint: '{endpoint}', ca_bundle: {ca}, credentials: {{file: s3.json}}}}}}"
    )
    return site


def one_clear_line(said: Said) -> str:
    """The only error, which is one line and the next step."""
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said.text
    assert "next: " in said.err
    return lines[0]


def keys(rgw: Rgw, bucket: str, prefix: str) -> list[str]:
    """Largest first."""
    found = admin_client(rgw).list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [one["Key"] for one in sorted(found, key=lambda one: -one["Size"])]


def test_the_whole_way_on_s3_and_stock_restic_agrees(s3_site: Site, rgw: Rgw, bucket: str) -> None:
    site = s3_site
    site.prepare()
    site.run("run")
    (site.root / "input" / "www" / "new.txt").write_text("the day after\n")
    site.run("run")
    check = site.run("check", "--read-data", "--json").line("finished")
    assert (check["verdict"], check["snapshots"]) == ("pass", 2)
    drill = site.run("drill", "run", "--json").line("finished")
    assert (drill["verdict"], drill["level"], drill["cleaned_up"]) == ("pass", 4, True)
    site.run("restore", "--into", "back")
    www = site.root / "back" / "www" / str((site.root / "input" / "www").relative_to("/"))
    assert (www / "deep" / "picture.bin").read_bytes() == (site.root / "input/www/deep/picture.bin").read_bytes()
    assert (www / "new.txt").read_text() == "the day after\n"
    job = site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace("keep_daily: 7", "keep_last: 1"))
    site.run("prune", "--apply")
    assert len(keys(rgw, bucket, "snapshots/")) == 1
    (site.root / "catalog.db").unlink()
    rebuilt = site.run("catalog", "rebuild", "--json").line("rebuilt")
    assert (rebuilt["snapshots"], rebuilt["drills"], rebuilt["checks"], rebuilt["problems"]) == (1, 1, 1, [])
    assert keys(rgw, bucket, "locks/") == []
    restic(site, rgw, bucket, "check", "--read-data")
    restic(site, rgw, bucket, "restore", "latest", "--target", str(site.root / "by-restic"))
    theirs = site.root / "by-restic" / "www" / str((site.root / "input" / "www").relative_to("/"))
    assert (theirs / "deep" / "picture.bin").read_bytes() == (www / "deep" / "picture.bin").read_bytes()


def restic(site: Site, rgw: Rgw, bucket: str, *arguments: str) -> None:
    program = shutil.which("restic")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("restic is not installed: `apt-get install restic`")
        pytest.skip("NOT TESTED with stock restic: `apt-get install restic`")
    access, secret = rgw.admin
    environment = os.environ | {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
    argv = [program, "--no-cache", "--cacert", str(rgw.ca), "-r", f"s3:{rgw.https}/{bucket}"]
    argv += ["--password-file", str(site.root / "repository.key"), *arguments]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_login_that_is_refused_is_exit_12(s3_site: Site, rgw: Rgw, bucket: str) -> None:
    access, secret = rgw.admin
    login(s3_site, access, "0" * 40)
    assert "secret key does not belong" in one_clear_line(s3_site.run("init", expect=12))
    login(s3_site, access, secret)
    s3_site.prepare()
    s3_site.run("run")
    login(s3_site, "NOBODY", secret)
    for command in (["run"], ["check"], ["snapshots"], ["restore", "--into", "never"]):
        assert "does not know this access key" in one_clear_line(s3_site.run(*command, expect=12)), command
    assert s3_site.run("drill", "run", expect=(5, 12)).err
    login(s3_site, access, "0" * 40)
    said = s3_site.run("run", "-v", expect=12)
    assert "secret key does not belong" in said.err
    assert secret not in said.text
    login(s3_site, access, secret)
    s3_site.run("run")


def test_an_account_that_was_suspended(s3_site: Site, rgw: Rgw, bucket: str) -> None:
    access, secret = rgw.add_user(f"u{os.urandom(4).hex()}")
    uid = rgw_user(rgw, access)
    login(s3_site, access, secret)
    own = f"test-{os.urandom(8).hex()}"
    client_of(rgw, access, secret).create_bucket(Bucket=own)
    at(s3_site, rgw.https, own, rgw.ca)
    s3_site.prepare()
    s3_site.run("run")
    rgw.suspend_user(uid)
    assert "suspended" in one_clear_line(s3_site.run("run", expect=12))
    rgw.run("radosgw-admin", "user", "enable", f"--uid={uid}")
    s3_site.run("run")
    s3_site.run("check")


def rgw_user(rgw: Rgw, access: str) -> str:
    user = json.loads(rgw.run("radosgw-admin", "user", "info", f"--access-key={access}"))
    uid = user["user_id"]
    assert isinstance(uid, str)
    return uid


def client_of(rgw: Rgw, access: str, secret: str):
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=rgw.http,
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )


def test_bits_that_rot_in_the_bucket_are_found_by_check_and_drill(s3_site: Site, rgw: Rgw, bucket: str) -> None:
    s3_site.prepare()
    s3_site.run("run")
    pack = keys(rgw, bucket, "data/")[0]
    rgw.flip_byte(bucket, pack, 1000)
    said = s3_site.run("check", "--read-data", "--json", expect=4)
    assert said.line("finished")["verdict"] == "fail"
    assert pack in said.out
    said = s3_site.run("drill", "run", "--json", expect=4)
    assert said.line("finished")["verdict"] == "fail"
    repaired = s3_site.run("run", "--json")
    assert repaired.line("finished")["state"] == "complete"
    s3_site.run("drill", "run")


def test_a_pack_that_is_lost_behind_the_listing(s3_site: Site, rgw: Rgw, bucket: str) -> None:
    s3_site.prepare()
    s3_site.run("run")
    pack = keys(rgw, bucket, "data/")[0]
    rgw.lose(bucket, pack)
    assert pack in s3_site.run("check", "--read-data", expect=4).text
    s3_site.run("drill", "run", expect=4)


def test_a_server_that_is_away_or_not_itself_is_exit_14(s3_site: Site, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    s3_site.prepare()
    s3_site.run("run")
    at(s3_site, f"https://localhost:{free_port()}", bucket, rgw.ca)
    assert "cannot" in one_clear_line(s3_site.run("run", expect=14))
    if rounds(0, 1):  # as patient as the run, half a minute
        assert "cannot" in s3_site.run("status", expect=14).err
    at(s3_site, rgw.https, f"{bucket}-other", rgw.ca)
    assert "does not exist" in one_clear_line(s3_site.run("run", expect=14))
    wrong = tmp_path / "other.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-keyout", str(tmp_path / "other.key"), "-out", str(wrong), "-subj", "/CN=other"]
    subprocess.run(argv, check=True, capture_output=True)
    at(s3_site, rgw.https, bucket, wrong)
    assert "certificate cannot be verified" in one_clear_line(s3_site.run("run", expect=14))
    at(s3_site, rgw.https, bucket, rgw.ca)
    s3_site.run("run")
