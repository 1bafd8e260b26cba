"""What only a real S3 server and the road to it can get wrong."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.clock import FakeClock, SystemClock
from backupctl.errors import Denied, Exists, Full, NotFound, Transient, UnreachableError, UserError
from backupctl.hosts.secret import SecretRef
from backupctl.storage.credentials import Credentials
from backupctl.storage.options import LockOptions, S3Options, StorageOptions
from backupctl.storage.registry import open_store
from backupctl.storage.retry import RetryingStore
from backupctl.storage.s3 import S3Store
from tests.servers.plugin_rgw import admin_client
from tests.servers.rgw import Rgw

pytestmark = pytest.mark.servers


@pytest.fixture
def opened(rgw: Rgw) -> Iterator[Callable[..., S3Store]]:
    """Open a store with the administrator's keys over HTTP, any option or key changed."""
    with contextlib.ExitStack() as stack:

        def make(bucket: str, *, login: tuple[str, str] | None = None, read_timeout: float = 60, **options) -> S3Store:
            values = S3Options(**{"bucket": bucket, "endpoint": rgw.http, **options})
            store = S3Store(values, Credentials(*(login or rgw.admin)), read_timeout_seconds=read_timeout)
            stack.callback(store.close)
            return store

        yield make


def test_bit_rot_passes_s3_unnoticed_so_our_hash_must_find_it(rgw: Rgw, s3_store: S3Store) -> None:
    s3_store.put("data/ab/cd", b"content")
    rgw.flip_byte(s3_store._bucket, "here/deep/data/ab/cd", 3)
    assert s3_store.get("data/ab/cd") == b"conuent"
    assert s3_store.stat("data/ab/cd").size == 7


def test_a_lost_object_is_missing_although_listed(rgw: Rgw, s3_store: S3Store) -> None:
    s3_store.put("data/ab/cd", b"content")
    rgw.lose(s3_store._bucket, "here/deep/data/ab/cd")
    assert [info.name for info in s3_store.list()] == ["data/ab/cd"]
    with pytest.raises(NotFound, match="data/ab/cd"):
        s3_store.get("data/ab/cd")


def test_the_prefix_keeps_neighbours_apart(opened, new_bucket: Callable[..., str]) -> None:
    bucket = new_bucket()
    one, two, all_of_it = opened(bucket, prefix="one"), opened(bucket, prefix="one-more/"), opened(bucket)
    one.put("config", b"1")
    two.put("config", b"2")
    assert (one.get("config"), two.get("config")) == (b"1", b"2")
    assert [info.name for info in one.list()] == ["config"]
    assert [info.name for info in all_of_it.list()] == ["one-more/config", "one/config"]


def test_wrong_keys_are_told_apart_and_never_shown(rgw: Rgw, opened, new_bucket: Callable[..., str]) -> None:
    bucket, (access, secret) = new_bucket(), rgw.admin
    for login, words in (
        (("UNKNOWN", secret), "does not know this access key"),
        ((access, "wrong" + secret), "secret key does not belong to this access key"),
    ):
        store = opened(bucket, login=login)
        for call, *given in ((store.get, "config"), (store.put, "config", b"x"), (next, store.list())):
            with pytest.raises(Denied, match=words) as caught:
                call(*given)
            assert caught.value.exit_code == 12
            assert "credentials" in caught.value.next_step
            assert secret not in str(caught.value)
        with pytest.raises(Denied):  # HEAD has no body to say why
            store.stat("config")


def test_another_account_and_a_suspended_one_are_denied(rgw: Rgw, opened, new_bucket: Callable[..., str]) -> None:
    login, bucket = rgw.add_user("stranger"), new_bucket()
    with pytest.raises(Denied, match="cannot write config: HTTP 403 AccessDenied"):
        opened(bucket, login=login).put("config", b"x")
    rgw.suspend_user("stranger")
    with pytest.raises(Denied, match="the account is suspended"):
        opened(bucket, login=login).get("config")


def test_a_missing_bucket_is_named(opened) -> None:
    for call in (
        lambda store: store.get("config"),
        lambda store: store.put("config", b""),
        lambda store: list(store.list()),
    ):
        with pytest.raises(UnreachableError, match="bucket 'never-made' does not exist") as caught:
            call(opened("never-made"))
        assert "create the bucket" in caught.value.next_step


def test_a_used_up_quota_is_full(rgw: Rgw, opened, new_bucket: Callable[..., str]) -> None:
    bucket = new_bucket()
    rgw.limit_bucket(bucket, 2)
    store = opened(bucket)
    with pytest.raises(Full, match="QuotaExceeded") as caught:
        for number in range(50):
            store.put(f"data/{number}", b"x")
    assert caught.value.exit_code == 14
    assert "quota" in caught.value.next_step


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_dead_endpoint_is_unreachable_after_retries(opened) -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    clock = FakeClock(datetime(2026, 11, 22, tzinfo=UTC))
    store = RetryingStore(opened("bucket", endpoint=endpoint), clock)
    with pytest.raises(UnreachableError, match=f"s3://bucket/ at {endpoint}: gave up after 6 attempts") as caught:
        store.get("config")
    assert caught.value.next_step
    assert 0 < clock.monotonic() < 180


def test_a_hung_server_times_out_and_recovers(rgw: Rgw, opened, new_bucket: Callable[..., str]) -> None:
    store = opened(new_bucket(), read_timeout=0.5)
    store.put("config", b"c")
    with rgw.hung(), pytest.raises(Transient, match="timeout"):
        store.get("config")
    assert store.get("config") == b"c"


def test_tls_is_verified(rgw: Rgw, opened, new_bucket: Callable[..., str], tmp_path: Path) -> None:
    bucket = new_bucket()
    opened(bucket, endpoint=rgw.https, ca_bundle=rgw.ca).put("config", b"c")
    with pytest.raises(UnreachableError, match="certificate cannot be verified") as caught:
        opened(bucket, endpoint=rgw.https).get("config")
    assert "ca_bundle" in caught.value.next_step
    with pytest.raises(UserError):
        opened(bucket, endpoint=rgw.https, ca_bundle=tmp_path / "missing.pem").get("config")
    with pytest.raises(UnreachableError, match="certificate cannot be verified"):  # right authority, wrong name
        opened(bucket, endpoint=rgw.https.replace("localhost", "127.0.0.1"), ca_bundle=rgw.ca).get("config")


@pytest.mark.parametrize("endpoint", ["http://s3.example.gov", "http://10.0.0.1:9000", "http://localhost.example.gov"])
def test_plain_http_to_elsewhere_is_refused(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="must be https"):
        S3Options(bucket="bucket", endpoint=endpoint)


def test_the_environment_cannot_redirect_a_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    store = S3Store(S3Options(bucket="bucket", region="eu-west-1"), Credentials("a", "b"))
    assert store._client.meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"


def test_our_own_repeated_put_is_no_conflict(opened, new_bucket: Callable[..., str]) -> None:
    """The answer to the first try is lost, boto tries again, and the object is there already: by us, or by others."""
    bucket = new_bucket()
    store = opened(bucket)
    tries = []

    def ask_for_a_second_try(attempts: int, **_: object) -> int | None:
        tries.append(attempts)
        return 0 if attempts == 1 else None  # the delay before trying again, or none

    store._client.meta.events.register_first("needs-retry.s3.PutObject", ask_for_a_second_try)
    store.put("config", b"mine", if_absent=True)
    assert tries == [1, 2]
    assert store.get("config") == b"mine"
    with pytest.raises(Exists):
        store.put("config", b"mine", if_absent=True)


def test_a_body_damaged_on_the_way_is_refused_and_transient(opened, new_bucket: Callable[..., str]) -> None:
    store = opened(new_bucket())

    def damage(request, **_: object) -> None:
        request.body = b"damaged"

    store._client.meta.events.register("before-send.s3.PutObject", damage)
    with pytest.raises(Transient, match=r"BadDigest|XAmzContentSHA256Mismatch"):
        store.put("data/ab/cd", b"content")
    with pytest.raises(NotFound):
        store.get("data/ab/cd")


@pytest.mark.parametrize("mode", ["governance", "compliance"])
def test_object_lock_holds_everything_but_the_repository_locks(
    rgw: Rgw, opened, new_bucket: Callable[..., str], mode: str
) -> None:
    bucket, client = new_bucket(lock=True), admin_client(rgw)
    store = opened(bucket, lock=LockOptions(mode=mode, days=3))
    for name in ("config", "data/ab/cd", "locks/one"):
        store.put(name, b"x")
    versions = {found["Key"]: found["VersionId"] for found in client.list_object_versions(Bucket=bucket)["Versions"]}
    for name in ("config", "data/ab/cd"):
        held = client.get_object_retention(Bucket=bucket, Key=name)["Retention"]
        assert held["Mode"] == mode.upper()
        assert abs(held["RetainUntilDate"] - datetime.now(UTC) - timedelta(days=3)) < timedelta(minutes=1)
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(Bucket=bucket, Key=name, VersionId=versions[name])
    client.delete_object(Bucket=bucket, Key="locks/one", VersionId=versions["locks/one"])
    assert [info.name for info in store.list()] == ["config", "data/ab/cd"]
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    store.retain("config", until)
    assert client.get_object_retention(Bucket=bucket, Key="config")["Retention"]["RetainUntilDate"] == until


def test_probing_without_the_right_to_delete_says_so(rgw: Rgw, opened, new_bucket: Callable[..., str]) -> None:
    bucket, login = new_bucket(), rgw.add_user("append-only")
    resources, principal = (
        [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        {"AWS": ["arn:aws:iam:::user/append-only"]},
    )
    statements = [
        {
            "Effect": "Allow",
            "Principal": principal,
            "Resource": resources,
            "Action": ["s3:PutObject", "s3:GetObject", "s3:ListBucket"],
        },
        {"Effect": "Deny", "Principal": principal, "Resource": resources, "Action": ["s3:DeleteObject"]},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    admin_client(rgw).put_bucket_policy(Bucket=bucket, Policy=policy)
    facts = {what: good for what, _, good in opened(bucket, login=login).probe().facts}
    assert facts["write an object"]
    assert facts["overwrite it when only creation is allowed"]
    assert facts["send a body with a wrong checksum"]
    assert not facts["delete it"]
    assert not facts["leave nothing behind"]


def test_retaining_needs_a_bucket_with_lock(opened, new_bucket: Callable[..., str]) -> None:
    store = opened(new_bucket())
    store.put("config", b"x")
    with pytest.raises(UserError, match="no object lock"):
        store.retain("config", datetime.now(UTC) + timedelta(days=1))


def test_opening_from_options(rgw: Rgw, new_bucket: Callable[..., str], s3_secret: SecretRef, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(rgw.ca.read_bytes())
    given = {
        "bucket": new_bucket(),
        "endpoint": rgw.https,
        "ca_bundle": "ca.pem",
        "credentials": s3_secret.model_dump(),
    }
    asked: list[SecretRef] = []

    def secrets(reference: SecretRef) -> bytes:
        asked.append(reference)
        return Path(reference.file or "").read_bytes()

    options = StorageOptions.model_validate({"s3": given})
    store = open_store(options, secrets=secrets, base=tmp_path, clock=SystemClock())
    store.put("config", b"c", if_absent=True)
    assert store.get("config") == b"c"
    assert asked == [s3_secret]
    store.close()
