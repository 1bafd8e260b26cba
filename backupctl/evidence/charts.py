"""Hand-written SVG: no script, no style from outside, readable in grey print.

Meaning is carried by shape and words, never by colour alone. Drawings hold few words, and none that would need a font of
their own; `title` says what a reader who cannot see the drawing needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from xml.sax.saxutils import escape, quoteattr

INK, GREY, PALE, LINE = "#1f2933", "#5f6c7b", "#eef1f4", "#c3cbd3"
GOOD, WARN, BAD = "#2f6f4f", "#b7791f", "#a4262c"
FONT = "'Noto Sans CJK TC','Noto Sans TC','PingFang TC','Microsoft JhengHei','Noto Sans','DejaVu Sans',sans-serif"
WIDTH = 720.0


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    value_text: str
    limit: float | None = None
    limit_text: str = ""


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Achieved against objective: one bar per row on its own scale, the objective a vertical mark.

    Each row is scaled by its own objective, because objectives of minutes and days cannot share an axis: the mark stands
    at the same place in every row, and a bar that passes it has missed.
    """
    left, mark, right, step = 190.0, 430.0, 560.0, 34.0
    parts = []
    for number, row in enumerate(rows):
        y = 8 + number * step
        share = row.value / row.limit if row.limit else 0.0
        missed = share > 1
        end = left + (mark - left) * min(share, (right - left) / (mark - left))
        parts.append(_text(left - 10, y + 15, _cut(row.label, 24), anchor="end", weight=600))
        parts.append(f'<rect x="{left}" y="{y}" width="{right - left}" height="20" fill="{PALE}"/>')
        fill = BAD if missed else GOOD
        parts.append(f'<rect x="{left}" y="{y}" width="{max(2.0, end - left):.1f}" height="20" fill="{fill}"/>')
        if missed:  # hatched, so that it shows in grey
            parts.append(_hatch(mark, y, max(0.0, end - mark), 20))
        parts.append(f'<path d="M{mark} {y - 4}V{y + 24}" stroke="{INK}" stroke-width="2"/>')
        parts.append(_sign(right + 14, y + 10, "x" if missed else "v", fill))
        parts.append(_text(right + 28, y + 9, row.value_text, weight=600, size=11))
        parts.append(_text(right + 28, y + 22, row.limit_text, fill=GREY, size=9.5))
    said = "; ".join(f"{row.label}: {row.value_text} / {row.limit_text}" for row in rows)
    return _svg(title, said, WIDTH, 8 + len(rows) * step, parts)


def phases(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """The phases of one drill, end to end: each bar begins where the one before it ended."""
    left, right, step = 190.0, 610.0, 20.0
    total = sum(seconds for _, seconds, _ in rows) or 1.0
    parts, x = [], left
    for number, (name, seconds, text) in enumerate(rows):
        y = 4 + number * step
        width = (right - left) * seconds / total
        parts.append(_text(left - 10, y + 11, _cut(name, 26), anchor="end", size=10.5))
        parts.append(f'<path d="M{left} {y + 7.5}H{right}" stroke="{PALE}" stroke-width="1"/>')
        parts.append(f'<rect x="{x:.1f}" y="{y + 1}" width="{max(1.5, width):.1f}" height="13" fill="{GREY}"/>')
        parts.append(_text(right + 12, y + 11, text, size=10.5))
        x += width
    return _svg(title, "; ".join(f"{name}: {text}" for name, _, text in rows), WIDTH, 6 + len(rows) * step, parts)


def calendar(
    title: str, days: Sequence[date], rows: Sequence[tuple[str, str]], legend: Sequence[tuple[str, str]]
) -> str:
    """One cell per day and job. `rows` is (job, one letter per day); `legend` is (letter, word)."""
    left, cell_width, step = 130.0, 6.3, 22.0
    parts = []
    for number, day in enumerate(days):
        if day.day == 1:
            x = left + number * cell_width
            parts.append(_text(x, 11, f"{day:%Y-%m}", size=10, fill=GREY))
            parts.append(f'<path d="M{x - 0.5:.1f} 15V{18 + len(rows) * step:.1f}" stroke="{LINE}"/>')
    for number, (job, letters) in enumerate(rows):
        y = 18 + number * step
        parts.append(_text(left - 10, y + 13, _cut(job, 17), anchor="end", size=10.5, weight=600))
        parts.extend(
            _day(left + index * cell_width, y, cell_width - 0.9, 17, letter) for index, letter in enumerate(letters)
        )
    y, x = 18 + len(rows) * step + 8, left
    for letter, word in legend:
        parts.append(_day(x, y, 10, 12, letter))
        parts.append(_text(x + 15, y + 10, word, size=10, fill=GREY))
        x += 27 + _width(word, 10)
    said = "; ".join(
        f"{job}: " + ", ".join(f"{word} {letters.count(key)}" for key, word in legend) for job, letters in rows
    )
    return _svg(title, said, WIDTH, y + 16, parts)


def trend(title: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """The drills in order: (day, sign, word), the sign v, x or ! in a row, a legend by the words under it."""
    step = min(60.0, (WIDTH - 40) / max(1, len(rows)))
    parts = []
    every = max(1, round(62 / step))
    for number, (day, sign, _) in enumerate(rows):
        x = 30 + number * step
        parts.append(_sign(x, 12, sign, {"v": GOOD, "x": BAD}.get(sign, WARN)))
        if number % every == 0:
            parts.append(_text(x, 34, day, anchor="middle", size=9.5, fill=GREY))
    return _svg(title, "; ".join(f"{day}: {word}" for day, _, word in rows), WIDTH, 40, parts)


def _day(x: float, y: float, width: float, height: float, letter: str) -> str:
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    middle = y + height / 2
    match letter:
        case "c":
            return f'<rect {box} fill="{GOOD}"/>'
        case "i":  # lower half full
            half = f'<rect x="{x:.1f}" y="{middle:.1f}" width="{width:.1f}" height="{height / 2:.1f}" fill="{WARN}"/>'
            return f'<rect {box} fill="#fff" stroke="{WARN}" stroke-width="0.8"/>{half}'
        case "f":  # crossed
            cross = f"M{x:.1f} {y:.1f}l{width:.1f} {height:.1f}m0 {-height:.1f}l{-width:.1f} {height:.1f}"
            return f'<rect {box} fill="#fff" stroke="{BAD}"/><path d="{cross}" stroke="{BAD}" stroke-width="1.3" fill="none"/>'
        case "n":  # empty frame
            return f'<rect {box} fill="#fff" stroke="{BAD}" stroke-width="1"/>'
        case "r":
            return f'<rect {box} fill="#fff" stroke="{GREY}" stroke-width="0.8" stroke-dasharray="2 1.5"/>'
        case "u":
            return f'<rect {box} fill="{LINE}"/>'
        case "-":
            return f'<path d="M{x:.1f} {middle:.1f}h{width:.1f}" stroke="{GREY}" stroke-width="1"/>'
    return f'<rect {box} fill="{PALE}"/>'


def _sign(x: float, y: float, sign: str, fill: str) -> str:
    """A tick, a cross or an exclamation mark in a disc, square or triangle: distinct without colour."""
    if sign == "v":
        path = f"M{x - 3.6} {y + 0.2}l2.6 2.8 4.8 -5.8"
        return f'<circle cx="{x}" cy="{y}" r="7.5" fill="{fill}"/><path d="{path}" stroke="#fff" stroke-width="1.8" fill="none"/>'
    if sign == "x":
        path = f"M{x - 3} {y - 3}l6 6m0 -6l-6 6"
        box = f'<rect x="{x - 7}" y="{y - 7}" width="14" height="14" fill="{fill}"/>'
        return f'{box}<path d="{path}" stroke="#fff" stroke-width="1.8" fill="none"/>'
    triangle = f'<path d="M{x} {y - 8}l8 14.5h-16z" fill="{fill}"/>'
    return f'{triangle}<path d="M{x} {y - 3}v4.5m0 1.6v1.4" stroke="#fff" stroke-width="1.6"/>'


def _hatch(x: float, y: float, width: float, height: float) -> str:
    count = int(width // 6)
    lines = "".join(f"M{x + 6 * (n + 1):.1f} {y:.1f}l-6 {height:.1f}" for n in range(count))
    return f'<path d="{lines}" stroke="#fff" stroke-width="1.4"/>' if lines else ""


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: float = 12, weight: int = 400, fill: str = INK
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"


def _svg(title: str, description: str, width: float, height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" aria-label={quoteattr(title)}'
    names = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    return f'{head} font-family="{FONT}">{names}{"".join(parts)}</svg>'


def _width(text: str, size: float) -> float:
    return sum(size if ord(letter) > 0x2E80 else size * 0.56 for letter in text)


def _cut(text: str, count: int) -> str:
    """At most `count` columns; a wide letter takes two."""
    taken = 0
    for number, letter in enumerate(text):
        taken += 2 if ord(letter) > 0x2E80 else 1
        if taken > count:
            return text[: max(1, number - 1)] + "…"
    return text
