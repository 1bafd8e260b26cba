"""The restricted account of one host, as the configuration needs it: made from the jobs that read there."""

from __future__ import annotations

from backupctl.errors import NoSuchError, UsageError
from backupctl.hosts.account import AccountFile, Rules, files
from backupctl.operations.context import Context
from backupctl.sources.reading_rules import COMMON, rules


def host_account(context: Context, name: str) -> list[AccountFile]:
    """Raises UsageError for a host that is no machine to be read, or where something needs more than reading."""
    from backupctl.hosts.paramiko_connection import login_keys
    from backupctl.hosts.transport import Login

    settings = context.settings
    options = settings.hosts.get(name)
    if options is None:
        raise NoSuchError(f"no host named {name!r}", next_step="backupctl host list")
    if options.ssh is None:
        raise UsageError(
            f"{name} is this machine: nobody logs in", next_step="name an SSH host, see `backupctl host list`"
        )
    if options.role == "staging":
        raise UsageError(
            f"{name} is a staging host: drills write there and start servers, which a restricted account cannot",
            next_step="give it an account of its own, see docs/how-to/ssh-hosts.md",
        )
    secret = context.resources.secret(options.ssh.key) if options.ssh.key is not None else b""
    key = login_keys(name, options.ssh, Login(secret))[0]
    behind = [other.ssh for other in settings.hosts.values() if other.ssh is not None and other.ssh.jump == name]
    return files(
        options.ssh.user,
        f"{key.get_name()} {key.get_base64()} backupctl {name}",
        host_rules(context, name),
        addresses=options.ssh.account.addresses,
        as_root=options.ssh.account.as_root,
        forwards=[f"{other.address}:{other.port}" for other in behind],
    )


def host_rules(context: Context, name: str) -> Rules:
    """What all jobs together need of a host."""
    found: Rules = COMMON
    for job in context.settings.jobs.values():
        for source, settings in job.sources.items():
            if settings.host != name:
                continue
            try:
                found |= rules(settings.kind, settings.options)
            except UsageError as error:
                raise UsageError(
                    f"job {job.job}, source {source}: {error.message}", next_step=error.next_step
                ) from error
    return found
