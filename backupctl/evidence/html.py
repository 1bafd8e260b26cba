"""One self-contained HTML file: no script, nothing fetched, prints well."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from backupctl.evidence.document import MARKS
from backupctl.evidence.view import document


def render_html(report: dict[str, Any], language: str) -> str:
    """The report in one language, as a whole file. The same report gives the same text."""
    environment = Environment(
        loader=PackageLoader("backupctl.evidence", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The drawings are ours and escape their own words (charts.py); everything else is escaped by the template.
    environment.filters["drawing"] = Markup
    return environment.get_template("recovery.html.j2").render(page=document(report, language), marks=MARKS) + "\n"
