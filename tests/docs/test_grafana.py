"""The dashboard is one that Grafana takes, and asks only for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest

from backupctl.catalog.models import Run
from backupctl.operations.coverage import Coverage
from backupctl.operations.repository_status import RepositoryStatus
from backupctl.operations.status import CopyStatus, DrillStatus, JobStatus
from backupctl.scheduling.metrics import exposition
from backupctl.scheduling.standing import Standing
from backupctl.scheduling.sweep import Lapse
from tests.docs.pages import DOCS, blocks
from tests.operations.conftest import NOW

DASHBOARD: dict[str, Any] = json.loads((DOCS / "how-to" / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
KINDS = {"stat", "table", "timeseries", "bargauge"}
WORDS = {"time", "on", "group_left", "max", "min", "sum", "absent", "or"}


def known() -> dict[str, set[str]]:
    """Every metric with its labels, of a standing in which everything is known."""
    run = Run(started=NOW, finished=NOW, exit_code=0, summary={"bytes": 1, "stored_bytes": 1, "files": 1})
    copies = [CopyStatus("a", "vault", newest=NOW, behind=0)]
    drills = [DrillStatus("a", "full", "pass", 4, NOW, 1.0, 1.0)]
    job = JobStatus("a", "main", newest=NOW, last_run="complete", run=run, copies=copies, drills=drills)
    repository = RepositoryStatus(
        *("main", "pass", "structure", NOW, 1.0),
        read_or_written_since=NOW,
        never_read_bytes=0,
        lock_days=1,
        locked_until=NOW,
        holds=0,
    )
    lapse = Lapse("missed", "backup", "a", NOW, "")
    found = Standing(NOW, [job], [repository], [lapse], coverage=Coverage(["local"]))
    labels: dict[str, set[str]] = {}
    for line in exposition(found).splitlines():
        if not line.startswith("#"):
            name = re.match(r"\w+", line)
            assert name
            labels.setdefault(name[0], set()).update(re.findall(r'(\w+)="', line))
    return labels


def expressions() -> list[str]:
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    found += [one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    rules = [block for block in blocks(DOCS / "how-to" / "watching.md", "text") if "expr:" in block.text]
    assert rules
    return found + re.findall(r"expr: (.+)", rules[0].text)


def test_panels_have_what_grafana_needs() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["type"] in KINDS
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert {"defaults", "overrides"} <= set(panel["fieldConfig"])
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
        for target in panel["targets"]:
            assert {"refId", "expr", "datasource"} <= set(target)


def test_panels_lie_in_the_grid_and_on_no_other() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


@pytest.mark.parametrize("expression", expressions())
def test_only_metrics_and_labels_that_there_are(expression: str) -> None:
    labels = known()
    names = re.findall(r"backupctl_\w+", expression)
    assert names
    assert set(names) <= set(labels)
    for name, inside in re.findall(r"(backupctl_\w+)\{([^}]*)\}", expression):
        assert {pair.split("=")[0].rstrip("!~") for pair in inside.split(",")} <= labels[name]
    assert expression.count("(") == expression.count(")")


def test_every_metric_but_plain_states_is_on_the_dashboard_or_is_explained() -> None:
    page = (DOCS / "how-to" / "watching.md").read_text() + (DOCS / "reference" / "metrics.md").read_text()
    for name in known():
        assert name in page, name
