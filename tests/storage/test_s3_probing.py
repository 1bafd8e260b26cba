"""`storage check` against a real S3 server, and against one that lies: only a bucket that keeps what is locked is said to
refuse deletion."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal

import pytest
from botocore.exceptions import ClientError

from backupctl.storage import s3_probing
from backupctl.storage.credentials import Credentials
from backupctl.storage.options import LockOptions, S3Options
from backupctl.storage.protocol import ProbeResult
from backupctl.storage.s3 import S3Store
from tests.servers.plugin_rgw import admin_client
from tests.servers.rgw import Rgw

pytestmark = pytest.mark.servers

Opened = Callable[..., S3Store]
WAYS = ("delete the locked version", "delete it in a batch", "shorten its lock", "delete it by bypassing governance")


@pytest.fixture
def opened(rgw: Rgw) -> Iterator[Opened]:
    with contextlib.ExitStack() as stack:

        def make(bucket: str, mode: Literal["compliance", "governance"] | None, prefix: str = "") -> S3Store:
            lock = LockOptions(mode=mode, days=1) if mode else None
            options = S3Options(bucket=bucket, endpoint=rgw.http, prefix=prefix, lock=lock)
            store = S3Store(options, Credentials(*rgw.admin), probe_lock_seconds=1.5)
            stack.callback(store.close)
            return store

        yield make


def outcomes(found: ProbeResult) -> dict[str, tuple[str, bool]]:
    return {what: (outcome, good) for what, outcome, good in found.facts}


def assert_empty(rgw: Rgw, bucket: str) -> None:
    left = admin_client(rgw).list_object_versions(Bucket=bucket)
    assert "Versions" not in left
    assert "DeleteMarkers" not in left


def test_a_compliance_lock_is_kept_whatever_is_tried(rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]) -> None:
    bucket = new_bucket(lock=True)
    found = opened(bucket, "compliance", prefix="a/b").probe()
    assert [fact for fact in found.facts if not fact[2]] == []
    for what in (*WAYS, "weaken its lock"):
        assert outcomes(found)[what] == ("refused (COMPLIANCE)", True)
    assert outcomes(found)["send a body with a wrong checksum"] == ("refused (BadDigest)", True)
    assert outcomes(found)["write and read one with odd characters in its name"][1]
    verdict = found.immutability
    assert verdict is not None and verdict.refuses_deletion and verdict.claimed
    assert any("delete markers" in what for what in verdict.possible)
    assert any("recovered" in what for what in verdict.possible)
    assert_empty(rgw, bucket)


SETTINGS = [f"change the bucket's {what}" for what in ("versioning", "rules that delete", "policy", "default lock")]


def test_settings_that_our_own_credentials_may_change_are_told_and_stay_as_they_are(
    rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]
) -> None:
    bucket, admin = new_bucket(lock=True), admin_client(rgw)
    rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 900}}
    admin.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    found = opened(bucket, "compliance").probe()
    said = outcomes(found)
    assert all(said[what][0].startswith("accepted") for what in SETTINGS[:3])
    assert said[SETTINGS[3]][0].startswith(("accepted", "not tried"))
    verdict = found.immutability
    assert verdict is not None and verdict.refuses_deletion  # what a lock holds is safe from all of them
    assert sum(what.startswith("change the bucket's") for what in verdict.possible) >= 3
    assert admin.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    (kept,) = admin.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert (kept["ID"], kept["Expiration"]["Days"]) == ("old", 900)


def test_settings_that_a_policy_keeps_from_us_are_refused(rgw: Rgw, new_bucket: Callable[..., str]) -> None:
    bucket = new_bucket(lock=True)
    agent = rgw.add_user(f"agent{secrets.token_hex(4)}")
    objects = [
        "GetObject",
        "GetObjectVersion",
        "PutObject",
        "PutObjectRetention",
        "DeleteObject",
        "DeleteObjectVersion",
    ]
    asking = ["ListBucket", "ListBucketVersions", "GetBucketVersioning", "GetLifecycleConfiguration", "GetBucketPolicy"]
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": [f"s3:{name}" for name in (*objects, *asking, "GetBucketObjectLockConfiguration")],
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    admin_client(rgw).put_bucket_policy(Bucket=bucket, Policy=policy)
    options = S3Options(bucket=bucket, endpoint=rgw.http, lock=LockOptions(mode="compliance", days=1))
    with contextlib.closing(S3Store(options, Credentials(*agent), probe_lock_seconds=1.5)) as store:
        found = store.probe()
    assert [outcomes(found)[what] for what in SETTINGS[:3]] == [("refused", True)] * 3
    assert found.immutability is not None
    assert not [what for what in found.immutability.possible if what.startswith("change the bucket's")]


def test_a_governance_lock_that_our_own_credentials_may_bypass_is_none(
    rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]
) -> None:
    bucket = new_bucket(lock=True)
    found = opened(bucket, "governance").probe()
    assert outcomes(found)["delete the locked version"] == ("refused (GOVERNANCE)", True)
    outcome, good = outcomes(found)["delete it by bypassing governance"]
    assert not good and outcome.startswith("accepted")
    assert not outcomes(found)["see the locked version unharmed after all that"][1]
    verdict = found.immutability
    assert verdict is not None and not verdict.refuses_deletion and verdict.claimed
    assert "bypassing governance: accepted" in verdict.reason
    assert_empty(rgw, bucket)


def test_no_lock_is_no_promise(rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]) -> None:
    for bucket in (new_bucket(), new_bucket(lock=True)):  # without versions, and with
        found = opened(bucket, None).probe()
        assert [fact for fact in found.facts if not fact[2]] == []
        verdict = found.immutability
        assert verdict is not None and not verdict.refuses_deletion and not verdict.claimed
        assert "was deleted" in verdict.reason
        assert_empty(rgw, bucket)


def test_a_lock_in_a_bucket_without_versions_is_none(rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]) -> None:
    bucket = new_bucket()
    found = opened(bucket, "compliance").probe()
    assert not outcomes(found)["write a locked version"][1]
    verdict = found.immutability
    assert verdict is not None and not verdict.refuses_deletion and verdict.claimed
    assert_empty(rgw, bucket)


def strip_lock(params: dict[str, Any], **event: object) -> None:
    """The answer is 200 with a version, as it would be with a lock; nothing is locked."""
    for header in [name for name in params["headers"] if name.lower().startswith("x-amz-object-lock")]:
        del params["headers"][header]


def test_a_store_that_accepts_deletes_although_it_took_the_lock(
    rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]
) -> None:
    bucket = new_bucket(lock=True)
    store = opened(bucket, "compliance")
    store._client.meta.events.register("before-call.s3.PutObject", strip_lock)
    found = store.probe()
    assert outcomes(found)["write a locked version"][1], "it looks as if it were locked"
    outcome, good = outcomes(found)["delete the locked version"]
    assert not good and outcome.startswith("accepted")
    verdict = found.immutability
    assert verdict is not None and not verdict.refuses_deletion and verdict.claimed
    assert_empty(rgw, bucket)


def test_a_store_that_says_no_and_deletes_all_the_same(
    rgw: Rgw, opened: Opened, new_bucket: Callable[..., str]
) -> None:
    """What is refused in words only is found out by looking for the bytes."""
    bucket = new_bucket(lock=True)
    store = opened(bucket, "compliance")
    events = store._client.meta.events
    events.register("before-call.s3.PutObject", strip_lock)
    said: list[object] = []

    def refuse(parsed: dict[str, Any], **event: object) -> None:
        if len(said) < 20 and "Error" not in parsed:
            said.append(parsed)
            denied: Any = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise ClientError(denied, "Delete")

    for operation in ("DeleteObject", "DeleteObjects", "PutObjectRetention"):
        events.register(f"after-call.s3.{operation}", refuse)
    found = store.probe()
    assert said
    assert outcomes(found)["delete the locked version"] == ("refused (COMPLIANCE)", True)
    assert not outcomes(found)["see the locked version unharmed after all that"][1]
    assert found.immutability is not None and not found.immutability.refuses_deletion


def test_a_server_too_slow_for_the_lock_proves_nothing(
    rgw: Rgw, opened: Opened, new_bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused is only worth something while the lock is in force."""
    bucket = new_bucket(lock=True)
    store = opened(bucket, "compliance")
    real, asked = s3_probing.S3Probe.server_time, []

    def slow(probe: s3_probing.S3Probe) -> Any:
        asked.append(1)
        return real(probe) + (timedelta(seconds=30) if len(asked) > 1 else timedelta(0))

    monkeypatch.setattr(s3_probing.S3Probe, "server_time", slow)
    found = store.probe()
    assert found.immutability is not None and not found.immutability.refuses_deletion
    assert "nothing is proven" in found.immutability.reason
