"""Objects in an S3 bucket, by boto3's plain calls.

Bytes are guarded on the way in by Content-MD5 and the signed SHA-256 of the body; on the way out the repository's own
hashes decide. `when_required` because many servers refuse the trailing checksums that boto3 sends by default over TLS.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from backupctl.clock import Clock, SystemClock
from backupctl.errors import Corrupt, Exists, NotFound, Transient, UserError
from backupctl.storage.credentials import Credentials
from backupctl.storage.names import check_name, check_range, too_short
from backupctl.storage.options import S3Options
from backupctl.storage.probing import SCRATCH
from backupctl.storage.protocol import Inspection, ObjectInfo, ProbeResult
from backupctl.storage.s3_errors import ERRORS, classify, error_code, http_status
from backupctl.storage.s3_posture import inspect_bucket
from backupctl.storage.s3_probing import LOCK_SECONDS, S3Probe
from backupctl.storage.throttle import PIECE_BYTES, SMALL_BYTES, PacedBody, Throttle

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

NONCE = "backupctl-nonce"
_UNTYPED: dict[str, Any] = {"ignore_configured_endpoint_urls": True}  # AWS_ENDPOINT_URL must not redirect a backup
# what servers answer for an object, or a bucket, without a lock
NOT_LOCKED = {
    "NoSuchObjectLockConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "InvalidRequest",
    "NotImplemented",
}
NEVER_LOCKED = ("locks/", SCRATCH)  # they must go when they are done with


class S3Store:
    """Thread-safe; not to be used across a fork. Transient failures surface as Transient: wrap it in RetryingStore.
    With `options.lock`, every object but the repository's locks is written with object lock."""

    def __init__(
        self,
        options: S3Options,
        credentials: Credentials | None,
        *,
        clock: Clock | None = None,
        throttle: Throttle | None = None,
        connect_timeout_seconds: float = 10,
        read_timeout_seconds: float = 60,
        connections: int = 16,
        probe_lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._throttle = throttle
        self._probe_lock_seconds = probe_lock_seconds
        self._bucket = options.bucket
        self._prefix = f"{options.prefix}/" if options.prefix else ""
        self.location = f"s3://{options.bucket}/{options.prefix} at {options.endpoint or f'AWS {options.region}'}"
        addressing = options.addressing or ("path" if options.endpoint else "virtual")
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": addressing, "payload_signing_enabled": True},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # one more try at once, for a pooled connection that the server has closed; patience is RetryingStore's
            retries={"mode": "standard", "total_max_attempts": 2},
            connect_timeout=connect_timeout_seconds,
            read_timeout=read_timeout_seconds,
            max_pool_connections=connections,
            tcp_keepalive=True,
            **_UNTYPED,
        )
        with self._errors("open the store"):
            self._client: S3Client = boto3.session.Session().client(
                "s3",
                region_name=options.region,
                endpoint_url=options.endpoint,
                verify=str(options.ca_bundle) if options.ca_bundle else None,  # None: the usual authorities, never off
                config=config,
                aws_access_key_id=credentials.access_key_id if credentials else None,
                aws_secret_access_key=credentials.secret_access_key if credentials else None,
                aws_session_token=(credentials.session_token or None) if credentials else None,
            )
        if throttle:
            self._client.meta.events.register("before-send.s3.PutObject", self._pace_upload)

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        request = self._put_request(name, data)
        with self._errors(f"write {name}", name):
            if if_absent:
                self._create(name, request)
            else:
                self._genuine("ETag" in self._client.put_object(**request), f"write {name}", name)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        key = self._key(name)
        if length == 0:
            return self._empty(name, offset, length)
        with self._errors(f"read {name}", name):
            if offset == 0 and length is None:
                return self._read(self._client.get_object(Bucket=self._bucket, Key=key))
            last = "" if length is None else offset + length - 1
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={offset}-{last}")
            except ClientError as error:
                if http_status(error) != 416:
                    raise
                return self._empty(name, offset, length)
            data = self._read(answer)
        if not answer.get("ContentRange", "").startswith(f"bytes {offset}-"):
            message = f"{self.location}: {name}: the server ignored the range that was asked for"
            raise Corrupt(message, name=name, location=self.location, next_step="use a server that supports ranges")
        if length is not None and len(data) != length:
            raise too_short(name, self.location, offset, length, len(data))
        return data

    def stat(self, name: str) -> ObjectInfo:
        with self._errors(f"look up {name}", name):
            head = self._client.head_object(Bucket=self._bucket, Key=self._key(name))
        self._genuine("LastModified" in head, f"look up {name}", name)
        return ObjectInfo(name, head["ContentLength"], head["LastModified"].astimezone(UTC))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with self._errors(f"list {prefix or 'everything'}", prefix):
            for page in pages:
                # a proxy's page parses as a listing of nothing, and boto3 ends without a word where a token is missing
                whole = "IsTruncated" in page and (not page["IsTruncated"] or "NextContinuationToken" in page)
                self._genuine(whole, f"list {prefix or 'everything'}", prefix)
                for found in page.get("Contents", []):
                    name = found["Key"].removeprefix(self._prefix)
                    if name and not name.endswith("/"):  # consoles leave empty "directories"
                        yield ObjectInfo(name, found["Size"], found["LastModified"].astimezone(UTC))

    def delete(self, name: str) -> None:
        """In a bucket with versions this hides the object; the version stays as long as lock and lifecycle say."""
        with self._errors(f"delete {name}", name), contextlib.suppress(NotFound):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def retain(self, name: str, until: datetime) -> None:
        mode = self._options.lock.mode if self._options.lock else "governance"
        with self._errors(f"retain {name}", name):
            try:
                self._client.put_object_retention(
                    Bucket=self._bucket,
                    Key=self._key(name),
                    Retention={
                        "Mode": "COMPLIANCE" if mode == "compliance" else "GOVERNANCE",
                        "RetainUntilDate": until,
                    },
                )
            except ClientError as error:
                if error_code(error) not in (
                    "InvalidRequest",
                    "NotImplemented",
                    "ObjectLockConfigurationNotFoundError",
                ):
                    raise
                raise UserError(
                    f"{self.location}: cannot retain {name}: the bucket has no object lock",
                    next_step="make the bucket with object lock enabled; most servers cannot add it later",
                ) from error

    def locked_until(self, name: str) -> datetime | None:
        with self._errors(f"ask how long {name} is locked", name):
            try:
                answer = self._client.get_object_retention(Bucket=self._bucket, Key=self._key(name))
            except ClientError as error:
                if error_code(error) not in NOT_LOCKED:
                    raise
                self.stat(name)  # a server may say so of what is not there, too
                return None
        until = answer.get("Retention", {}).get("RetainUntilDate")
        return until.astimezone(UTC) if until else None

    def inspect(self) -> Inspection:
        return inspect_bucket(self._client, self._bucket, self._prefix, self._options.lock, self._errors)

    def probe(self) -> ProbeResult:
        return S3Probe(
            self._client,
            self._bucket,
            key=self._key,
            put_request=self._put_request,
            errors=self._errors,
            lock=self._options.lock,
            clock=self._clock,
            lock_seconds=self._probe_lock_seconds,
        ).run(self)

    def close(self) -> None:
        self._client.close()

    def _pace_upload(self, request: Any, **event: object) -> None:
        """Called by boto3 before each attempt, when everything is signed: also what it sends again is paid for."""
        assert self._throttle and isinstance(request.body, io.BytesIO)  # boto3 has made it of our bytes
        request.body = PacedBody(request.body.getvalue(), self._throttle.upload)

    def _read(self, answer: Any) -> bytes:
        body = answer["Body"]
        if self._throttle is None:
            whole: bytes = body.read()
            return whole
        pieces = []
        while piece := body.read(PIECE_BYTES):
            pieces.append(piece)
            if answer["ContentLength"] > SMALL_BYTES:
                self._throttle.download.take(len(piece))
        return b"".join(pieces)

    def _put_request(self, name: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        content_md5 = base64.b64encode(digest).decode()
        request: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": self._key(name),
            "Body": data,
            "ContentMD5": content_md5,
        }
        lock = self._options.lock
        if lock and not name.startswith(NEVER_LOCKED):
            until = self._clock.now() + timedelta(days=lock.days)
            request |= {"ObjectLockMode": lock.mode.upper(), "ObjectLockRetainUntilDate": until}
        return request

    def _create(self, name: str, request: dict[str, Any]) -> None:
        """Put where nothing is. What is in the way may be our own: the try before, whose answer was lost."""
        exists = Exists(f"{self.location}: {name} exists already", name=name, location=self.location)
        with contextlib.suppress(NotFound):
            self.stat(name)
            raise exists
        nonce = secrets.token_hex(16)
        try:
            answer = self._client.put_object(**request, IfNoneMatch="*", Metadata={NONCE: nonce})
        except ClientError as error:
            if http_status(error) != 412:
                raise
            if not self._is_ours(name, nonce):
                raise exists from error
            return
        self._genuine("ETag" in answer, f"write {name}", name)
        version = answer.get("VersionId")
        older = self._version_before(name, version) if version else None
        if version and older and not self._is_ours(name, nonce, VersionId=older):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name), VersionId=version)
            raise exists

    def _version_before(self, name: str, version: str) -> str | None:
        """Ceph 16 ignores `IfNoneMatch` in a bucket with versions, so several writers may each have created one: the
        oldest since the last deletion has won. None when that is `version`."""
        key = self._key(name)
        page = self._client.list_object_versions(Bucket=self._bucket, Prefix=key)  # newest first
        deleted = [marker["LastModified"] for marker in page.get("DeleteMarkers", []) if marker["Key"] == key]
        alive = [
            found["VersionId"]
            for found in page.get("Versions", [])
            if found["Key"] == key and (not deleted or found["LastModified"] >= max(deleted))
        ]
        return alive[-1] if alive and alive[-1] != version else None

    def _is_ours(self, name: str, nonce: str, **version: Any) -> bool:
        head = self._client.head_object(Bucket=self._bucket, Key=self._key(name), **version)
        return head["Metadata"].get(NONCE) == nonce

    def _empty(self, name: str, offset: int, length: int | None) -> bytes:
        """S3 has no empty ranges: b"" where that is the exact answer."""
        size = self.stat(name).size
        if offset > size or (length and offset + length > size):
            raise too_short(name, self.location, offset, length, max(0, size - offset))
        return b""

    def _genuine(self, is_genuine: bool, what: str, name: str) -> None:
        if not is_genuine:
            message = f"{self.location}: cannot {what}: HTTP 200, but not the answer of an S3 server"
            next_step = "check the endpoint, and for a proxy or login page in between"
            raise Transient(message, name=name, location=self.location, next_step=next_step)

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name, self.location)

    @contextlib.contextmanager
    def _errors(self, what: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            raise classify(error, what, name=name, location=self.location, bucket=self._bucket) from error
