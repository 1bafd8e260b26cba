"""Fixtures: one Ceph RGW per test session, a fresh bucket per test."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backupctl.hosts.secret import SecretRef
from backupctl.storage.credentials import Credentials
from backupctl.storage.options import S3Options
from tests.servers.rgw import Rgw, missing_programs, new_directory, stop_leftovers

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from backupctl.storage.s3 import S3Store


@pytest.fixture(scope="session")
def rgw() -> Iterator[Rgw]:
    missing = missing_programs()
    if missing:
        packages = "radosgw ceph-mon ceph-osd ceph-common openssl"
        message = f"NOT TESTED against a real S3 server: no {', '.join(missing)}; `apt-get install {packages}`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    stop_leftovers()
    directory = new_directory()
    server = Rgw(directory)
    try:
        yield server.start()
    finally:
        server.stop()
        (directory.parent / "owner.json").unlink()
        directory.parent.rmdir()


def admin_client(server: Rgw) -> S3Client:
    """A plain boto3 client with the administrator's keys, for what tests do behind the store's back."""
    import boto3  # not paid for by test runs that need no S3
    from botocore.config import Config

    access, secret = server.admin
    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    return boto3.client(
        "s3",
        endpoint_url=server.http,
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=config,
    )


@pytest.fixture
def new_bucket(rgw: Rgw) -> Callable[..., str]:
    """Make a bucket; `lock=True` enables object lock."""

    def make(*, lock: bool = False) -> str:
        bucket = f"test-{secrets.token_hex(8)}"
        admin_client(rgw).create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)
        return bucket

    return make


@pytest.fixture
def s3_store(rgw: Rgw, new_bucket: Callable[..., str]) -> Iterator[S3Store]:
    """A store in a fresh bucket, over TLS, below a prefix."""
    from backupctl.storage.s3 import S3Store

    options = S3Options(bucket=new_bucket(), prefix="here/deep", endpoint=rgw.https, ca_bundle=rgw.ca)
    store = S3Store(options, Credentials(*rgw.admin))
    yield store
    store.close()


@pytest.fixture
def s3_throttled_store(rgw: Rgw, new_bucket: Callable[..., str]) -> Iterator[S3Store]:
    """A store that paces its bytes, over TLS; its clock only looks as if it waited."""
    from datetime import UTC, datetime

    from backupctl.clock import FakeClock
    from backupctl.storage.limits import LimitOptions
    from backupctl.storage.s3 import S3Store
    from backupctl.storage.throttle import Throttle

    limits = LimitOptions(upload="1MiB/s", download="2MiB/s")  # type: ignore[arg-type]  # as written
    clock = FakeClock(datetime.now(UTC))
    options = S3Options(bucket=new_bucket(), prefix="slow", endpoint=rgw.https, ca_bundle=rgw.ca)
    store = S3Store(options, Credentials(*rgw.admin), clock=clock, throttle=Throttle(limits, clock, timezone="UTC"))
    yield store
    store.close()


@pytest.fixture
def s3_versions_store(rgw: Rgw, new_bucket: Callable[..., str]) -> Iterator[S3Store]:
    """A store in a fresh bucket that keeps versions."""
    from backupctl.storage.s3 import S3Store

    store = S3Store(S3Options(bucket=new_bucket(lock=True), endpoint=rgw.http), Credentials(*rgw.admin))
    yield store
    store.close()


@pytest.fixture
def s3_secret(rgw: Rgw, tmp_path: Path) -> SecretRef:
    """The administrator's keys as configuration refers to them: a file."""
    access, secret = rgw.admin
    path = tmp_path / "s3.json"
    path.write_text(json.dumps({"access_key_id": access, "secret_access_key": secret}))
    path.chmod(0o600)
    return SecretRef(file=str(path))
