"""Whoever kept the password is gone: k of n holders bring it back, and it is changed. All in memory, nothing on a disk.

The shares are made for the drill: what it proves is that this password, shared, comes back and opens what it must. Whether
the pages that people hold can still be read, they say themselves: `backupctl key combine --check`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from backupctl.drills import stopwatch as phases
from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios.corrupted_objects import victims_of
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError, UsageError, WrongKeyError
from backupctl.repository.format.names import display_name
from backupctl.repository.keys import add_key, list_keys, plan_removal, remove_key
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.shares import Share, combine, split
from backupctl.sources.protocol import CheckResult
from backupctl.storage.protocol import ObjectStore

NEEDED, NUMBER = 3, 5


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    request, chance = stage.request, stage.chance()
    if request.snapshot is None or request.manifest is None:
        raise CouldNotRunError("there is no snapshot")
    outcome = SourceOutcome(f"password of {request.repository}", level=3)
    stage.outcomes.append(outcome)
    victims = victims_of(stage)
    reader.close()
    password = stage.surroundings.resources.password(request.repository)
    with stage.stopwatch.phase("share"):
        shares = split(password.encode(), needed=NEEDED, number=NUMBER)
        foreign = split(password.encode(), needed=NEEDED, number=NUMBER)
    stage.stopwatch.strike()
    with stage.stopwatch.phase("combine"):
        came = chance.sample(shares, NEEDED)
        back = combine([Share.decode(share.encode()) for share in came]).decode()
    with stage.stopwatch.phase(phases.OPEN_REPOSITORY):
        store = stage.rehearsed(request.repository).store
        opened = _open(stage, store, back)
    who = ", ".join(str(share.x) for share in came)
    outcome.checks.append(_told(f"the holders {who} open the repository", "opens", "opens" if opened else "refused"))
    if opened is None:
        return
    with stage.stopwatch.phase("read a sample"), SnapshotReader(opened, request.snapshot) as sample:
        wrong = []
        for one in victims:
            with sample.open(one.path) as stream:
                digest = hashlib.sha256()
                while data := stream.read(1 << 20):
                    digest.update(data)
            wrong += [] if digest.hexdigest() == one.sha256 else [display_name(one.path)]
    outcome.checks.append(
        _told("drawn files read with it", f"{len(victims)} equal", f"{len(victims) - len(wrong)} equal")
        if victims
        else CheckResult("drawn files read with it", "some", "none to read", False, 4)
    )
    with stage.stopwatch.phase("refuse what must be refused"):
        outcome.checks += _refusals(shares, foreign)
    with stage.stopwatch.phase("change the password"):
        outcome.checks += _changed(stage, store, opened, back, shares)


def _refusals(shares: Sequence[Share], foreign: Sequence[Share]) -> list[CheckResult]:
    altered = replace(shares[1], values=bytes([shares[1].values[0] ^ 1]) + shares[1].values[1:])
    mistyped = shares[2].encode()[::-1]
    every = [_refusal(chosen) for chosen in combinations(shares, NEEDED - 1)]
    few = next((said for said in every if "too few" not in said), every[0])
    return [
        _contains(f"every {NEEDED - 1} holders alone", "too few", few),
        _contains("an altered share among one more than needed", "share 2 is wrong", _refusal([*shares[2:], altered])),
        _contains("an altered share among just enough", "a share is wrong", _refusal([*shares[2:4], altered])),
        _contains("a share of another set", "does not belong to set", _refusal([*shares[:2], foreign[2]])),
        _contains("a mistyped share", "cut or mistyped", _typed(mistyped)),
    ]


def _changed(
    stage: Rehearsal, store: ObjectStore, opened: Repository, old: str, shares: Sequence[Share]
) -> list[CheckResult]:
    """A new password with new shares; the old password, and so every old share, opens nothing any more."""
    new = secrets.token_urlsafe(33)
    kept = {key.id for key in list_keys(opened, old) if not key.opens}  # further passwords, which stay
    add_key(opened, new)
    for key in list_keys(opened, old):
        if key.opens:
            remove_key(opened, plan_removal(opened, key.id, password=new))
    fresh = split(new.encode(), needed=NEEDED, number=NUMBER)
    opens = _open(stage, store, combine(fresh[:NEEDED]).decode()) is not None
    refused = _open(stage, store, combine(shares).decode()) is None
    left = {key.id for key in list_keys(opened)} >= kept
    return [
        _told("new shares of a new password", "open the repository", "open the repository" if opens else "refused"),
        _told("the old password afterwards", "refused", "refused" if refused else "still opens"),
        _told("other passwords of the repository", "untouched", "untouched" if left else "lost"),
        _contains("an old share among new ones", "does not belong to set", _refusal([shares[0], *fresh[1:3]])),
    ]


def _open(stage: Rehearsal, store: ObjectStore, password: str) -> Repository | None:
    try:
        return Repository.open(store, password, clock=stage.deadline.clock)
    except WrongKeyError:
        return None


def _refusal(shares: Sequence[Share]) -> str:
    try:
        combine(shares)
    except UsageError as error:
        return error.message
    return "accepted"


def _typed(text: str) -> str:
    try:
        Share.decode(text)
    except UsageError as error:
        return error.message
    return "accepted"


def _told(name: str, expected: str, actual: str) -> CheckResult:
    return CheckResult(name, expected, actual, expected == actual, 4)


def _contains(name: str, expected: str, actual: str) -> CheckResult:
    return CheckResult(name, f"refused: {expected}", actual, expected in actual, 4)


SCENARIO = Scenario(
    name="key-holder-lost",
    proves=f"{NEEDED} of {NUMBER} holders of shares bring the password back, fewer do not, and it can be changed at once",
    steps=(
        f"share the repository's password among {NUMBER} holders, in memory",
        f"declare it lost; {NEEDED} holders, drawn at random, combine theirs and open the repository",
        "read drawn files with it, and compare them with the manifest",
        "try too few shares, an altered one, a mistyped one, and one of another set",
        "add a new password, remove the old one, and share the new one, in an overlay: the real keys stay as they are",
    ),
    criteria=(
        "the combined password opens the repository, and every drawn file is equal",
        "too few shares, and wrong ones, are refused; a wrong one is named when there is one more than needed",
        "the new password opens, the old one is refused, and others are untouched",
    ),
    run=run,
)
