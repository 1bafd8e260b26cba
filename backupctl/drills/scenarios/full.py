"""The whole system: every source of one snapshot comes back and is compared with what it held."""

from __future__ import annotations

from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.repository.reader import SnapshotReader


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    stage.run(reader, record)


SCENARIO = Scenario(
    name="full",
    proves="everything the job protects comes back on another machine, equal to what it was, in the measured time",
    steps=(
        "restore the files of every source",
        "start a private server for every database and load it with its own tool",
        "compare every file with the manifest and every table with the fingerprint",
        "run the job's probes",
    ),
    criteria=(
        "no restore reports an error",
        "every entry and every table equals what the source held at backup time",
        "every probe answers as expected",
    ),
    run=run,
)
