from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

import backupctl.evidence
from backupctl.catalog.models import RUN_STATES, VERDICTS
from backupctl.errors import UsageError
from backupctl.evidence.labels import LABELS
from backupctl.evidence.sentences import SENTENCES
from backupctl.evidence.texts import LANGUAGES, TEXTS, Words

# Words of the mainland, and simplified characters, that have no place in a report for Taiwan.
FOREIGN = (
    "恢復",
    "數據",
    "文件",
    "服務器",
    "信息",
    "網絡",
    "默認",
    "用戶",
    "字節",
    "備份庫数",
    "审",
    "报",
    "复",
    "备",
    "还",
    "练",
    "归",
    "证",
)
SAME = {"count": ("n", "次數")}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("key", TEXTS)
def test_both_languages_say_the_same_thing(key: str) -> None:
    english, chinese = TEXTS[key]
    assert english.strip()
    assert chinese.strip()
    assert placeholders(english) == placeholders(chinese)
    assert not re.search(r"[\u2e80-\u9fff]", english)
    assert re.search(r"[\u2e80-\u9fff]", chinese) or not re.search(r"[a-z]{3}", english.replace("SHA", ""))
    assert not [word for word in FOREIGN if word in chinese]


def test_no_key_stands_twice() -> None:
    assert not LABELS.keys() & SENTENCES.keys()


def test_no_text_is_left_over_and_none_is_missing() -> None:
    directory = Path(backupctl.evidence.__file__).parent
    sources = "\n".join(
        path.read_text()
        for path in directory.glob("*.py")
        if path.name not in ("texts.py", "labels.py", "sentences.py", "__init__.py")
    )
    values = {*RUN_STATES, *VERDICTS, "low", "medium", "high", "critical", "major", "minor", "structure", "read-data"}
    values |= {f"conclusion_{word}" for word in ("pass", "attention", "none", "fail")}
    values |= {f"{head}_{kind}" for head in ("figure", "achieved") for kind in ("rto", "rpo")}
    values |= {f"{kind}_missed" for kind in ("rto", "rpo")}
    values |= {f"kind_{kind}" for kind in ("drill", "check", "fingerprint", "hold")}
    values |= {f"suspicion_{state}" for state in ("unseen", "acknowledged", "cleared")}
    values |= {f"cell_{letter}" for letter in "cifn-ru."}
    leftover = [key for key in TEXTS if not re.search(rf"""["']{re.escape(key)}["']""", sources) and key not in values]
    assert leftover == []
    asked = set(re.findall(r"""say\(["']([a-z_]+)["']""", sources))
    assert asked - set(TEXTS) == set()
    assert values - set(TEXTS) == set()


def test_the_words_of_the_field() -> None:
    say = Words("zh-TW")
    assert "復原時間目標" in TEXTS["rto_missed"][1]
    assert (say("fail"), say("drill_log"), say("operation")) == ("失敗", "還原演練紀錄", "備份作業")
    assert say.known("something else") == "something else"
    assert LANGUAGES == ("en", "zh-TW")
    with pytest.raises(UsageError, match="choose en or zh-TW"):
        Words("fr")
