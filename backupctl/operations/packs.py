"""Before anything relies on what a repository has: which of its packs are lost or bad, and which an interrupted run left."""

from __future__ import annotations

from backupctl.operations.check import bad_packs
from backupctl.operations.context import Context
from backupctl.repository.adoption import AdoptedPacks, adopt_packs, compare_packs
from backupctl.repository.repository import Repository, pack_name


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
