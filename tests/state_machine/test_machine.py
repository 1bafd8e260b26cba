"""The machine with a small profile; with BACKUPCTL_SOAK=1 for as long as anybody wants to wait."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from backupctl.repository.blob_saver import BlobSaver
from backupctl.repository.repacking import Repacker
from tests.interop.stock import newest, required
from tests.soak import rounds
from tests.state_machine.machine import BackupMachine


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of 48 KiB, so that a few small files are several packs and a prune has something to do."""
    for made in (BlobSaver, Repacker):
        monkeypatch.setitem(made.__init__.__kwdefaults__, "target_bytes", 48 << 10)  # type: ignore[index]  # they have defaults


def profile(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=os.environ.get("BACKUPCTL_SOAK") is None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        print_blob=True,
    )


def test_anything_may_happen() -> None:
    run_state_machine_as_test(BackupMachine, settings=profile(rounds(6, 300), rounds(25, 60)))


@pytest.mark.servers
def test_anything_may_happen_and_restic_agrees() -> None:
    required()
    program = newest()

    class WithRestic(BackupMachine):
        restic = program

    run_state_machine_as_test(WithRestic, settings=profile(rounds(4, 100), rounds(20, 60)))
