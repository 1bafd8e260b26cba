"""The same document as PDF, drawn by Typst. Data reaches the template as JSON, never as markup."""

from __future__ import annotations

import json
import re
from datetime import UTC
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import typst

from backupctl.clock import parse_iso
from backupctl.errors import UserError
from backupctl.evidence.view import document

# Families with the glyphs of Traditional Chinese, best first.
CHINESE = (
    "Noto Sans CJK TC",
    "Noto Sans TC",
    "Source Han Sans TC",
    "PingFang TC",
    "Microsoft JhengHei",
    "Noto Sans CJK JP",
    "Noto Serif CJK TC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "AR PL UMing TW",
)
LATIN = ("Noto Sans", *CHINESE, "DejaVu Sans", "Libertinus Serif")  # the last comes with Typst
_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def render_pdf(report: dict[str, Any], language: str, *, fonts: Path | None = None) -> bytes:
    """The report in one language; the same report, fonts and Typst give the same bytes.

    `fonts` is a directory with further font files. UserError when Chinese has to be drawn and no font can.
    """
    page = document(report, language)
    data = json.dumps(page.as_dict(), ensure_ascii=False)
    found = _fonts(fonts)
    families = set(found.families())
    chinese = [family for family in CHINESE if family in families]
    if _WIDE.search(data) and not chinese:
        raise UserError(
            "the PDF report has Chinese text and there is no font to draw it with",
            next_step="install fonts-noto-cjk (Debian), or put a font file into a directory and name it in reports.fonts",
        )
    stack = list(dict.fromkeys([next(family for family in LATIN if family in families), *chinese[:1]]))
    template = files("backupctl.evidence").joinpath("templates/recovery.typ").read_bytes()
    try:
        pdf = typst.compile(
            template,
            font_paths=found,
            sys_inputs={"document": data, "fonts": json.dumps([*stack, "DejaVu Sans Mono"])},
            timestamp=parse_iso(page.generated).astimezone(UTC).replace(microsecond=0),  # Typst takes whole seconds
            # Tagged, but not declared PDF/UA: that standard turns one name in a script without a font into no report at all.
            pdf_tags=True,
        )
    except typst.TypstError as error:
        raise UserError(
            f"the PDF report could not be drawn: {error.message}", next_step="use --format html,json"
        ) from error
    return bytes(pdf)


@lru_cache(maxsize=4)
def _fonts(directory: Path | None) -> typst.Fonts:
    if directory is not None and not directory.is_dir():
        raise UserError(
            f"the font directory {directory} does not exist", next_step="correct reports.fonts in the configuration"
        )
    return typst.Fonts(font_paths=[directory] if directory else [])
