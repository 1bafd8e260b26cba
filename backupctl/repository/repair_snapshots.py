"""Repair snapshots: beside a snapshot that lost something for good, one that holds what is left of it.

A file that lacks a part is left out: a shortened file would look whole. A directory whose list is lost stays, empty. The new
snapshot is `incomplete` and `repaired`, names its `original`, and its fingerprint says what was lost, so that it counts for
no freshness and a drill of it tells what is lacking.

Order: trees → index → manifest → fingerprint → snapshot. Killed before the last, nothing refers to what was written; killed
after it, the next repair finds the snapshot that is there already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.repository.copy import origin
from backupctl.repository.format import FormatError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import decode_tree, encode_tree
from backupctl.repository.manifest import RECORD_KIND, read_manifest
from backupctl.repository.manifest_facts import ManifestFacts, SourceTotals
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.records import fingerprints_of
from backupctl.repository.repository import Repository
from backupctl.repository.survey import Survey

REPAIRED = "repaired"
NAMED_PATHS = 10_000  # in a fingerprint; the rest is a number

Save = Callable[[bytes], bytes]
"""Keeps a tree's bytes; its id."""


@dataclass(slots=True)
class SnapshotRepair:
    """`tree`: the root of the repaired snapshot, None when nothing of it can be reached any more. `waits`: a copy still has
    something of it, so it is left alone. `present`: the repaired snapshot that is there already."""

    snapshot: Snapshot
    tree: bytes | None = None
    paths: list[str] = field(default_factory=list)  # what it lacks: all of them
    waits: bool = False
    present: Snapshot | None = None


def plan_snapshots(survey: Survey, chosen: Sequence[Snapshot]) -> list[SnapshotRepair]:
    """For each of `chosen` that lost something for good. Changes nothing."""
    plan = []
    for snapshot in chosen:
        if not survey.loses(snapshot.tree):
            continue
        repair = SnapshotRepair(snapshot, waits=survey.waits(snapshot.tree))
        repair.paths = list(dict.fromkeys(display_name(path or b"/") for path, _ in survey.losses(snapshot.tree)))
        if not repair.waits:
            repair.tree = rewrite(survey, snapshot.tree, _id_of)
            repair.present = find_repaired(snapshot, repair.tree, survey.snapshots)
        plan.append(repair)
    return plan


def _id_of(tree: bytes) -> bytes:
    return hashlib.sha256(tree).digest()


def find_repaired(snapshot: Snapshot, tree: bytes | None, among: Sequence[Snapshot]) -> Snapshot | None:
    """What an earlier repair made of it."""
    for one in among:
        if REPAIRED in one.tags and (origin(one), one.time, one.tree) == (origin(snapshot), snapshot.time, tree):
            return one
    return None


def rewrite(survey: Survey, root: bytes, save: Save) -> bytes | None:
    """The tree without what is lost, subtrees first; None when the root itself is lost."""
    made: dict[bytes, bytes | None] = {}
    stack = [root]
    while stack:
        tree = stack[-1]
        nodes = None if tree in made else _nodes(survey, tree)
        if nodes is None:
            made.setdefault(tree, None)
            stack.pop()
            continue
        below = [
            node.subtree
            for node in nodes
            if node.subtree is not None and survey.loses(node.subtree) and node.subtree not in made
        ]
        if below:
            stack += below
            continue
        kept = [left for node in nodes if (left := _left(survey, node, made, save)) is not None]
        made[tree] = save(encode_tree(kept))
        stack.pop()
    return made[root]


def _nodes(survey: Survey, tree: bytes) -> list[Node] | None:
    data = survey.tree(tree)
    if data is None:
        return None
    try:
        nodes = decode_tree(data)
        encode_tree(nodes)  # two of one name
    except FormatError:
        return None
    return nodes


def _left(survey: Survey, node: Node, made: dict[bytes, bytes | None], save: Save) -> Node | None:
    """What is left of a node; None for a file that lacks something."""
    if node.type == "file":
        whole = node.content is not None and not any(survey.is_lost("data", blob) for blob in node.content)
        return node if whole else None
    if node.type == "dir":
        if node.subtree is None:
            return replace(node, subtree=save(encode_tree([])))
        if survey.loses(node.subtree):
            return replace(node, subtree=made[node.subtree] or save(encode_tree([])))
    return node


def apply_snapshot(repository: Repository, survey: Survey, repair: SnapshotRepair) -> Snapshot | None:
    """Store the repaired snapshot, under at least a shared lock; None when nothing of it is left. What a damaged pack holds
    must be distrusted."""
    if repair.tree is None or repair.present is not None:
        return repair.present
    saver = repository.blob_saver()
    try:
        tree = rewrite(survey, repair.snapshot.tree, lambda data: saver.save("tree", data))
        saver.flush()
    except BaseException:
        saver.abort()
        raise
    assert tree == repair.tree
    old = repair.snapshot
    tags = [tag for tag in old.tags if tag not in ("complete", "incomplete", REPAIRED)]
    tags = [tag for tag in tags if not tag.startswith(("fingerprint:", "tree:"))]
    made = replace(old, id="", tree=repair.tree, original=origin(old))
    made.summary = _summary(repository, made)
    tags += [f"fingerprint:{record}" for record in _fingerprints(repository, repair, made)]
    made.tags = [*tags, "incomplete", REPAIRED]
    repository.save_snapshot(made)
    return made


def _summary(repository: Repository, made: Snapshot) -> dict[str, Any]:
    """The old one with the totals of what is left."""
    if not made.summary:
        return {}
    files = size = 0
    with SnapshotReader(repository, made) as reader:
        for _, node in reader.walk():
            if node.type == "file":
                files, size = files + 1, size + node.size
    return made.summary | {"total_files_processed": files, "total_bytes_processed": size}


def _fingerprints(repository: Repository, repair: SnapshotRepair, made: Snapshot) -> list[str]:
    """Records that say what the sources held and what of it was lost, with manifests of what is left. One that cannot be
    read has no successor: what it said nobody knows."""
    saved = []
    for record in fingerprints_of(repair.snapshot):
        try:
            facts: Any = json.loads(repository.load_record("fingerprint", record))
        except (DamageError, NoSuchError, ValueError, RecursionError):
            continue
        if not isinstance(facts, dict):
            continue
        facts["status"] = "incomplete"
        facts["manifest"] = _manifest(repository, facts.get("manifest"), made)
        facts["problems"] = [*facts.get("problems", ()), *_problems(repair)]
        text = json.dumps(facts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        saved.append(repository.save_record("fingerprint", text.encode()))
    return saved


def _manifest(repository: Repository, record: object, made: Snapshot) -> object:
    """Of what is left in `made`: the old one counts on trees that go with the broken snapshot. One of schema 1 stands for
    itself and stays; so does one that cannot be read, which a check then names."""
    try:
        manifest = read_manifest(repository, str(record))
        if not manifest.has_facts:
            return record
        old = manifest.facts
    except (DamageError, NoSuchError, UsageError):
        return record
    facts = ManifestFacts(made.tree, {name: SourceTotals() for name in old.sources})
    with SnapshotReader(repository, made) as reader:
        for path, node in reader.walk():
            source, _, inner = path.partition(b"/")
            if inner and (name := source.decode(errors="surrogateescape")) in facts.sources:
                facts.sources[name].count(node.type, node.size)
                if (whole := old.whole.get(path)) is not None:
                    facts.whole[path] = whole
                if path in old.fresh:
                    facts.fresh.add(path)
    return repository.save_record(RECORD_KIND, facts.encode())


def _problems(repair: SnapshotRepair) -> list[dict[str, str]]:
    """As a run writes them down, of the kind `lost`."""
    found = []
    for path in repair.paths[:NAMED_PATHS]:
        source, _, inner = path.lstrip("/").partition("/")
        found.append(
            {"source": source, "path": inner, "kind": "lost", "message": "its content was lost in the repository"}
        )
    if (more := len(repair.paths) - NAMED_PATHS) > 0:
        found.append({"source": "", "path": "", "kind": "lost", "message": f"and {more} more paths"})
    return found
