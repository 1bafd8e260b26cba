"""`report recovery`: the quarter's evidence, from the catalog, into files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backupctl.evidence.quarter import current_quarter, parse_quarter
from backupctl.evidence.recovery import build, report_hash
from backupctl.evidence.write import write_report
from backupctl.operations.context import Context


def recovery_report(
    context: Context,
    quarter: str | None,
    *,
    formats: Sequence[str],
    languages: Sequence[str],
    directory: Path | None = None,
) -> tuple[dict[str, Any], list[Path]]:
    """The report as JSON, and the files that were written."""
    zone = context.settings.defaults.timezone
    wanted = parse_quarter(quarter, zone) if quarter else current_quarter(context.clock.now(), zone)
    report = build(context.catalog, context.settings, wanted, clock=context.clock)
    where = directory or context.settings.reports.directory
    paths = write_report(report, where, formats=formats, languages=languages, fonts=context.settings.reports.fonts)
    context.audit("report.written", wanted.name, sha256=report_hash(report))
    return report, paths
