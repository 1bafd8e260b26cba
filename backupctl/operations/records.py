"""The sealed facts beside a snapshot, and the tags that lead to them. See docs/architecture.md, "What a run leaves behind"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from backupctl.errors import DamageError, NoSuchError, NotFound
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository

SCHEMA = 1
TREE_DIGITS = 16
SUSPICIOUS = "suspicious"


@dataclass(frozen=True, slots=True)
class SnapshotTags:
    """What our tags say about a snapshot. A snapshot that stock restic made has none of them: `ours` is False. One that
    another program rewrote keeps them, but its tree is not the one that `tree` names: it is `rewritten`, and not `complete`,
    whatever the run that made it was."""

    ours: bool
    job: str = ""
    run: str = ""
    fingerprint: str = ""
    complete: bool = False
    tree: str = ""  # the first digits of the root tree's id; "" where none was written
    rewritten: bool = False
    suspicious: bool = False  # as its run judged; see `operations.anomalies`

    @classmethod
    def of(cls, snapshot: Snapshot) -> SnapshotTags:
        values = dict(tag.split(":", 1) for tag in snapshot.tags if ":" in tag)
        tree = values.get("tree", "")
        rewritten = not snapshot.tree.hex().startswith(tree)
        return cls(
            ours="backupctl" in snapshot.tags,
            job=values.get("job", ""),
            run=values.get("run", ""),
            fingerprint=values.get("fingerprint", ""),
            complete="complete" in snapshot.tags and not rewritten,
            tree=tree,
            rewritten=rewritten,
            suspicious=SUSPICIOUS in snapshot.tags,
        )

    def encode(self) -> list[str]:
        status = "complete" if self.complete else "incomplete"
        tree = [f"tree:{self.tree}"] if self.tree else []
        marks = [SUSPICIOUS] if self.suspicious else []
        return [
            "backupctl",
            f"job:{self.job}",
            f"run:{self.run}",
            f"fingerprint:{self.fingerprint}",
            *tree,
            *marks,
            status,
        ]


def source_rows(sources: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Of a fingerprint record's sources, what the catalog keeps beside the snapshot."""
    kept = ("kind", "host", "machine")
    return [{"name": name, **{key: str(one[key]) for key in kept if one.get(key)}} for name, one in sources.items()]


def save_json(repository: Repository, kind: str, value: dict[str, Any]) -> str:
    text = json.dumps({"schema": SCHEMA, **value}, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return repository.save_record(kind, text.encode())


def load_json(repository: Repository, kind: str, record_id: str) -> dict[str, Any]:
    """Raises NoSuchError or DamageError naming the record; a schema from the future is damage to this version."""
    name = f"backupctl/{kind}/{record_id}"
    try:
        value = json.loads(repository.load_record(kind, record_id))
    except (ValueError, RecursionError) as error:
        raise DamageError(f"record {name} is not JSON: {error}", name=name) from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise DamageError(f"record {name} has a schema this version does not know", name=name)
    return value


def fingerprint_of(repository: Repository, snapshot: Snapshot) -> dict[str, Any]:
    """The fingerprint record of a snapshot we made; NoSuchError for a snapshot without one."""
    tags = SnapshotTags.of(snapshot)
    if not tags.fingerprint:
        raise NoSuchError(
            f"snapshot {snapshot.id[:8]} carries no fingerprint: it was not made by backupctl",
            next_step="restore it with `backupctl restore --at ID`; a drill needs a snapshot from `backupctl run`",
        )
    facts = load_json(repository, "fingerprint", tags.fingerprint)
    if not _is_fingerprint(facts):
        name = f"backupctl/fingerprint/{tags.fingerprint}"
        raise DamageError(f"record {name} is no fingerprint", name=name)
    return facts


def _is_fingerprint(facts: dict[str, Any]) -> bool:
    """Whoever holds the key can write anything: what every reader relies on is looked at once, here."""
    sources, summary = facts.get("sources"), facts.get("summary")
    return (
        isinstance(sources, dict)
        and all(
            isinstance(one, dict)
            and all(isinstance(one.get(key), str) for key in ("kind", "host", "data_time"))
            and isinstance(one.get("fingerprint"), dict)
            for one in sources.values()
        )
        and isinstance(facts.get("manifest"), str)
        and isinstance(facts.get("problems"), list)
        and isinstance(summary, dict)
        and all(isinstance(count, int) for count in summary.values())
    )


def of_job(snapshots: Iterable[Snapshot], job: str, *, complete_only: bool = False) -> list[Snapshot]:
    """Our snapshots of one job, oldest first."""
    chosen = []
    for snapshot in snapshots:
        tags = SnapshotTags.of(snapshot)
        if tags.ours and tags.job == job and (tags.complete or not complete_only):
            chosen.append(snapshot)
    return sorted(chosen, key=lambda one: one.time)


def readable(repository: Repository, problems: list[str]) -> list[Snapshot]:
    """Every snapshot that can be read, oldest first; why another cannot goes to `problems`."""
    found = []
    for snapshot_id in repository.snapshot_ids():
        try:
            found.append(repository.read_snapshot(snapshot_id))
        except NotFound:
            continue  # forgotten between list and get
        except DamageError as error:
            problems.append(error.message)
    return sorted(found, key=lambda one: (one.time, one.id))
