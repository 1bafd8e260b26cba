"""The machine was built anew from its software inventory: is the staging host what was saved?

The configuration that was saved is restored and compared as files; then every section of the inventory, such as packages,
services and accounts, is compared with the staging host as it is now.
"""

from __future__ import annotations

from backupctl.clock import parse_iso
from backupctl.drills import stopwatch as phases
from backupctl.drills.scenario import SHOWN_PACKAGES, Rehearsal
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.protocol import CheckResult
from backupctl.sources.software import SoftwareSource, shown
from backupctl.sources.software_inventory import SectionDifference


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    sources = {name: one for name, one in stage.request.sources.items() if isinstance(one, SoftwareSource)}
    if not sources:
        raise CouldNotRunError(
            f"job {stage.request.job.job} saves no software inventory", next_step="give it a source `{software: {…}}`"
        )
    stage.stopwatch.strike()
    for name, source in sorted(sources.items()):
        outcome = SourceOutcome(name, data_time=parse_iso(record["sources"][name]["data_time"]))
        stage.outcomes.append(outcome)
        stage.files(outcome, reader)
        with stage.step(phases.COMPARE, outcome, native=True):
            found = source.differences(stage.request.host, reader.files(name))
            outcome.checks += [_section(name, one) for one in found]
            if all(one.not_performed for one in found):
                outcome.trouble.append("nothing of the inventory could be compared with the staging host")


def _section(source: str, one: SectionDifference) -> CheckResult:
    """What is missing or another fails. What the staging host has in addition is told: a drill needs programs, too."""
    title = f"{source}: {one.section.replace('_', ' ')} of the rebuilt host"
    detail = shown(one.lines(), SHOWN_PACKAGES)
    if one.not_performed:
        return CheckResult(title, "told, where the inventory knows", one.summary, not one.differs, 3, detail=detail)
    ok = not one.removed and not one.changed
    return CheckResult(title, "nothing missing, nothing changed", one.summary, ok, 4, detail=detail)


SCENARIO = Scenario(
    name="software-rebuild",
    proves="a machine that was built anew is the one that was saved: packages, services, accounts, configuration",
    steps=(
        "build the staging host anew from the inventory, by whatever builds your machines; then run the drill",
        "restore the saved configuration and compare it with the manifest",
        "compare every section of the inventory with the staging host",
    ),
    criteria=(
        "the saved configuration comes back as it was",
        "nothing of the inventory is missing on the rebuilt host or differs there; what it has besides is listed",
        "what the inventory knows can be told of the rebuilt host too",
    ),
    needs=("a source of the kind `software`", "a staging host that was rebuilt"),
    run=run,
)
