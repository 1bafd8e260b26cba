"""Scenarios by name. A module is imported when its scenario is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import get_args

from backupctl.config.drilling import ScenarioName
from backupctl.drills.scenarios.protocol import Scenario
from backupctl.errors import NoSuchError

NAMES: tuple[str, ...] = get_args(ScenarioName)


def scenario_of(name: str) -> Scenario:
    """Raises NoSuchError."""
    if name not in NAMES:
        raise NoSuchError(
            f"no scenario named {name!r}; there are {', '.join(NAMES)}", next_step="backupctl drill scenarios"
        )
    found: Scenario = import_module(f"backupctl.drills.scenarios.{name.replace('-', '_')}").SCENARIO
    return found
