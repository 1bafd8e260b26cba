"""What `init` writes where there is nothing yet: a configuration that works as it stands, and a recovery kit on paper."""

from __future__ import annotations

import json
import os
from pathlib import Path

from backupctl.clock import iso
from backupctl.errors import UsageError, UserError
from backupctl.operations.context import Context
from backupctl.operations.keys import key_in_use

KIT = "recovery-kit-{}.txt"
_MAIN = """\
# backupctl: see `backupctl config schema` and docs/reference/configuration.md for every key.
version: 1
defaults: {timezone: {zone}}
repositories:
  # where backups go. Move this off this machine: docs/how-to/s3.md
  main: {storage: {local: {path: repository}}, password: {file: repository.key}}
hosts:
  # where drills may restore. Better on another machine: docs/how-to/ssh-hosts.md
  staging: {local: {}, role: staging, scratch: staging}
jobs_dir: jobs/
reports: {directory: reports}
"""
_JOB = """\
job: example
class: medium
owner: nobody yet
sources:
  # what to protect; docs/how-to/databases.md shows PostgreSQL, MariaDB and SQLite
  files: {files: {paths: [{path}], exclude: ["*.tmp"]}}
repository: main
schedule: {cron: "15 2 * * *", jitter: 20m}
objectives: {rpo: 24h, rto: 4h}
retention: {keep_daily: 14, keep_weekly: 8, keep_monthly: 12}
drills:
  monthly: {on: staging, cron: "0 10 5 * *"}
"""


def write_starter(directory: Path, protect: Path, zone: str) -> list[Path]:
    """A main file and one job that backs up `protect`. Never overwrites: raises UsageError when one is there."""
    main, job = directory / "backupctl.yaml", directory / "jobs" / "example.yaml"
    for path in (main, job):
        if path.exists():
            raise UsageError(f"{path} exists; nothing was written", next_step=f"backupctl --config {main} init")
    job.parent.mkdir(parents=True, exist_ok=True)
    _write(main, _MAIN.replace("{zone}", zone))
    _write(job, _JOB.replace("{path}", json.dumps(str(protect), ensure_ascii=False)))
    return [main, job]


def recovery_kit(context: Context, repository: str) -> str:
    """Everything that getting the backups back takes when this machine is gone: where they are, the password, and the
    commands, ours and stock restic's.

    Storage credentials are not in it: they are whoever's issues them to give again."""
    opened = context.resources.repository(repository)
    options = context.settings.repositories[repository].storage
    place = options.s3
    if place is not None:
        url = f"s3:{place.endpoint or 'https://s3.amazonaws.com'}/{place.bucket}" + (
            f"/{place.prefix}" if place.prefix else ""
        )
    else:
        url = opened.store.location
    entry = entry_of(context, repository)
    return f"""\
RECOVERY KIT of the backupctl repository "{repository}"                       made {iso(context.clock.now())}
Whoever holds this page can read every backup in it. Keep it locked away, and away from the backups.

where      {opened.store.location}
id         {opened.id}
password   {context.resources.password(repository)}
key        {key_in_use(context, repository)}; when it is removed this page is worthless: backupctl key kit {repository}

With backupctl on a new machine, and this page as a file (chmod 600) in an empty directory:
    backupctl bootstrap {KIT.format(repository)}
    backupctl snapshots
    backupctl restore --at SNAPSHOT --into DIR
It makes {repository}.key with the password (chmod 600) and a backupctl.yaml with this;
when you type it by hand, go on with: backupctl catalog rebuild
    version: 1
    repositories:
      {repository}: {entry}

With stock restic (0.14 or newer) and nothing else; it asks for the password:
    restic -r {url} snapshots
    restic -r {url} restore latest --target DIR
Files come back below DIR/SOURCE/; a PostgreSQL dump loads with pg_restore -C, a MariaDB or MySQL one with that server's client.
"""


def entry_of(context: Context, repository: str) -> str:
    """The repository as a configuration on a new machine has it, in one line: with its key beside the configuration."""
    options = context.settings.repositories[repository].storage
    storage = options.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    if options.local is not None:
        storage["local"]["path"] = context.resources.store(repository).location
    return json.dumps({"storage": storage, "password": {"file": f"{repository}.key"}}, ensure_ascii=False)


def write_recovery_kit(context: Context, repository: str) -> Path:
    """The recovery kit as a file, 0600, beside the configuration; print it and lock it away. Raises UserError."""
    text = recovery_kit(context, repository)
    path = context.settings.base / KIT.format(repository)
    temporary = path.with_suffix(".new")
    try:
        temporary.unlink(missing_ok=True)
        _write(temporary, text)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"the recovery kit of repository {repository} cannot be written: {path}: {error.strerror}",
            next_step=f"as a user who may write there: backupctl key kit {repository}",
        ) from None
    context.audit("recovery-kit.written", repository)
    return path


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
