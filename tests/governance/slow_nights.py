"""Many nights of measures, without files: what the cumulative rule says where only time tells harmless from slow poison.

A source with three types of file, of which some are rewritten each night; of those a share, the same every night, has a random
block or does not begin as its name says without any harm. Everything follows from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from backupctl.governance.anomalies import carried, judge

SEEDS = 10
HARMLESS_NIGHTS = 400
BEFORE = 30  # nights before an attack
LONGEST = 60
SHARES = (0.0, 0.005, 0.01, 0.02, 0.04)
POISON = (4.0, 2.0, 1.0, 0.5, 0.33, 0.2)  # files a night


@dataclass
class Source:
    rng: random.Random
    share: float
    """Of the rewritten texts that have a random block, harmlessly; of pictures that are none, a fifth of it."""

    def night(self, poisoned: float = 0.0) -> dict[str, Any]:
        html, txt, jpg = (self.rng.randrange(*span) for span in ((4, 40), (2, 20), (0, 8)))
        bad = [0, 0, 0]
        for _ in range(int(poisoned) + (self.rng.random() < poisoned % 1)):
            bad[self.rng.randrange(3)] += 1
        looks = {
            "html": self._texts(html, bad[0]),
            "txt": self._texts(txt, bad[1]),
            "jpg": self._pictures(jpg, bad[2]),
        }
        source = {"files": 2_000, "files_before": 2_000, "bytes": 10**8, "bytes_before": 10**8}
        return {"sources": {"www": {**source, "rewritten": html + txt + jpg, "looks": {"rewritten": looks}}}}

    def _texts(self, files: int, bad: int) -> list[int]:
        odd = bad + self._some(files, self.share)
        return [files + bad, files + bad, odd, odd, 0, 0]

    def _pictures(self, files: int, bad: int) -> list[int]:
        total, wrong = files + bad, bad + self._some(files, self.share / 5)
        return [total, total, total, total, total, wrong]

    def _some(self, count: int, share: float) -> int:
        return sum(self.rng.random() < share for _ in range(count))


def harmless(share: float) -> int:
    """False alarms; each is cleared by a person, as it would be."""
    alarms = 0
    for seed in range(SEEDS):
        source, past = Source(random.Random(f"{seed} {share}"), share), {}
        for _ in range(HARMLESS_NIGHTS):
            measures = source.night()
            suspicious = judge(measures, past).suspicious
            alarms += suspicious
            past = carried(past, measures, everything=suspicious)
    return alarms


def attacked(rate: float, share: float) -> Iterator[int | None]:
    """For each seed the night of the attack on which it is seen."""
    for seed in range(SEEDS):
        source, past = Source(random.Random(f"{seed} {share} {rate}"), share), {}
        for _ in range(BEFORE):
            past = carried(past, source.night())
        for night in range(1, LONGEST + 1):
            measures = source.night(rate)
            if judge(measures, past).suspicious:
                yield night
                break
            past = carried(past, measures)
        else:
            yield None


def false_alarms() -> dict[float, int]:
    return {share: harmless(share) for share in SHARES}


def table(alarms: dict[float, int]) -> list[str]:
    lines = [
        "## Many nights",
        "",
        "What adds up over nights has to be judged over many of them: here measures are made up without files, some 35",
        f"rewritten files a night, {SEEDS} seeds per cell. A share of the texts has a random block every night, harmlessly (an",
        "embedded picture), and a fifth of that share of the pictures is none. False alarms in",
        f"{SEEDS * HARMLESS_NIGHTS:,} nights, and the median night of an attack on which it is seen, when that is within",
        f"{LONGEST}; in brackets for how many seeds it is.",
        "",
        "| harmless share | false alarms | " + " | ".join(f"{rate:g} files a night" for rate in POISON) + " |",
        "|---|---|" + "---|" * len(POISON),
    ]
    for share, count in alarms.items():
        cells = []
        for rate in POISON:
            found = list(attacked(rate, share))
            seen = [night for night in found if night is not None]
            cells.append(f"{median(seen):g} ({len(seen)} of {len(found)})" if seen else "never")
        lines.append(f"| {share:.1%} | {count} | " + " | ".join(cells) + " |")
    return [*lines, ""]


if __name__ == "__main__":
    print("\n".join(table(false_alarms())))
