"""`host`: reach a host, register a staging host."""

from __future__ import annotations

from pathlib import Path

import click

from backupctl.cli import completing
from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.errors import UsageError


@click.group(cls=Group)
def host() -> None:
    """Test hosts and register staging hosts."""


@host.command("list")
def list_() -> None:
    """All hosts."""
    context = open_context()
    rows = [
        {
            "host": name,
            "kind": "ssh" if options.ssh else "local",
            "address": options.ssh.address if options.ssh else None,
            "role": options.role,
            "scratch": options.scratch,
        }
        for name, options in context.settings.hosts.items()
    ]
    output_of().table("host", rows, ("host", "kind", "address", "role", "scratch"), empty="no host")


@host.command()
@click.argument("name", shell_complete=completing.hosts)
def check(name: str) -> int:
    """Connect to a host and say what it is."""
    context = open_context()
    facts = context.resources.host(name).facts()
    output_of().result(
        "host",
        f"{name}: {facts.hostname}, {facts.system}, kernel {facts.kernel}, Python {facts.python}, as {facts.user}",
        host=name,
        hostname=facts.hostname,
        machine_id=facts.machine_id,
        system=facts.system,
        kernel=facts.kernel,
        python=facts.python,
        user=facts.user,
    )
    return 0


@host.command()
@click.argument("name", shell_complete=completing.staging_hosts)
def register(name: str) -> int:
    """Mark a host's scratch directory as a place where drills may restore and delete. Drills refuse without the mark."""
    from backupctl.drills.interlocks import nonce_hash
    from backupctl.hosts.staging import register as place_marker

    context = open_context()
    options = context.settings.hosts.get(name)
    if options is None or options.role != "staging":
        raise UsageError(f"{name} is no staging host", next_step="give it `role: staging` and `scratch: DIR` first")
    marker = place_marker(context.resources.host(name), str(options.scratch).encode(), name)
    context.audit("host.registered", name, scratch=str(options.scratch), nonce=nonce_hash(marker.nonce))
    output_of().result(
        "marker",
        f"{name}: {options.scratch} may now be used for drills",
        host=name,
        scratch=options.scratch,
        nonce=marker.nonce,
    )
    return 0


@host.command()
@click.argument("name", shell_complete=completing.hosts)
@click.option("--job", required=True, shell_complete=completing.jobs, help="A job with a `software` source.")
@click.option("--source", help="Its name, when the job has several.")
@click.option("--at", default="latest", help="latest, a time or a snapshot id.")
def compare(name: str, job: str, source: str | None, at: str) -> int:
    """Show how a host differs now from the software inventory in a snapshot: a machine built again, or the same one since.

    + added on the host, - missing there, ~ different: inventory → host.

    Exit code: 0 no difference; 3 differences, or a section that the inventory has and the host cannot tell.
    """
    from backupctl.operations.inventory import compare_host

    context = open_context()
    output = output_of()
    snapshot, source_name, sections = compare_host(context, name, job, source_name=source, at=at)
    output.event("note", f"inventory {source_name} of {job} from {output.local(snapshot.time)} ({snapshot.short_id})")
    for one in sections:
        lines = [f"{one.section}: {one.summary}", *(f"  {line}" for line in one.lines())]
        output.result(
            "section",
            "\n".join(lines),
            section=one.section,
            snapshot=snapshot.id,
            added=dict(one.added),
            removed=dict(one.removed),
            changed={key: {"inventory": old, "host": new} for key, (old, new) in one.changed.items()},
            not_performed=one.not_performed,
        )
    return 3 if any(one.differs for one in sections) else 0


@host.command()
@click.argument("name", shell_complete=completing.hosts)
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the files below this directory, to be copied to the host. Without: print them.",
)
def account(name: str, into: Path | None) -> int:
    """Make the files of the restricted account that a host is read with: nothing but what its jobs read.

    A wrapper that sshd runs whatever is asked for, the line for authorized_keys, and with `account: {as_root: true}` a rule
    for sudo. All belong to root on that host. Make them again when jobs change, and after each upgrade.
    """
    from backupctl.cli.shipping import write
    from backupctl.operations.host_account import host_account

    output = output_of()
    for file in host_account(open_context(), name):
        said = f"# {file.path} (root, mode {file.mode:04o})\n{file.content}"
        if into is not None:
            changed = write(into, file.path.lstrip("/"), file.content, mode=file.mode)
            said = f"{into / file.path.lstrip('/')}: {'written' if changed else 'unchanged'}"
        output.result("file", said, host=name, path=file.path, mode=f"{file.mode:04o}", content=file.content)
    return 0
