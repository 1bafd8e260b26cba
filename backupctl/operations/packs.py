"""Before anything relies on what a repository has: which of its packs are lost or bad, and which an interrupted run left."""

from __future__ import annotations

import re

from backupctl.operations.context import Context
from backupctl.repository.adoption import AdoptedPacks, adopt_packs, compare_packs
from backupctl.repository.repository import Repository, pack_name

PACK_NAME = re.compile(r"data/[0-9a-f]{2}/[0-9a-f]{64}")


def settle_packs(
    context: Context, name: str, repository: Repository, *, again: str, job: str = ""
) -> tuple[bool, AdoptedPacks]:
    """What lay in packs of the repository `name` that are gone, cut, or that a check found bad is stored `again`; packs
    that no index lists are taken up. Whether there was damage, and what was taken up. Hold a lock."""
    compared = compare_packs(repository)
    bad = bad_packs(context, name)
    damaged = compared.lost | {
        pack: "was found damaged by a check"
        for pack in bad
        if pack in repository.index.packs and pack not in compared.lost
    }
    for pack, what in damaged.items():
        text = f"{name}: {pack_name(pack)} {what}: what it held is {again}"
        context.reporter.event(
            "warning", text, object=pack_name(pack), repository=name, **({"job": job} if job else {})
        )
    repository.distrust(damaged)
    return bool(damaged), adopt_packs(repository, compared.unlisted, bad=bad)


def bad_packs(context: Context, repository: str) -> set[bytes]:
    """The packs that the last check of every byte, or a check since then, found damaged."""
    found: set[bytes] = set()
    for check_row in context.catalog.checks(repository=repository, limit=100):
        names = [str(problem["object"]) for problem in check_row.problems]
        found.update(bytes.fromhex(name.rpartition("/")[2]) for name in names if PACK_NAME.fullmatch(name))
        if check_row.mode == "read-data":
            break
    return found
