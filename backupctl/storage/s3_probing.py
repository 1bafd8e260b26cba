"""What a bucket really does, tried on scratch objects with the credentials that we were given. Behaviour counts, never
headers: servers exist that echo a lock and protect nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from botocore.exceptions import ClientError

from backupctl.clock import Clock
from backupctl.errors import Denied, NotFound, StorageError, Transient, UserError
from backupctl.storage.options import LockOptions
from backupctl.storage.probing import Fact, attempt, probe_basics, scratch_name
from backupctl.storage.protocol import Immutability, ObjectStore, ProbeResult
from backupctl.storage.s3_errors import error_code, http_status
from backupctl.storage.s3_settings import try_settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

LOCK_SECONDS = 10.0  # all attempts must fit in; a lock cannot be lifted, only waited for
PATIENCE_SECONDS = 15.0
LOCKED = b"locked"


class Errors(Protocol):
    def __call__(self, what: str, name: str = "") -> AbstractContextManager[None]: ...


class S3Probe:
    """`key`, `put_request` and `errors` are the store's own, so that what is tried is what a backup does."""

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        key: Callable[[str], str],
        put_request: Callable[[str, bytes], dict[str, Any]],
        errors: Errors,
        lock: LockOptions | None,
        clock: Clock,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self._client, self._bucket = client, bucket
        self._key, self._put_request, self._errors = key, put_request, errors
        self._lock, self._clock, self._lock_seconds = lock, clock, lock_seconds

    def run(self, store: ObjectStore) -> ProbeResult:
        name = scratch_name()
        facts = [*probe_basics(store, name), attempt("send a body with a wrong checksum", self._wrong_checksum)]
        if self._lock:
            locking = _Locking(self, self._lock, self._lock_seconds)
            immutability = replace(locking.run(), tried=tuple(locking.facts))
            facts += locking.facts
        else:
            immutability = self._unlocked()
        facts.append(attempt("leave nothing behind", lambda: self.erase(name)))
        return ProbeResult(tuple(facts), immutability)

    def _wrong_checksum(self) -> str:
        name = scratch_name()
        request = self._put_request(name, b"what was sent") | {"Body": b"what arrived"}
        with self._errors(f"write {name}", name):
            try:
                self._client.put_object(**request)
            except ClientError as error:
                if http_status(error) != 400:
                    raise
                return f"refused ({error_code(error)})"
        self.erase(name)
        raise UserError("accepted: damage on the way would be stored")

    def _unlocked(self) -> Immutability:
        """Without a lock nothing is promised; what these credentials may do is tried all the same."""
        name = scratch_name()
        try:
            self.delete(name, self.put(name))
        except Denied:
            return Immutability(False, "no lock is configured; these credentials may not delete, others may", False)
        except UserError as error:
            return Immutability(False, f"no lock is configured ({error.message})", False)
        return Immutability(False, "no lock is configured, and a version was deleted with these credentials", False)

    # calls

    def server_time(self) -> datetime:
        """To the second."""
        with self._errors("ask for the time"):
            answer = self._client.head_bucket(Bucket=self._bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def put(self, name: str, data: bytes = b"scratch", **lock: Any) -> str | None:
        """The new version's id, None where there are no versions."""
        with self._errors(f"write {name}", name):
            return self._client.put_object(**(self._put_request(name, data) | lock)).get("VersionId")

    def read(self, name: str, version: str) -> bytes:
        with self._errors(f"read {name}", name):
            return self._client.get_object(Bucket=self._bucket, Key=self._key(name), VersionId=version)["Body"].read()

    def delete(self, name: str, version: str | None = None, *, bypass: bool = False) -> None:
        options: dict[str, Any] = {"VersionId": version} if version else {}
        if bypass:
            options["BypassGovernanceRetention"] = True
        with self._errors(f"delete {name}", name):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name), **options)

    def delete_in_batch(self, name: str, version: str) -> None:
        with self._errors(f"delete {name}", name):
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": self._key(name), "VersionId": version}]}
            )
        if answer.get("Errors"):
            raise Denied(str(answer["Errors"][0].get("Code")), name=name)

    def retain(self, name: str, version: str, mode: Literal["COMPLIANCE", "GOVERNANCE"], until: datetime) -> None:
        with self._errors(f"retain {name}", name):
            self._client.put_object_retention(
                Bucket=self._bucket,
                Key=self._key(name),
                VersionId=version,
                Retention={"Mode": mode, "RetainUntilDate": until},
            )

    def versions(self, name: str) -> list[tuple[str, str]]:
        """(key, version) of everything whose name begins so, delete markers too."""
        with self._errors(f"list the versions of {name}", name):
            page = self._client.list_object_versions(Bucket=self._bucket, Prefix=self._key(name))
        return [
            (found["Key"], found["VersionId"]) for found in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
        ]

    def settings(self) -> tuple[list[Fact], list[str]]:
        return try_settings(self._client, self._bucket, self._errors)

    def erase(self, name: str) -> str:
        """Remove every version of the scratch objects that begin so; where versions are not supported, the object."""
        try:
            found = self.versions(name)
        except UserError:
            self.delete(name)
            return "deleted"
        for key, version in found:
            with self._errors(f"delete {name}", name):
                self._client.delete_object(Bucket=self._bucket, Key=key, VersionId=version)
        return "deleted with all versions"

    def wait_and_erase(self, name: str) -> str:
        deadline = self._clock.monotonic() + self._lock_seconds + PATIENCE_SECONDS
        while True:
            try:
                return self.erase(name)
            except StorageError:
                if self._clock.monotonic() > deadline:
                    raise
                self._clock.sleep(0.5)


class _Locking:
    """One version locked for a few seconds, and everything that might get rid of it."""

    def __init__(self, probe: S3Probe, lock: LockOptions, lock_seconds: float) -> None:
        self._probe = probe
        self._mode: Literal["COMPLIANCE", "GOVERNANCE"] = "COMPLIANCE" if lock.mode == "compliance" else "GOVERNANCE"
        self._seconds = lock_seconds
        self._name = scratch_name()
        self._version = ""
        self._until = datetime.fromtimestamp(0, UTC)
        self.facts: list[Fact] = []

    def run(self) -> Immutability:
        if not self._try("write a locked version", self._write):
            return Immutability(False, self.facts[-1][1], True)
        probe, name, version = self._probe, self._name, self._version
        self._refused("delete the locked version", lambda: probe.delete(name, version))
        self._refused("delete it in a batch", lambda: probe.delete_in_batch(name, version))
        sooner = self._until - timedelta(seconds=1)
        self._refused("shorten its lock", lambda: probe.retain(name, version, self._mode, sooner))
        if self._mode == "COMPLIANCE":
            self._refused("weaken its lock", lambda: probe.retain(name, version, "GOVERNANCE", self._until))
        possible = []
        if self._try("overwrite it", self._overwrite) and self.facts[-1][1] != "refused":
            possible.append("put newer versions over objects; the locked ones stay below")
        if self._try("hide it behind a delete marker", self._hide) and self.facts[-1][1] != "refused":
            possible.append(
                "hide objects behind delete markers: a repository can look empty until somebody removes them"
            )
        if self._try("find the locked version again and read it", self._recover):
            possible.append("list the versions and read the locked ones back: that is how hidden objects are recovered")
        self._refused("delete it by bypassing governance", lambda: probe.delete(name, version, bypass=True))
        settings, changeable = probe.settings()
        self.facts += settings
        possible += changeable
        self._try("see the locked version unharmed after all that", self._unharmed)
        bad = [f"{what}: {outcome}" for what, outcome, good in self.facts if not good]
        self._try("delete it after its lock has ended", lambda: probe.wait_and_erase(name))
        possible.append("delete what no lock holds any more, and fill the bucket")
        if bad:
            return Immutability(False, bad[0], True, tuple(possible))
        reason = f"{self._mode.lower()}; everything tried with these credentials was refused"
        return Immutability(True, reason, True, tuple(possible))

    def _try(self, what: str, step: Callable[[], str]) -> bool:
        self.facts.append(attempt(what, step))
        return self.facts[-1][2]

    def _refused(self, what: str, act: Callable[[], None]) -> None:
        def step() -> str:
            try:
                act()
            except (NotFound, Transient):
                raise  # no refusal
            except StorageError:
                return f"refused ({self._mode})"
            raise UserError("accepted: what is locked here is not safe")

        self._try(what, step)

    def _write(self) -> str:
        # to the end of the second that the server's clock is in
        self._until = self._probe.server_time() + timedelta(seconds=1 + self._seconds)
        version = self._probe.put(self._name, LOCKED, ObjectLockMode=self._mode, ObjectLockRetainUntilDate=self._until)
        if not version:
            raise UserError("the bucket has no versions, so nothing in it can be locked")
        self._version = version
        return f"written ({self._mode}, {self._seconds:g} s)"

    def _overwrite(self) -> str:
        try:
            self._probe.put(self._name, b"other")
        except StorageError:
            return "refused"
        self._unharmed()
        return "a newer version; the locked one is unharmed"

    def _hide(self) -> str:
        try:
            self._probe.delete(self._name)
        except StorageError:
            return "refused"
        self._unharmed()
        return "hidden; the locked version is unharmed"

    def _recover(self) -> str:
        if self._version not in {version for _, version in self._probe.versions(self._name)}:
            raise UserError("the locked version is not listed: nobody would find it again")
        return self._unharmed()

    def _unharmed(self) -> str:
        if self._probe.read(self._name, self._version) != LOCKED:
            raise UserError("other bytes came back")
        if self._probe.server_time() >= self._until:
            raise UserError("the server took longer than the lock lasted: nothing is proven, try again")
        return "the same bytes came back"
