"""Makes a damaged repository and its expectation; refuses one in which our check finds anything but what was expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backupctl.clock import FakeClock
from backupctl.errors import DamageError
from backupctl.repository.check import CheckReport, check
from backupctl.repository.repository import Repository
from tests.golden.damage import BY_CHANCE, CASES, WHY, Case, Found, base, objects_of
from tests.golden.golden import NOW, PASSWORD, Objects, store_of, write_objects
from tests.interop.stock import BINARIES, Restic, newest, version_of, version_text


def checked(objects: Objects, *, read_data: bool) -> CheckReport:
    repository = Repository.open(store_of(objects), PASSWORD, clock=FakeClock(NOW))
    with repository.lock():
        return check(repository, read_data=read_data)


def told(report: CheckReport) -> list[dict[str, Any]]:
    """Sorted, as it stands in the JSON."""
    found = [asdict(Found(one.object_name, sorted(one.snapshots), one.paths)) for one in report.problems]
    return sorted(found, key=lambda one: str(one["name"]))


def make(name: str) -> tuple[Objects, dict[str, Any]]:
    act = CASES[name]
    case = Case()
    expected = act(case)
    objects = objects_of(case.repository)
    read_data = expected.structure if expected.read_data is None else expected.read_data
    wanted = [sorted(map(asdict, found), key=lambda one: str(one["name"])) for found in (expected.structure, read_data)]
    if expected.shut:
        try:
            checked(objects, read_data=False)
        except DamageError as error:
            if error.name != expected.shut:
                raise AssertionError(f"{name}: {error.name} is named instead of {expected.shut}") from None
        else:
            raise AssertionError(f"{name}: it can be opened")
    else:
        for way, found in zip((False, True), wanted, strict=True):
            report = checked(objects, read_data=way)
            if told(report) != found:
                raise AssertionError(f"{name}, {way}: expected {found}, but check says {told(report)}, {report}")
            if missing := [hint for hint in expected.hints if not any(hint in one for one in report.hints)]:
                raise AssertionError(f"{name}: no hint {missing}: {report.hints}")
    codes = [4 if expected.shut or found else 0 for found in wanted]
    about = name.replace("-", " ") + (f": {act.__doc__}" if act.__doc__ else "")
    return objects, {
        "about": about,
        "made_by": "backupctl",
        "passwords": [PASSWORD],
        "shut": expected.shut,
        "structure": {"code": codes[0], "problems": wanted[0]},
        "read_data": {"code": codes[1], "problems": wanted[1]},
        "hints": expected.hints,
        "whole": expected.whole,
        "restic": stock_opinion(name, objects, codes),
        "snapshots": [*case.kept, *expected.added],
    }


def stock_opinion(name: str, objects: Objects, codes: list[int]) -> dict[str, Any]:
    """What each stock restic says. Where the newest has another verdict than ours, the reason must stand in WHY."""
    if name in BY_CHANCE:
        return {"why": BY_CHANCE[name]}
    said = {version_text(binary): restic_checks(binary, objects) for binary in sorted(BINARIES, key=version_of)}
    theirs = said[version_text(newest())]
    differs = [bool(our) != bool(their) for our, their in zip(codes, theirs.values(), strict=True)]
    if any(differs) != (name in WHY):
        raise AssertionError(f"{name}: ours {codes}, restic {theirs}, but the reason given is {WHY.get(name)}")
    return said | {"why": WHY.get(name, "")}


def restic_checks(binary: str, objects: Objects) -> dict[str, int]:
    """The exit codes of both kinds of check."""
    with TemporaryDirectory() as work:
        write_objects(objects, Path(work) / "repository")
        restic = Restic(binary, Path(work), PASSWORD)
        return {
            way: restic.ended(Path(work) / "repository", "check", *options, expect=None).code
            for way, options in (("structure", ()), ("read_data", ("--read-data",)))
        }


def makers() -> dict[str, Callable[[], tuple[Objects, dict[str, Any]]]]:
    return {"base": base} | {name: partial(make, name) for name in CASES}
