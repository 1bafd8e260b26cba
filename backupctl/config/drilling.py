"""The scenarios that a drill may follow, by name. What each does is in the room `drills`, above this one."""

from __future__ import annotations

from typing import Literal

ScenarioName = Literal[
    "full",
    "single-file",
    "mock-attack",
    "loss-of-orchestrator",
    "stock-restic",
    "corrupted-objects",
    "second-destination",
    "key-holder-lost",
    "notification",
    "software-rebuild",
    "point-in-time",
    "destructive-statement",
    "credential-rotated",
    "standby-promotion",
]
