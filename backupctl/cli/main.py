"""The command line's entry: finds the command, runs it, and turns how it ended into an exit code.

Commands live one module per verb group and are imported when they are called, so that `backupctl --help` and shell
completion stay fast.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn

import click

from backupctl import __version__
from backupctl.cli.output import Output
from backupctl.errors import UserError

# verb → (module, one line of help). The module holds a click command of the same name (dashes as underscores).
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("setup", "Create the repositories that the configuration names."),
    "run": ("run", "Back up now, or everything that is due."),
    "status": ("status", "Is every job's newest backup recent and proven? Non-zero when not."),
    "runs": ("runs", "List runs: what waits, what goes on, how they ended."),
    "cancel": ("runs", "End a run that waits or goes on, on whichever machine."),
    "snapshots": ("snapshots", "List snapshots."),
    "ls": ("snapshots", "List what a snapshot holds."),
    "find": ("find", "Find a file in all snapshots, and when it changed."),
    "diff": ("diff", "Show what differs between two snapshots."),
    "dump": ("dump", "Write a file, or a directory as tar or zip, to standard output."),
    "mount": ("mount", "Mount snapshots as a read-only file system."),
    "restore": ("restore", "Restore a snapshot, one path, or one database."),
    "check": ("check", "Read the repository: its structure, or every byte."),
    "repair": ("repair", "Repair a damaged repository: its index, its packs, its snapshots."),
    "drill": ("drill", "Rehearse a restore on a staging host and judge it."),
    "report": ("report", "Write the quarterly recovery report."),
    "standby": ("standby", "Keep a machine warm from backups."),
    "copy": ("copy", "Keep the same snapshots in a second repository, with its own key."),
    "prune": ("prune", "Show what retention would remove; remove it with --apply."),
    "hold": ("hold", "Protect a snapshot from retention, for a time or until it is released."),
    "release": ("hold", "End a hold on a snapshot."),
    "anomaly": ("anomaly", "List snapshots that look attacked; acknowledge or clear one."),
    "key": ("key", "List, add, remove, share the passwords of a repository, or move to a new master key."),
    "bootstrap": ("bootstrap", "Begin again from recovery kits when everything else is lost."),
    "catalog": ("catalog", "Rebuild the catalog from the repositories."),
    "audit": ("audit", "Show or verify the audit trail."),
    "job": ("job", "List jobs, or check one before its first night."),
    "schedule": ("schedule", "Show what will run, when, and why not; pause it."),
    "host": ("host", "Test a host, or register a staging host."),
    "storage": ("storage", "Test what a store really does; remove stale locks."),
    "notify": ("notify", "List notices, acknowledge alarms, test a channel."),
    "doctor": ("doctor", "Is everything in place: versions, clocks, disks, secrets, hosts, stores, tonight's runs?"),
    "config": ("config", "Validate, show, describe, or reload the configuration."),
    "wal-push": ("wal", "Archive one log segment: PostgreSQL's archive_command."),
    "wal-fetch": ("wal", "Get one log segment back: PostgreSQL's restore_command."),
    "binlog": ("binlog", "Show what is stored of a MariaDB server's binary logs, or receive them."),
    "wal": ("wal", "Show what is archived of a server's log, or receive it as it is written."),
    "heartbeat": ("heartbeat", "Write the time into a PostgreSQL source, to be found again by its drills."),
    "serve": ("serve", "Run what is due, until stopped."),
    "worker": ("worker", "Execute runs that `serve` hands out, on any machine; list and drain workers."),
    "completion": ("completion", "Print the shell completion script."),
}
FETCH_FAILED = 200
"""PostgreSQL takes 1 to 125 of its restore_command for "there is no such segment", and goes on without it: a failure of any
other kind must not look like that, whatever it is."""
ALIASES = {"backup": "run", "forget": "prune", "verify": "check"}

log = logging.getLogger(__name__)


class Common(click.Command):
    """A command that also takes the options every command takes, wherever on the line they stand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common_options()


def _common_options() -> list[click.Parameter]:
    def remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value not in (None, False):
            context.find_root().ensure_object(dict)[str(parameter.name)] = value

    return [
        click.Option(
            ["--config", "-c"],
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=remember,
            is_eager=True,
            help="Configuration file (default: $BACKUPCTL_CONFIG, ./backupctl.yaml, /etc/backupctl/backupctl.yaml).",
        ),
        click.Option(["--json"], is_flag=True, expose_value=False, callback=remember, help="JSON lines on stdout."),
        click.Option(
            ["--quiet", "-q"], is_flag=True, expose_value=False, callback=remember, help="Only results and problems."
        ),
        click.Option(
            ["--verbose", "-v"], is_flag=True, expose_value=False, callback=remember, help="Log what happens inside."
        ),
    ]


class Group(click.Group):
    """A verb with sub-verbs; it and its commands take the common options too."""

    command_class = Common

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common_options()

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(context, name) is None:
            import difflib

            near = difflib.get_close_matches(name, [*self.list_commands(context), *self.aliases], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"{context.command_path} has no command {name!r}{hint}", context)
        return super().resolve_command(context, args)

    aliases: ClassVar[dict[str, str]] = {}

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The whole first sentence of each: click would cut it at 45 characters."""
        found = [(name, self.get_command(context, name)) for name in self.list_commands(context)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(200)) for name, one in found if one and not one.hidden])


class ReaderGone(Exception):
    """Whoever read our output went away (`| head`)."""


class Root(Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        name = ALIASES.get(name, name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"backupctl.cli.{COMMANDS[name][0]}")
        command = getattr(module, name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    aliases: ClassVar[dict[str, str]] = ALIASES

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError as error:  # click would end with 1 by itself
            raise ReaderGone from error

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table above, without importing a single command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(context)])


@click.command(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="backupctl")
def cli() -> None:
    """Nightly backups of files and databases, and the proof that they can be restored.

    A typical day: `backupctl run --due` from cron, `backupctl status` from monitoring, `backupctl drill run` on a staging
    host, `backupctl report recovery` each quarter. Exit codes tell how it ended: 0 ok, 3 incomplete, 4 the backup is bad,
    5 a check or drill could not run, 6 stale; `docs/reference/exit-codes.md` has them all.
    """


class _Spoken(logging.Formatter):
    """Where no log is configured, what is logged reads like what a command says."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def output_of(context: click.Context | None = None) -> Output:
    """The one Output of this process, made from the options seen so far."""
    root = (context or click.get_current_context()).find_root()
    options: dict[str, Any] = root.ensure_object(dict)
    if "output" not in options:
        asked = {name for name in ("json", "quiet", "verbose") if options.get(name)}
        options["output"] = Output(json_lines="json" in asked, quiet="quiet" in asked, verbose="verbose" in asked)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Spoken("%(name)s: %(message)s" if "verbose" in asked else "%(message)s"))
        logging.basicConfig(level=logging.INFO if "verbose" in asked else logging.WARNING, handlers=[handler])
    made: Output = options["output"]
    return made


def config_path() -> Path | None:
    path: Path | None = click.get_current_context().find_root().ensure_object(dict).get("config")
    return path


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run and exit. Failures a person can act on are one clear line each; anything else is a bug with its traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options: dict[str, Any] = {"arguments": arguments}
    asked_json = "--json" in arguments

    def output() -> Output:
        made = options.get("output")
        return made if isinstance(made, Output) else Output(json_lines=asked_json)

    _prepare_process()
    returned = False
    try:
        result = cli.main(args=arguments, prog_name="backupctl", standalone_mode=False, obj=options)
        code, returned = result if isinstance(result, int) else 0, True
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = 2
    except click.ClickException as error:
        asked = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "backupctl"
        code = _say(output(), error.format_message().rstrip("."), 2, f"{asked} --help")
    except UserError as error:
        code = _say(output(), error.message, error.exit_code, error.next_step)
    except (KeyboardInterrupt, click.Abort):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who watches us hands a Ctrl-C on that we had already
        code = _say(output(), "interrupted", 130)
    except ReaderGone:  # nothing is left to say
        _leave_stdout()
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        log.info("where it happened", exc_info=True)
        if error.filename is None:  # most likely our own output: a full disk behind `> file`
            _leave_stdout()
        code = _say(output(), f"{where}{error.strerror or error}", 1)
    except Exception:  # noqa: BLE001  a bug: the traceback is shown, and --json still ends with its exit line
        traceback.print_exc()
        code = _say(
            output(), "this is a bug in backupctl; nothing above is your mistake", 1, "report it with the lines above"
        )
    if not returned and "wal-fetch" in arguments:
        code = FETCH_FAILED
    try:
        output().exit(code)
    except BrokenPipeError:
        _leave_stdout()
        code = code or 141
    sys.exit(code)


def _say(output: Output, message: str, code: int, next_step: str = "") -> int:
    if output.json_lines:
        output.event("error", message, code=code, next_step=next_step)
    else:
        output.event("error", message + (f"\n  next: {next_step}" if next_step else ""))
    return code


def _prepare_process() -> None:
    """SIGTERM unwinds like Ctrl-C, so that locks are released; a word the terminal cannot show is escaped, not fatal."""
    signal.signal(signal.SIGTERM, _interrupted)
    # our data has no cycles: looking for them cost a restore 15 % of its time. What a command imports is some 100,000 objects,
    # and one look through them is 20 ms
    gc.set_threshold(200_000, 50, 50)
    atexit.register(
        gc.freeze
    )  # nor does anybody need the last look, through all that is imported: 0.2 s of each command
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _leave_stdout() -> None:
    """Nothing more can be written there, and Python must not try at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
