"""From options to an open store. A new kind of store is one module and one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backupctl.clock import Clock
from backupctl.hosts.secret import SecretRef
from backupctl.storage.local import LocalStore
from backupctl.storage.options import S3Options, StorageOptions
from backupctl.storage.protocol import ObjectStore
from backupctl.storage.read_only import ReadOnlyStore
from backupctl.storage.retry import RetryingStore
from backupctl.storage.throttle import Throttle, ThrottledStore


def open_store(
    options: StorageOptions,
    *,
    secrets: Callable[[SecretRef], bytes],
    base: Path,
    clock: Clock,
    create: bool = False,
    throttle: Throttle | None = None,
    read_only: bool = False,
) -> ObjectStore:
    """The store, with retries, used no faster than `throttle` allows. Relative paths start at `base`. Only with `create`
    is a missing directory made (a bucket never is). With `read_only`, the key for that is used, and nothing is written.
    Raises UnreachableError, Denied, ConfigError for credentials that cannot be understood."""
    store: ObjectStore
    if options.local:
        store = LocalStore(base / options.local.path.expanduser(), create=create)
    else:
        assert options.s3
        s3 = options.s3
        if read_only and s3.read_credentials:
            s3 = s3.model_copy(update={"credentials": s3.read_credentials})
        store = _open_s3(s3, secrets, base, clock, throttle)
    if throttle:
        store = ThrottledStore(store, throttle, paces_bytes=options.s3 is not None)
    store = RetryingStore(store, clock)
    return ReadOnlyStore(store) if read_only else store


def _open_s3(
    options: S3Options, secrets: Callable[[SecretRef], bytes], base: Path, clock: Clock, throttle: Throttle | None
) -> ObjectStore:
    from backupctl.storage.credentials import Credentials
    from backupctl.storage.s3 import S3Store  # boto3 takes 200 ms to import: only for those who use it

    if options.ca_bundle:
        options = options.model_copy(update={"ca_bundle": base / options.ca_bundle.expanduser()})
    credentials = Credentials.parse(secrets(options.credentials)) if options.credentials else None
    return S3Store(options, credentials, clock=clock, throttle=throttle)
