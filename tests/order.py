"""The files that take longest go first, so that no processor waits for the last of them.

xdist (`--dist loadfile`) hands files out in this order with `--no-loadscope-reorder`; by itself it begins with those of most tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

LONGEST = (
    "interop/test_matrix.py",
    "faults/test_crash.py",
    "end_to_end/test_ansible.py",
    "end_to_end/test_standby_mariadb.py",
    "faults/test_resume.py",
    "end_to_end/test_databases.py",
    "end_to_end/test_units.py",
    "end_to_end/test_main_job.py",
    "damage/test_postgresql_physical.py",
    "faults/test_signals.py",
    "sources/test_postgresql_physical.py",
    "end_to_end/test_software.py",
    "interop/test_restic_repair.py",
    "hosts/test_ssh.py",
    "interop/test_restic.py",
    "end_to_end/test_point_in_time.py",
    "end_to_end/test_ansible_lock.py",
    "end_to_end/test_isolated.py",
    "end_to_end/test_standby.py",
    "end_to_end/test_ssh.py",
    "end_to_end/test_s3.py",
    "end_to_end/test_s3_scenarios.py",
    "conformance/test_storage.py",
    "sources/test_redis.py",
    "drills/test_servers.py",
    "scheduling/test_dividing.py",
    "end_to_end/test_repair.py",
    "golden/test_golden.py",
    "end_to_end/test_notices.py",
    "scheduling/test_following.py",
    "end_to_end/test_browse.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable: within a file, and among the other files, everything keeps its order."""
    here = Path(__file__).parent
    rank = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
