"""Which primary a job is read from, decided in the store: an object that is created and never overwritten begins an epoch.

    backupctl/fence/<derived from the repository's key, the job and the epoch>          sealed JSON

Epoch 1 began by itself. `raise_fence` begins the next one; from then on whoever goes by a lower epoch, an old primary's own
configuration too, is refused by `require_epoch`. Two that promote at the same time get one answer, as the store gives it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from backupctl.errors import Corrupt, DamageError, Exists, NotFound, UserError
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import seal, unseal
from backupctl.repository.format.unpacked import decode_unpacked, encode_unpacked
from backupctl.repository.records import PREFIX
from backupctl.repository.repository import Repository

KIND = "fence"
SCHEMA = 1


class FencedOffError(UserError):
    """The job has another primary by now."""


@dataclass(frozen=True, slots=True)
class Fence:
    """`standby` and `host` became the primary; `by` and `created` (RFC 3339) say whose decision it was."""

    job: str
    epoch: int
    standby: str
    host: str
    by: str
    created: str


@dataclass(frozen=True, slots=True)
class Turning:
    """Where in a server's log an epoch began: what the old timeline holds behind `lsn` belongs to nobody."""

    system: str
    timeline: int
    lsn: int
    new_timeline: int


@dataclass(frozen=True, slots=True)
class Began:
    job: str
    epoch: int
    servers: dict[str, Turning] = field(default_factory=dict)  # by source


def raise_fence(repository: Repository, fence: Fence) -> Fence:
    """Begin the epoch; the fence that stands, which is another's where that was faster. Raises DamageError."""
    repository.require_writable()
    sealed = _sealed(repository, asdict(fence))
    with suppress(Exists):
        repository.store.put(_name(repository, fence.job, fence.epoch), sealed, if_absent=True)
    found = find_fence(repository, fence.job, fence.epoch)
    assert found is not None
    return found


def find_fence(repository: Repository, job: str, epoch: int) -> Fence | None:
    """None when that epoch did not begin. Raises DamageError."""
    facts = _read(repository, _name(repository, job, epoch), job, epoch)
    if facts is None:
        return None
    return Fence(job, epoch, *(str(facts.get(name, "")) for name in ("standby", "host", "by", "created")))


def save_began(repository: Repository, began: Began) -> None:
    """Once everything is promoted. Said again, it is the same."""
    facts = {
        "job": began.job,
        "epoch": began.epoch,
        "servers": {name: asdict(one) for name, one in began.servers.items()},
    }
    repository.store.put(_name(repository, began.job, began.epoch, "began"), _sealed(repository, facts))


def find_began(repository: Repository, job: str, epoch: int) -> Began | None:
    name = _name(repository, job, epoch, "began")
    facts = _read(repository, name, job, epoch)
    if facts is None:
        return None
    try:
        return Began(job, epoch, {source: Turning(**one) for source, one in facts["servers"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise _damage(name, error) from None


def require_epoch(repository: Repository, job: str, epoch: int) -> None:
    """Raises FencedOffError for an epoch that is over, or never began; DamageError for a fence that cannot be read, for it may be
    the one that counts."""
    fence = find_fence(repository, job, epoch + 1)
    if fence is not None:
        raise FencedOffError(
            f"job {job} has had another primary since {fence.created}: standby {fence.standby} on host {fence.host}, promoted "
            f"by {fence.by} (epoch {epoch + 1}); what this configuration (epoch {epoch}) reads is the old one",
            next_step=f"if it reads the new primary, say `epoch: {epoch + 1}` in the job; if this is the old one, stop it",
        )
    if epoch > 1 and find_fence(repository, job, epoch) is None:
        raise FencedOffError(
            f"job {job} says epoch {epoch}, which never began in this repository",
            next_step="`epoch` counts promotions: backupctl standby promote says the number",
        )


def refuse_diverged(began: Began | None, system: str, timeline: int, lsn: int) -> None:
    """Raises FencedOffError for log of a server's old timeline that reaches beyond `lsn`, where the new one left it."""
    for source, turning in began.servers.items() if began is not None else ():
        if turning.system == system and timeline <= turning.timeline and lsn > turning.lsn:
            end = f"{turning.lsn >> 32:X}/{turning.lsn & 0xFFFFFFFF:X}"
            raise FencedOffError(
                f"this log is of the old primary of {source}: its timeline {timeline} ended at {end}, when timeline "
                f"{turning.new_timeline} began",
                next_step="stop the old primary; what it wrote since is in no backup",
            )


def copy_fences(source: Repository, destination: Repository, job: str) -> int:
    """Raise in one repository what stands in another; how many there are."""
    epoch = 2
    while (fence := find_fence(source, job, epoch)) is not None:
        raise_fence(destination, fence)
        if (began := find_began(source, job, epoch)) is not None:
            save_began(destination, began)
        epoch += 1
    return epoch - 2


def check_fence(repository: Repository, name: str) -> int:
    """Its bytes. Raises NotFound, DamageError, Denied."""
    try:
        data = repository.store.get(name)
        json.loads(decode_unpacked(unseal(repository.keys, data)))
    except (FormatError, Corrupt, ValueError) as error:
        raise _damage(name, error) from None
    return len(data)


def _name(repository: Repository, job: str, epoch: int, what: str = "") -> str:
    label = json.dumps(["fence", job, epoch, what]).encode()
    return f"{PREFIX}{KIND}/{hashlib.sha256(repository.derive(label, 32)).hexdigest()}"


def _sealed(repository: Repository, facts: dict[str, Any]) -> bytes:
    text = json.dumps({"schema": SCHEMA, **facts}, sort_keys=True, ensure_ascii=False)
    return seal(repository.keys, encode_unpacked(text.encode()))


def _read(repository: Repository, name: str, job: str, epoch: int) -> dict[str, Any] | None:
    try:
        facts = json.loads(decode_unpacked(unseal(repository.keys, repository.store.get(name))))
        if (facts["schema"], facts["job"], facts["epoch"]) != (SCHEMA, job, epoch):
            raise FormatError("it is another than its name says")
    except NotFound:
        return None
    except (FormatError, Corrupt, ValueError, KeyError, TypeError) as error:
        raise _damage(name, error) from None
    return dict(facts)


def _damage(name: str, error: Exception) -> DamageError:
    return DamageError(f"{name}: {error}", name=name, next_step="find out who changed it; backups wait until then")
