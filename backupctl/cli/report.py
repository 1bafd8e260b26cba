"""`report`: evidence on paper."""

from __future__ import annotations

from pathlib import Path

import click

from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.errors import UsageError

_FORMATS = ("json", "html", "pdf")
_LANGUAGES = ("en", "zh-TW")


@click.group(cls=Group)
def report() -> None:
    """Write reports."""


@report.command()
@click.option("--quarter", metavar="2026Q4", help="Default: the quarter we are in.")
@click.option("--format", "formats", default="json,html,pdf", show_default=True, help="Comma separated.")
@click.option("--language", "languages", default="en,zh-TW", show_default=True, help="en, zh-TW, or both.")
@click.option(
    "--output", "directory", type=click.Path(path_type=Path, file_okay=False), help="Default: reports.directory"
)
def recovery(quarter: str | None, formats: str, languages: str, directory: Path | None) -> int:
    """The quarterly recovery report: what was drilled, what was proven, how long it took, what never was.

    JSON is the source of truth; HTML and PDF print its hash.
    """
    from backupctl.operations.report import recovery_report

    output = output_of()
    context = open_context()
    report_, paths = recovery_report(
        context,
        quarter,
        formats=_words(formats, _FORMATS, "format"),
        languages=_words(languages, _LANGUAGES, "language"),
        directory=directory,
    )
    for path in paths:
        output.result("report", str(path), path=str(path), quarter=report_["quarter"]["name"])
    return 0


def _words(text: str, allowed: tuple[str, ...], what: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in allowed:
            raise UsageError(f"{word!r} is no {what}", next_step=f"choose from {', '.join(allowed)}")
    if not words:
        raise UsageError(f"no {what} given", next_step=f"choose from {', '.join(allowed)}")
    return words
