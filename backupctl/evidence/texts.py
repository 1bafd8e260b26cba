"""Every word of the report, in English and in Traditional Chinese as used in Taiwan. Placeholders are `str.format` names."""

from __future__ import annotations

from typing import Literal

from backupctl.errors import UsageError
from backupctl.evidence.labels import LABELS
from backupctl.evidence.sentences import SENTENCES

Language = Literal["en", "zh-TW"]
LANGUAGES: tuple[Language, ...] = ("en", "zh-TW")
TEXTS: dict[str, tuple[str, str]] = LABELS | SENTENCES


class Words:
    """The words of one language."""

    def __init__(self, language: str) -> None:
        if language not in LANGUAGES:
            raise UsageError(f"no report in language {language!r}", next_step="choose en or zh-TW")
        self.language = language
        self._index = LANGUAGES.index(language)

    def __call__(self, key: str, **values: object) -> str:
        return TEXTS[key][self._index].format(**values)

    def known(self, key: str) -> str:
        """The word for a value of the catalog, or the value itself when it is not one of ours."""
        return TEXTS[key][self._index] if key in TEXTS else key

    @property
    def comma(self) -> str:
        return "、" if self.language == "zh-TW" else ", "

    @property
    def between_sentences(self) -> str:
        return "" if self.language == "zh-TW" else " "
