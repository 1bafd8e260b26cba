"""Put a report on disk: whole or not at all, readable by its owner only, under names that never change."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backupctl.errors import UsageError, UserError
from backupctl.evidence.canonical import canonical
from backupctl.evidence.html import render_html
from backupctl.evidence.pdf import render_pdf

FORMATS = ("json", "html", "pdf")


def write_report(
    report: dict[str, Any],
    directory: Path,
    formats: Sequence[str] = FORMATS,
    languages: Sequence[str] = ("en", "zh-TW"),
    *,
    fonts: Path | None = None,
) -> list[Path]:
    """Write `recovery-2026Q4.json`, `recovery-2026Q4.en.html`, … and return their paths, JSON first.

    The JSON file is always written: the others print its hash. Nothing is written unless everything could be rendered.
    UsageError for an unknown format, UserError when the directory cannot be written or a font is missing.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise UsageError(f"no report format {unknown[0]!r}", next_step="choose from json, html, pdf")
    stem = f"recovery-{report['quarter']['name']}"
    files = {f"{stem}.json": canonical(report)}
    renderers: dict[str, Callable[[str], bytes]] = {
        "html": lambda language: render_html(report, language).encode(),
        "pdf": lambda language: render_pdf(report, language, fonts=fonts),
    }
    for name in (name for name in FORMATS[1:] if name in formats):
        for language in languages:
            files[f"{stem}.{language}.{name}"] = renderers[name](language)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return [_write(directory / name, data) for name, data in files.items()]
    except OSError as error:
        raise UserError(
            f"the report could not be written to {directory}: {error.strerror}",
            next_step="name a directory that can be written in reports.directory",
        ) from error


def _write(path: Path, data: bytes) -> Path:
    """Temporary file beside it (0600), fsync, rename, fsync of the directory."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path
