"""Whether our own credentials may change how a bucket is set up: tried by putting each setting back as it is, so that nothing is
different afterwards, whoever wins. What a lock holds is safe from all of them; what follows from each is told.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from backupctl.errors import Denied, NotFound, StorageError, Transient
from backupctl.storage.probing import Fact, attempt
from backupctl.storage.s3_errors import error_code
from backupctl.storage.s3_posture import NONE, UNKNOWN

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class Errors(Protocol):
    def __call__(self, what: str, name: str = "") -> AbstractContextManager[None]: ...


def try_settings(client: S3Client, bucket: str, errors: Errors) -> tuple[list[Fact], list[str]]:
    """What was tried, and what these credentials can change, in words. A setting is read and put back in two calls: a change that
    somebody else makes in between is undone."""
    call: Any = client  # the same few names for each setting
    facts: list[Fact] = []
    possible: list[str] = []

    def versioning(found: dict[str, Any]) -> bool:
        if not found.get("Status"):
            return False
        call.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": found["Status"]})
        return True

    def lifecycle(found: dict[str, Any]) -> bool:
        if found.get("Rules"):
            rules = {"Rules": found["Rules"]}
            call.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
        else:
            call.delete_bucket_lifecycle(Bucket=bucket)  # there is none
        return True

    def policy(found: dict[str, Any]) -> bool:
        if found.get("Policy"):
            call.put_bucket_policy(Bucket=bucket, Policy=found["Policy"])
        else:
            call.delete_bucket_policy(Bucket=bucket)  # there is none
        return True

    def lock(found: dict[str, Any]) -> bool:
        if not found.get("ObjectLockConfiguration"):
            return False
        call.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=found["ObjectLockConfiguration"])
        return True

    for what, ask, put, follows in (
        ("versioning", "get_bucket_versioning", versioning, "new objects have no older versions to go back to"),
        ("rules that delete", "get_bucket_lifecycle_configuration", lifecycle, "what no lock holds goes by itself"),
        ("policy", "get_bucket_policy", policy, "others get in, or everybody is kept out until the owner mends it"),
        ("default lock", "get_object_lock_configuration", lock, "what says no lock of its own gets none"),
    ):
        fact = attempt(f"change the bucket's {what}", _step(errors, what, getattr(call, ask), put, bucket))
        facts.append(fact)
        if fact[1].startswith("accepted"):
            possible.append(f"change the bucket's {what}: {follows}")
    return facts, possible


def _step(
    errors: Errors, what: str, ask: Callable[..., Any], put: Callable[[dict[str, Any]], bool], bucket: str
) -> Callable[[], str]:
    def step() -> str:
        try:
            found = _asked(errors, what, ask, bucket)
        except Denied:
            return "not tried: these credentials may not even ask what it is"
        if found is None:
            return "not tried: the server does not know of it"
        try:
            with errors(f"change {what}"):
                done = put(found)
        except (NotFound, Transient):
            raise  # no refusal
        except StorageError:
            return "refused"
        return "accepted, as it is: whoever has these credentials can change it" if done else "not tried: there is none"

    return step


def _asked(errors: Errors, what: str, ask: Callable[..., Any], bucket: str) -> dict[str, Any] | None:
    """{} for a setting that is not made, None for one that the server has never heard of."""
    try:
        with errors(f"ask for {what}"):
            try:
                return dict(ask(Bucket=bucket))
            except ClientError as error:
                if error_code(error) in UNKNOWN:
                    return None
                if error_code(error) in NONE:
                    return {}
                raise
    except NotFound:
        return {}
