from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import subprocess
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typst

from backupctl.errors import UsageError, UserError
from backupctl.evidence import pdf
from backupctl.evidence.canonical import canonical
from backupctl.evidence.document import Card, Figure, duration, percent, shown, size, times_of
from backupctl.evidence.html import render_html
from backupctl.evidence.pdf import render_pdf
from backupctl.evidence.recovery import report_hash
from backupctl.evidence.view import document
from backupctl.evidence.write import write_report
from tests.evidence.conftest import HOSTILE, Quarterly, job, make_settings

AT = datetime(2026, 11, 5, 2, 0, tzinfo=UTC)


class Reading(HTMLParser):
    """The text a reader sees, the tags, and every attribute that could fetch something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.fetches: list[str] = []
        self.handlers: list[str] = []
        self._silent = 0
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._silent += tag == "style"
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                self.fetches.append(f"{name}={value}")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


def hostile(quarterly: Quarterly) -> dict[str, Any]:
    quarterly.settings = make_settings({"website": job("website", owner=HOSTILE)}, organisation=HOSTILE)
    quarterly.drill(
        "website/monthly", AT, "fail", reasons=[HOSTILE], phases=[{"name": HOSTILE, "seconds": 3.5}],
        cleanup={"proved": False, "facts": [HOSTILE]},
    )  # fmt: skip
    quarterly.check(AT, "fail", problems=[{"object": HOSTILE, "message": HOSTILE}])
    quarterly.finding(1, "critical", AT, title=HOSTILE, job=HOSTILE, owner=HOSTILE)
    quarterly.hold(reason=HOSTILE, owner=HOSTILE)
    return quarterly.report()


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_html_tells_the_numbers_of_the_json(full: Quarterly, language: str) -> None:
    report = full.report()
    html = render_html(report, language)
    seen = Reading(html).text
    assert report_hash(report) in seen
    assert "3 / 5" in seen
    assert percent(report["summary"]["drills"]["pass_rate"]["lower95"]) in seen
    for drill in report["drills"]:
        assert drill["drill"] in seen
        for check in drill["checks"]:
            assert check["name"] in seen
            assert check["actual"] in seen
    for row in report["jobs"]:
        assert duration(row["rto"]["median"]) in seen
        assert times_of(row["rto"]["ratio"]) in seen
    for line in report["evidence"]:
        assert line["sha256"] in seen
    assert report["audit"]["head"] in seen
    assert "data/ab/abcdef" in seen


def test_failed_drills_and_no_drill_come_first(full: Quarterly) -> None:
    seen = Reading(render_html(full.report(), "en")).text
    assert seen.index("Drills that failed: 1 of 5.") < seen.index("Drills that passed: 3 of 5.")
    cards = [block for section in document(full.report(), "en").sections for block in section.blocks]
    assert [card.label for card in cards if isinstance(card, Card)] == ["fail", "inconclusive", "pass", "pass", "pass"]


def test_a_quarter_without_drills_reads_like_one(quarterly: Quarterly) -> None:
    seen = Reading(render_html(quarterly.report(), "en")).text
    conclusion = seen.index("Nothing was proven this quarter.")
    assert conclusion < seen.index("No drill was run this quarter: no backup was shown to be restorable.")
    assert "100 %" not in seen
    chinese = Reading(render_html(quarterly.report(), "zh-TW")).text
    assert "本季未執行任何還原演練" in chinese


def test_chinese_html_is_chinese(full: Quarterly) -> None:
    html = render_html(full.report(), "zh-TW")
    assert '<html lang="zh-Hant-TW">' in html
    seen = Reading(html).text
    for word in (
        "季度復原演練報告",
        "備份作業",
        "還原演練",
        "RTO 目標",
        "資通安全長",
        "完整性檢核",
        "缺失與矯正措施",
        "保留限制",
    ):
        assert word in seen


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_html_fetches_nothing_and_runs_nothing(full: Quarterly, language: str) -> None:
    html = render_html(full.report(), language)
    reading = Reading(html)
    assert reading.fetches == []
    assert reading.handlers == []
    assert not {"script", "link", "iframe", "object", "embed", "img", "form", "base"} & set(reading.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in html


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_hostile_names_stay_text(quarterly: Quarterly, language: str) -> None:
    report = hostile(quarterly)
    html = render_html(report, language)
    reading = Reading(html)
    assert "script" not in reading.tags
    assert shown(HOSTILE) in reading.text
    assert "\x1b" not in html
    pdf_bytes = render_pdf(report, language)
    assert pdf_bytes.startswith(b"%PDF-")


def test_every_drawing_is_well_formed_and_has_a_title(quarterly: Quarterly) -> None:
    report = hostile(quarterly)
    figures = _figures([section.blocks for section in document(report, "zh-TW").sections])
    assert len(figures) >= 3
    for figure in figures:
        root = ElementTree.fromstring(figure.svg)
        assert root.findtext("{http://www.w3.org/2000/svg}title") == figure.title
        assert root.get("role") == "img"
        assert root.findtext("{http://www.w3.org/2000/svg}desc")
        assert not root.findall(".//{http://www.w3.org/2000/svg}script")


def _figures(blocks: Any) -> list[Figure]:
    if isinstance(blocks, Figure):
        return [blocks]
    if isinstance(blocks, Card):
        return _figures(blocks.blocks)
    return [found for block in blocks for found in _figures(block)] if isinstance(blocks, list) else []


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_the_same_report_gives_the_same_files(full: Quarterly, language: str) -> None:
    report = full.report()
    assert render_html(report, language) == render_html(report, language)
    assert render_pdf(report, language) == render_pdf(report, language)


@pytest.mark.servers
@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_the_pdf_tells_the_numbers_of_the_json(full: Quarterly, tmp_path: Path, language: str) -> None:
    report = full.report()
    text = pdf_text(report, language, tmp_path)
    assert text.count(report_hash(report)) >= text.count("\f")  # on every page
    assert "✘3/5" in text.replace(" ", "")
    for drill in report["drills"]:
        assert drill["drill"] in text
    for row in report["jobs"]:
        assert duration(row["rto"]["worst"]) in text
        assert times_of(row["rto"]["ratio"]) in text
    for line in report["evidence"]:
        assert line["sha256"] in text
    if language == "zh-TW":
        assert "季度復原演練報告" in text
        assert "資通安全長" in text
    info = subprocess.run(["pdfinfo", tmp_path / "report.pdf"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Tagged:\s+yes", info)


@pytest.mark.servers
def test_the_pdf_shows_hostile_names_as_they_are(quarterly: Quarterly, tmp_path: Path) -> None:
    text = pdf_text(hostile(quarterly), "en", tmp_path)
    squeezed = re.sub(r"[\s\u200b]+", "", text)
    assert "<script>alert(" in squeezed
    assert "#strong[馬達]\\$x$" in squeezed


def pdf_text(report: dict[str, Any], language: str, directory: Path) -> str:
    if shutil.which("pdftotext") is None:
        pytest.fail("pdftotext is missing: install poppler-utils")
    path = directory / "report.pdf"
    path.write_bytes(render_pdf(report, language))
    done = subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, check=True)
    return done.stdout.decode()


def test_a_missing_chinese_font_is_named(full: Quarterly, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = typst.Fonts(include_system_fonts=False)
    monkeypatch.setattr(pdf, "_fonts", lambda directory: bare)
    with pytest.raises(UserError, match="fonts-noto-cjk"):
        render_pdf(full.report(), "zh-TW")
    assert render_pdf(full.report(), "en").startswith(b"%PDF-")  # no Chinese in it
    full.settings = make_settings(organisation="高雄市監理所")
    with pytest.raises(UserError, match="fonts-noto-cjk"):
        render_pdf(full.report(), "en")


def test_a_font_directory_that_is_not_there_is_named(full: Quarterly, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reports\.fonts"):
        render_pdf(full.report(), "en", fonts=tmp_path / "none")


def test_files_have_stable_names_and_are_private(full: Quarterly, tmp_path: Path) -> None:
    report = full.report()
    directory = tmp_path / "new" / "reports"
    paths = write_report(report, directory)
    assert [path.name for path in paths] == [
        "recovery-2026Q4.json", "recovery-2026Q4.en.html", "recovery-2026Q4.zh-TW.html", "recovery-2026Q4.en.pdf",
        "recovery-2026Q4.zh-TW.pdf",
    ]  # fmt: skip
    assert sorted(path.name for path in directory.iterdir()) == sorted(path.name for path in paths)
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert paths[0].read_bytes() == canonical(report)
    assert hashlib.sha256(paths[0].read_bytes()).hexdigest() == report_hash(report)
    assert json.loads(paths[0].read_text()) == report
    write_report(report, directory, formats=("json",))  # again, over what is there


def test_what_cannot_be_written_is_said(full: Quarterly, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"reports\.directory"):
        write_report(full.report(), tmp_path / "file", formats=("json",))
    with pytest.raises(UsageError, match="docx"):
        write_report(full.report(), tmp_path, formats=("docx",))
    with pytest.raises(UsageError, match="language 'fr'"):
        write_report(full.report(), tmp_path, formats=("html",), languages=("fr",))
    assert not list(tmp_path.glob("recovery-*"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "—"), (0, "0 s"), (0.0421, "42 ms"), (4.25, "4.2 s"), (59.96, "60.0 s"), (60, "1 min"), (185, "3 min 05 s"),
     (3600, "1 h"), (3725, "1 h 02 min"), (86400, "1 d"), (97200, "1 d 03 h"), (-5, "−5 s")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_are_never_rounded_to_the_better_side() -> None:
    assert percent(0.9999) == "99.9 %"
    assert percent(1.0) == "100 %"
    assert percent(None) == "—"
    assert times_of(1.0001) == "1.01 ×"
    assert times_of(1.0) == "1.00 ×"
    assert (size(1023), size(1024), size(5_000_000_000), size(None)) == ("1023 B", "1.0 KiB", "4.7 GiB", "—")


def test_direction_tricks_and_control_characters_become_visible() -> None:
    assert shown("a\u202egpj.exe\x00\x1b\n") == "a<U+202E>gpj.exe<U+0000><U+001B> "


def test_many_checks_are_counted_and_the_first_shown(quarterly: Quarterly) -> None:
    quarterly.drill("website/monthly", AT, checks=45)
    seen = Reading(render_html(quarterly.report(), "en")).text
    assert "45 of 45 checks as expected" in seen
    assert "5 more checks were as expected and are in the JSON." in seen
    assert seen.count("equals the fingerprint") == 40 + 1  # and the definition of L4


def test_a_long_quarter_of_many_jobs_can_be_drawn(quarterly: Quarterly) -> None:
    quarterly.settings = make_settings(
        {f"job-{number:02d}-馬達": job(f"job-{number:02d}-馬達") for number in range(25)}
    )
    for number in range(40):
        quarterly.drill(
            f"job-{number % 25:02d}-馬達/monthly", AT - timedelta(hours=number), rto_seconds=60.0 + number * 300
        )
    report = quarterly.report()
    assert "job-24-馬達" in Reading(render_html(report, "zh-TW")).text
    assert render_pdf(report, "zh-TW").startswith(b"%PDF-")
