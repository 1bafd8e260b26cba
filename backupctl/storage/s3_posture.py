"""How a bucket is set up, by its own answers: versions, lock, rules that delete, and who else may look. Reading only, so that a
read key is enough; what that key may not ask is told, never taken for good.

What a server claims of locks is no proof: `S3Probe` tries them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from backupctl.errors import Denied, NotFound, StorageError
from backupctl.storage.options import LockOptions
from backupctl.storage.protocol import Inspection, Posture
from backupctl.storage.s3_errors import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

EVERYBODY = (
    "http://acs.amazonaws.com/groups/global/AllUsers",
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
)
# a bucket without that setting
NONE = {
    *("NoSuchLifecycleConfiguration", "NoSuchBucketPolicy", "ObjectLockConfigurationNotFoundError"),
    *("NoSuchObjectLockConfiguration", "NoSuchPublicAccessBlockConfiguration", "NoSuchKey", "InvalidRequest"),
}
UNKNOWN = {"NotImplemented", "MethodNotAllowed", "XNotImplemented"}


class Errors(Protocol):
    def __call__(self, what: str, name: str = "") -> AbstractContextManager[None]: ...


def inspect_bucket(client: S3Client, bucket: str, prefix: str, lock: LockOptions | None, errors: Errors) -> Inspection:
    """`prefix` is where the repository stands in it, "" or with a `/` at its end."""

    def ask(what: str, call: Callable[[], Any], judge: Callable[[Any], Posture]) -> Posture:
        try:
            with errors(f"ask for {what}"):
                try:
                    answer = call()
                except ClientError as error:
                    if error_code(error) in UNKNOWN:
                        return Posture(what, "the server does not know of it", "info")
                    if error_code(error) not in NONE:
                        raise
                    answer = {}
        except NotFound:
            answer = {}
        except Denied:
            return Posture(what, "these credentials may not ask", "info")
        except StorageError as error:
            return Posture(what, error.message, "info")
        return judge(answer)

    postures = [
        ask("versions", lambda: client.get_bucket_versioning(Bucket=bucket), lambda found: _versions(found, lock)),
        ask(
            "object lock",
            lambda: client.get_object_lock_configuration(Bucket=bucket),
            lambda found: _object_lock(found, lock),
        ),
        ask(
            "rules that delete",
            lambda: client.get_bucket_lifecycle_configuration(Bucket=bucket),
            lambda found: _lifecycle(found, prefix, lock),
        ),
        ask("grants", lambda: client.get_bucket_acl(Bucket=bucket), _grants),
        ask("policy", lambda: client.get_bucket_policy(Bucket=bucket), _policy),
    ]
    return Inspection(tuple(postures), _server_time(client, bucket, errors))


def _server_time(client: S3Client, bucket: str, errors: Errors) -> datetime | None:
    with errors("ask for the time"):
        answer = client.head_bucket(Bucket=bucket)
    said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(said) if said else None


def _versions(found: Any, lock: LockOptions | None) -> Posture:
    if found.get("Status") == "Enabled":
        return Posture("versions", "kept: what is overwritten or deleted stays below")
    state = "suspended" if found.get("Status") == "Suspended" else "not kept"
    return Posture(
        "versions",
        f"{state}: what is deleted or overwritten is gone",
        "error" if lock else "warning",
        "enable versioning",
    )


def _object_lock(found: Any, lock: LockOptions | None) -> Posture:
    enabled = found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"
    if lock and not enabled:
        text = "not enabled, and the configuration claims a lock"
        return Posture("object lock", text, "error", "make a bucket with object lock and copy the repository into it")
    if not lock:
        step = "add `lock: {mode: compliance, days: 35}`" if enabled else "docs/how-to/s3.md, object lock"
        return Posture("object lock", "no `lock` is configured: whoever has the key can delete", "warning", step)
    return Posture("object lock", f"enabled; we lock each object ({lock.mode}, {lock.days} days)")


def _lifecycle(found: Any, prefix: str, lock: LockOptions | None) -> Posture:
    """A rule that expires current objects deletes backups; one for older versions takes away what a lock outlived."""
    bad, weak = [], []
    for rule in found.get("Rules", []):
        if rule.get("Status") != "Enabled":
            continue
        where = rule.get("Filter", {}).get("Prefix", rule.get("Prefix", "")) or ""
        if not (where.startswith(prefix) or prefix.startswith(where)):
            continue
        name = rule.get("ID") or "without a name"
        expiration = rule.get("Expiration", {})
        if expiration.get("Days") or expiration.get("Date"):
            when = f"after {expiration['Days']} days" if expiration.get("Days") else f"on {expiration['Date']}"
            bad.append(f"rule {name} deletes objects {when}")
        days = rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays")
        if days and days < (lock.days if lock else 1):
            weak.append(f"rule {name} removes older versions after {days} days, the lock is {lock and lock.days}")
    if bad:
        return Posture(
            "rules that delete", "; ".join(bad), "error", "remove the rule: `backupctl prune` decides what goes"
        )
    if weak:
        return Posture(
            "rules that delete", "; ".join(weak), "warning", "keep older versions at least as long as the lock"
        )
    return Posture("rules that delete", "none that touches the repository")


def _grants(found: Any) -> Posture:
    open_to = [
        f"{grant.get('Permission')} to {grant['Grantee']['URI'].rpartition('/')[2]}"
        for grant in found.get("Grants", [])
        if grant.get("Grantee", {}).get("URI") in EVERYBODY
    ]
    if open_to:
        return Posture("grants", f"open to everybody: {', '.join(open_to)}", "error", "make the bucket private")
    return Posture("grants", "to nobody but its owner and those that it names")


def _policy(found: Any) -> Posture:
    import json

    try:
        statements = json.loads(found.get("Policy", "{}")).get("Statement", [])
    except (ValueError, AttributeError):
        return Posture("policy", "it is not JSON", "info")
    statements = [statements] if isinstance(statements, dict) else statements
    for one in statements:
        everybody = one.get("Principal") in ("*", {"AWS": "*"}, {"AWS": ["*"]})
        if one.get("Effect") == "Allow" and everybody and not one.get("Condition"):
            actions = one.get("Action")
            shown = ", ".join(actions) if isinstance(actions, list) else str(actions)
            return Posture("policy", f"lets everybody do {shown}", "error", "name who may do it")
    return Posture("policy", "lets in nobody who is not named" if statements else "none")
