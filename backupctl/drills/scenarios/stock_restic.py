"""backupctl is gone for good: stock restic on the staging host, the repository and its password bring everything back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from backupctl.clock import parse_iso
from backupctl.drills import stopwatch as phases
from backupctl.drills.scenario import Rehearsal, file_checks, planned_sources
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError, UserError
from backupctl.hosts.local import LocalHost
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.verify import verify_tree
from backupctl.sources.protocol import CheckResult
from backupctl.storage.credentials import Credentials

SHOWN_CHARACTERS = 500


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    reader.close()  # ours is not needed any more
    request, host = stage.request, stage.request.host
    if request.snapshot is None or request.manifest is None:
        raise CouldNotRunError("there is no snapshot")
    version = host.run(["restic", "version"])
    if version.returncode != 0:
        raise CouldNotRunError(
            f"host {host.name} has no restic, so nothing is said about restoring without backupctl",
            next_step=f"install restic 0.14 or newer on {host.name}",
        )
    stage.stopwatch.strike()
    target = stage.sandbox.files + b"/.restic"
    program = SourceOutcome("stock restic", held=False, level=3)  # what it restores is compared for each source
    stage.outcomes.append(program)
    with _access(stage) as (options, environment):
        for phase, arguments in (
            ("restic check", ["check"]),
            (phases.RESTORE_FILES, ["restore", request.snapshot.id, "--target", os.fsdecode(target)]),
        ):
            with stage.stopwatch.phase(phase):
                argv = ["restic", *options, "--no-lock", "--no-cache", "--quiet", *arguments]
                done = host.run(argv, env=environment, timeout=stage.deadline.left())
            program.checks.append(
                CheckResult(
                    f"restic {arguments[0]}",
                    "exit 0",
                    f"exit {done.returncode}",
                    done.returncode == 0,
                    3,
                    detail=done.stderr.strip()[-SHOWN_CHARACTERS:] or version.stdout.decode().strip(),
                )
            )
    if not all(check.ok for check in program.checks):
        return
    for name in planned_sources(request, record):
        facts = record["sources"].get(name)
        outcome = SourceOutcome(name, level=3, data_time=parse_iso(facts["data_time"]) if facts else None)
        stage.outcomes.append(outcome)
        if facts is None:
            outcome.bad.append("the job has this source, the snapshot does not hold it")
            continue
        with stage.step(phases.COMPARE, outcome, native=True):
            report = verify_tree(host, target + b"/" + name.encode(), request.manifest, name)
            outcome.held = report.entries > 0
            outcome.checks += file_checks(name, report)
            outcome.trouble += [f"{path} could not be compared: {why}" for path, why in report.unchecked[:20]]
            stage.restored_bytes += report.bytes


@contextmanager
def _access(stage: Rehearsal) -> Iterator[tuple[list[str], dict[str, str]]]:
    """restic's options and environment for the repository, with every secret in a private file on the staging host."""
    request, resources = stage.request, stage.surroundings.resources
    options = stage.surroundings.settings.repositories[request.repository].storage
    host = request.host
    with ExitStack() as files:
        password = files.enter_context(host.private_file(resources.password(request.repository).encode()))
        found, environment = ["--password-file", password], {}
        if options.local is not None:
            if not isinstance(host, LocalHost):
                raise CouldNotRunError(
                    f"{request.repository} is a directory of this machine, which {host.name} does not see",
                    next_step="rehearse with a repository that both can reach, or a staging host on this machine",
                )
            found += ["-r", str(resources.settings.base / options.local.path.expanduser())]
        elif (s3 := options.s3) is not None:
            place = f"{s3.endpoint or 'https://s3.amazonaws.com'}/{s3.bucket}"
            found += ["-r", f"s3:{place}/{s3.prefix}" if s3.prefix else f"s3:{place}"]
            environment["AWS_DEFAULT_REGION"] = s3.region
            if s3.credentials is not None:
                ours = Credentials.parse(resources.secret(s3.credentials))
                lines = [f"aws_access_key_id={ours.access_key_id}", f"aws_secret_access_key={ours.secret_access_key}"]
                lines += [f"aws_session_token={ours.session_token}"] if ours.session_token else []
                text = "\n".join(["[default]", *lines, ""])
                environment["AWS_SHARED_CREDENTIALS_FILE"] = files.enter_context(host.private_file(text.encode()))
            if s3.ca_bundle is not None:
                bundle = (resources.settings.base / s3.ca_bundle.expanduser()).read_bytes()
                found += ["--cacert", files.enter_context(host.private_file(bundle))]
        else:
            raise UserError(f"the storage of {request.repository} is of a kind that restic does not know")
        yield found, environment


SCENARIO = Scenario(
    name="stock-restic",
    proves="nothing of backupctl is needed to get the backups back: no lock-in, and a second independent reader agrees",
    steps=(
        "let stock restic check the repository's structure",
        "let it restore the tested snapshot into the sandbox",
        "compare every file, and every dump of a database, with the manifest",
    ),
    criteria=(
        "restic ends both with exit code 0",
        "every entry equals what the source held at backup time",
    ),
    needs=("restic 0.14 or newer on the staging host", "a repository that the staging host can reach itself"),
    run=run,
    reads_there=True,
)
