"""`key`: the passwords that open a repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupctl.cli import completing
from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, size

if TYPE_CHECKING:
    from backupctl.operations.keys import Rotation

_FILE = click.Path(path_type=Path, dir_okay=False)
_REPOSITORY = click.argument("repository", shell_complete=completing.repositories)


@click.group(cls=Group)
def key() -> None:
    """List, add and remove the passwords of a repository, share one among people, or move to a new master key.

    Every key opens the same repository. To change a password that nobody stole: add one, name its file in the
    configuration, remove the old one. When somebody may have opened the repository: `key rotate`.
    """


@key.command("list")
@_REPOSITORY
@click.option(
    "--password-file", type=_FILE, metavar="FILE", help="Tell which key this one opens (default: the configured)."
)
def list_(repository: str, password_file: Path | None) -> int:
    """Every key of REPOSITORY, and which one is in use."""
    from backupctl.operations.keys import keys_of

    context = open_context()
    output = output_of()
    found = keys_of(context, repository, password_file)
    rows = [
        {
            "key": one.id if output.json_lines else one.short_id,
            "created": one.facts.created if one.facts else None,
            "made_by": f"{one.facts.username}@{one.facts.hostname}" if one.facts else None,
            "opens": one.opens,
            "damage": one.damage,
        }
        for one in found
    ]
    output.table("key", rows, ("key", "created", "made_by", "opens", "damage"), empty="no key")
    return 4 if any(one.damage for one in found) else 0


@key.command()
@_REPOSITORY
@click.option(
    "--password-file",
    type=_FILE,
    required=True,
    metavar="FILE",
    help="The new password; a FILE that does not exist is made with a random one.",
)
def add(repository: str, password_file: Path) -> int:
    """Give REPOSITORY one more password, and prove that it opens."""
    from backupctl.operations import keys

    context = open_context()
    output = output_of()
    made, generated = keys.add(context, repository, password_file)
    what = "new password in" if generated else "with the password in"
    output.result(
        "added",
        f"key {made.short_id} added to {repository} and opened: {what} {password_file}",
        repository=repository,
        key=made.id,
        password_file=str(password_file),
        generated=generated,
    )
    output.event(
        "next",
        f"next: name it as the password of {repository} in the configuration, then: backupctl key list {repository}; "
        f"backupctl key kit {repository}; backupctl key remove {repository} OLD",
    )
    return 0


@key.command()
@_REPOSITORY
@click.argument("key_id", metavar="KEY")
@click.option("--apply", "really", is_flag=True, help="Do it.")
@click.option(
    "--password-file", type=_FILE, metavar="FILE", help="Proves that another key opens, when KEY is the one in use."
)
def remove(repository: str, key_id: str, really: bool, password_file: Path | None) -> int:
    """Show what it means that KEY no longer opens REPOSITORY; remove it with --apply.

    Refused for the last key, and for the one in use unless another one is proven with --password-file. Whoever used KEY
    before may have kept the master key: see `backupctl key rotate`.
    """
    from backupctl.operations import keys

    context = open_context()
    output = output_of()
    planned = keys.removal(context, repository, key_id, password_file)
    facts = {
        "repository": repository,
        "key": planned.key.id,
        "in_use": planned.in_use,
        "left": [one.id for one in planned.left],
        "proven": planned.proven.id,
    }
    left = f"{count(len(planned.left), 'key')} left, of which {planned.proven.short_id} was just proven to open"
    if not really:
        output.result("plan", f"key {planned.key.short_id} would be removed from {repository}; {left}", **facts)
    else:
        keys.remove(context, repository, planned)
        output.result("removed", f"key {planned.key.short_id} removed from {repository}; {left}", **facts)
    if planned.in_use:
        output.event("warning", f"the configured password of {repository} is that of {planned.key.short_id}: change it")
    output.event(
        "warning",
        f"a recovery kit printed with this password opens nothing any more; a new one: backupctl key kit {repository}",
    )
    if not really:
        proof = f" --password-file {password_file}" if password_file else ""
        output.event("next", f"next: backupctl key remove {repository} {planned.key.short_id}{proof} --apply")
    return 0


@key.command()
@_REPOSITORY
def kit(repository: str) -> int:
    """Write the recovery kit of REPOSITORY anew, with the password that is configured now."""
    from backupctl.operations.starter import write_recovery_kit

    path = write_recovery_kit(open_context(), repository)
    text = f"recovery kit: {path}. Print it, lock it away, and remove the file and the old print."
    output_of().result("kit", text, repository=repository, path=str(path))
    return 0


@key.command()
@_REPOSITORY
@click.option("--shares", "number", type=click.IntRange(2, 16), required=True, help="How many pages are made.")
@click.option("--needed", type=click.IntRange(2, 16), required=True, help="How many of them bring the password back.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where the pages are written (default: here).",
)
def share(repository: str, number: int, needed: int, into: Path) -> int:
    """Write the password of REPOSITORY as shares, one page for each of several people, of whom some are enough.

    Fewer than --needed shares say nothing about the password. That they bring it back is proven before this ends. Newer
    shares replace older ones only when the password has changed too: `key add`, then `key share`, then `key remove`.
    """
    from backupctl.operations.custody import share_password

    output = output_of()
    files = share_password(open_context(), repository, needed=needed, number=number, directory=into.absolute())
    for file in files:
        output.result("share", f"share: {file}", repository=repository, path=str(file))
    output.event(
        "next",
        f"next: print each page for its holder and nobody else, then remove the files; any {needed} of the {number} "
        "are enough. Holders test theirs with: backupctl key combine --check SHARE",
    )
    return 0


@key.command()
@click.argument("shares", nargs=-1, required=True, metavar="SHARE...", type=click.Path(path_type=Path, exists=True))
@click.option("--password-file", type=_FILE, metavar="FILE", help="Where the password is written; must not exist.")
@click.option("--check", is_flag=True, help="Only say whether each SHARE can still be read.")
def combine(shares: tuple[Path, ...], password_file: Path | None, check: bool) -> int:
    """Bring a password back from the pages of `key share`, as files that only you may read (chmod 600).

    Too few are refused, and so are shares of different sets. One that was altered is noticed; with one more share than
    needed it is named.
    """
    from backupctl.errors import UsageError
    from backupctl.operations.custody import combine_shares, read_share

    output = output_of()
    if check:
        for file in shares:
            one = read_share(file)
            text = f"{file}: share {one.x} of set {one.set_id} can be read; {one.needed} of its set are needed"
            output.result("share", text, path=str(file), share=one.x, set=one.set_id, needed=one.needed)
        return 0
    if password_file is None:
        raise UsageError(
            "where shall the password go?", next_step="--password-file FILE, or --check to test shares only"
        )
    one = combine_shares(shares, password_file)
    output.result(
        "combined",
        f"the password of set {one.set_id} is in {password_file}",
        path=str(password_file),
        set=one.set_id,
        needed=one.needed,
    )
    output.event(
        "next", "next: name it as the repository's password, and give it new shares: those used today have been seen"
    )
    return 0


@key.command()
@_REPOSITORY
@click.option(
    "--to",
    "new",
    required=True,
    metavar="REPOSITORY",
    help="The new one, with a key of its own: in the configuration, and made by `backupctl init`.",
    shell_complete=completing.repositories,
)
@click.option("--apply", "really", is_flag=True, help="Copy everything, then read every byte of the new repository.")
def rotate(repository: str, new: str, really: bool) -> int:
    """Move all of REPOSITORY into a new one, whose master key nobody knows yet. Shows the plan; --apply copies.

    A master key cannot be changed where it is: what was sealed with it stays readable to whoever has it. So every
    snapshot, hold, and record of checks and drills is copied into a repository of its own key (make it with
    `backupctl init`), which is then checked byte by byte. Stopped half-way, the same command goes on. Nothing is removed
    from the old one. When only a password is to change: `key add`, then `key remove`.
    """
    from backupctl.cli.dispatching import run_in_foreground
    from backupctl.operations import keys

    context = open_context()
    output = output_of()
    if not really:
        plan = keys.plan_rotation(context, repository, new)
        for problem in plan.problems:
            output.event("problem", f"{repository}: {problem}")
        output.result("plan", "\n".join(_plan_lines(plan)), **plan.fields())
        return 4 if plan.problems else 0
    result = keys.rotate(context, repository, new)
    for problem in result.problems:
        output.event("problem", f"{repository}: {problem}")
    text = f"{repository} → {new}: {count(len(result.copied), 'snapshot')} copied ({size(result.stored_bytes)} stored)"
    output.result("rotated", f"{text}, {result.present} there already", **result.fields())
    code = run_in_foreground(context, [("check", new, {"read_data": True})])
    if code or result.exit_code:
        output.event("next", f"next: not everything is in {new} yet; keep {repository} as it is")
        return code or result.exit_code
    for line in _next_lines(keys.plan_rotation(context, repository, new)):
        output.event("next", line)
    return 0


def _plan_lines(plan: Rotation) -> list[str]:
    return [
        (
            f"{plan.old} → {plan.new}: {plan.missing} of {count(plan.snapshots, 'snapshot')} to copy, {size(plan.bytes)} of "
            f"content, {count(plan.records, 'record')} of checks, drills and holds"
        ),
        f"do it with: backupctl key rotate {plan.old} --to {plan.new} --apply",
        "then:",
        *(f"  {line}" for line in _next_lines(plan)),
        "when only the password is to change, and nobody who should not has opened the repository:",
        (
            f"  backupctl key add {plan.old} --password-file NEW; change `password` in the configuration; "
            f"backupctl key remove {plan.old} OLD --apply"
        ),
    ]


def _next_lines(plan: Rotation) -> list[str]:
    jobs = "".join(f" {name}" for name in plan.jobs)
    steps = [
        f"stop the schedules, and run this once more if a backup was made meanwhile: {', '.join(plan.jobs) or '-'}"
    ]
    steps += [f"in job {name}: repository: {plan.new}" for name in plan.jobs]
    steps += [f"in job {name}: copies: {plan.new} instead of {plan.old}" for name in plan.copying_jobs]
    steps.append(f"backupctl run{jobs}; backupctl status{jobs}; backupctl drill run JOB/DRILL")
    steps.append(f"backupctl key kit {plan.new}")
    steps.append(
        f"once a drill from {plan.new} passed, delete the place of {plan.old}: until then whoever has its key can read it"
    )
    return [f"{number}. {step}" for number, step in enumerate(steps, 1)]
