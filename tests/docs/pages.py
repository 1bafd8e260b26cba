"""What the documentation's pages hold: links, headings, console blocks, YAML blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
PAGES = sorted(
    [*DOCS.rglob("*.md"), *(PROJECT / name for name in ("README.md", "jobs/README.md", "ansible/README.md"))]
)
_FENCE = re.compile(r"^ *(?:\d+\. )?```(\S*)[^\n]*\n(.*?)^ *```\s*$", re.M | re.S)  # also inside list items


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is where its content begins."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    found = [(text.count("\n", 0, match.start(2)) + 1, match) for match in _FENCE.finditer(text)]
    return [Block(page, line, match[1], dedent(match[2])) for line, match in found if match[1] == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text()))


def links(page: Path) -> list[str]:
    """Targets of links that stay in the project."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What headings are called in links: lower case, words joined by dashes."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def typed(block: Block) -> list[str]:
    """The lines a reader types, continuation lines joined, without the prompt ($ or, as root, #)."""
    joined = block.text.replace("\\\n", " ")
    return [line[2:] for line in joined.splitlines() if line.startswith(("$ ", "# "))]
