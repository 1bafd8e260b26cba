"""What a real S3 server says of a bucket, and what is made of it; until when objects are locked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from backupctl.errors import Denied, NotFound
from backupctl.storage.credentials import Credentials
from backupctl.storage.options import LockOptions, S3Options
from backupctl.storage.s3 import S3Store
from tests.servers.plugin_rgw import admin_client
from tests.servers.rgw import Rgw

pytestmark = pytest.mark.servers

Opened = Callable[..., S3Store]


@pytest.fixture
def opened(rgw: Rgw) -> Iterator[Opened]:
    with contextlib.ExitStack() as stack:

        def make(bucket: str, *, lock: bool = True, login: tuple[str, str] = rgw.admin) -> S3Store:
            options = LockOptions(mode="compliance", days=2) if lock else None
            store = S3Store(S3Options(bucket=bucket, endpoint=rgw.http, lock=options), Credentials(*login))
            stack.callback(store.close)
            return store

        yield make


def said(store: S3Store) -> dict[str, tuple[str, str]]:
    return {one.what: (one.severity, one.outcome) for one in store.inspect().postures}


def test_a_bucket_as_it_should_be(opened: Opened, new_bucket: Callable[..., str]) -> None:
    store = opened(new_bucket(lock=True))
    found = store.inspect()
    assert [one for one in found.postures if one.severity != "ok"] == []
    assert found.server_time is not None
    assert abs(found.server_time - datetime.now(UTC)) < timedelta(seconds=30)


def test_what_is_wrong_with_a_bucket_is_told(rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]) -> None:
    bucket, client = new_bucket(), admin_client(rgw)
    assert said(opened(bucket))["versions"][0] == "error"
    assert said(opened(bucket))["object lock"] == ("error", "not enabled, and the configuration claims a lock")
    assert said(opened(bucket, lock=False))["object lock"][0] == "warning"
    rule = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    client.put_bucket_acl(Bucket=bucket, ACL="public-read")
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    client.put_bucket_policy(Bucket=bucket, Policy=policy)
    found = said(opened(bucket))
    assert found["rules that delete"] == ("error", "rule tidy deletes objects after 30 days")
    assert found["grants"] == ("error", "open to everybody: READ to AllUsers")
    assert found["policy"] == ("error", "lets everybody do s3:GetObject")
    rule |= {"Filter": {"Prefix": "elsewhere/"}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    store = S3Store(S3Options(bucket=bucket, endpoint=rgw.http, prefix="here"), Credentials(*rgw.admin))
    assert said(store)["rules that delete"][0] == "ok"
    store.close()


def test_until_when_an_object_is_locked(rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]) -> None:
    bucket = new_bucket(lock=True)
    store = opened(bucket)
    store.put("config", b"x")
    store.put("locks/one", b"x")
    until = store.locked_until("config")
    assert until is not None
    assert abs(until - datetime.now(UTC) - timedelta(days=2)) < timedelta(minutes=1)
    assert store.locked_until("locks/one") is None
    admin_client(rgw).put_object(Bucket=bucket, Key="config", Body=b"over it")
    assert store.locked_until("config") is None  # what is read now is the newer, unlocked version
    with pytest.raises(NotFound):
        store.locked_until("nothing")


def test_a_bucket_without_lock_locks_nothing(opened: Opened, new_bucket: Callable[..., str]) -> None:
    store = opened(new_bucket(), lock=False)
    store.put("config", b"x")
    assert store.locked_until("config") is None


def test_a_key_that_may_not_ask_is_told_so_and_never_taken_for_good(
    rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]
) -> None:
    bucket = new_bucket(lock=True)
    opened(bucket).put("config", b"x")
    login = rgw.add_user("only-reads")
    allow(rgw, bucket, "only-reads", "s3:GetObject", "s3:ListBucket")
    store = opened(bucket, login=login)
    found = said(store)
    assert found["versions"] == ("info", "these credentials may not ask")
    assert "ok" not in {severity for severity, _ in found.values()}
    with pytest.raises(Denied):
        store.locked_until("config")


def allow(rgw: Rgw, bucket: str, user: str, *actions: str) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        "Action": list(actions),
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    admin_client(rgw).put_bucket_policy(Bucket=bucket, Policy=policy)
