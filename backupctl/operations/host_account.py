"""The restricted account of one host, as the configuration needs it: made from the jobs that read there."""

from __future__ import annotations

from collections.abc import Sequence

from backupctl.config.hooks import HookSettings
from backupctl.errors import NoSuchError, UsageError
from backupctl.hosts.account import AccountFile, Rules, command, files
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
        found |= hook_rules([hook for hook in job.hooks if hook.host == name])
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


def hook_rules(hooks: Sequence[HookSettings]) -> Rules:
    """The very commands; those that are given a secret run under the limits of whatever reads its input."""
    asking = tuple(command(*hook.command) for hook in hooks if hook.stdin is None)
    given = tuple(command(*hook.command) for hook in hooks if hook.stdin is not None)
    variables = {"BACKUPCTL_JOB": r"[\w.-]+", "BACKUPCTL_RUN": r"[\w-]+", "BACKUPCTL_STATE": r"[a-z]+"} if hooks else {}
    return Rules(commands=given, queries=asking, environment=variables)
