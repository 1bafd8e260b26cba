"""Which primary counts is decided once, in the store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backupctl.errors import DamageError
from backupctl.repository.check import check
from backupctl.repository.fence import (
    Began,
    Fence,
    FencedOffError,
    Turning,
    copy_fences,
    find_began,
    find_fence,
    raise_fence,
    refuse_diverged,
    require_epoch,
    save_began,
)
from tests.repository.helpers import new_repository

SPARE = Fence("site", 2, "spare", "spare1", "ops", "2026-11-20T03:00:00Z")


def test_the_first_to_promote_is_the_primary() -> None:
    repo = new_repository()
    require_epoch(repo, "site", 1)
    assert raise_fence(repo, SPARE) == SPARE
    assert raise_fence(repo, replace(SPARE, standby="other", created="later")) == SPARE
    require_epoch(repo, "site", 2)
    require_epoch(repo, "another job", 1)
    with pytest.raises(FencedOffError, match="standby spare on host spare1"):
        require_epoch(repo, "site", 1)
    with pytest.raises(FencedOffError, match="never began"):
        require_epoch(repo, "site", 3)
    raise_fence(repo, replace(SPARE, epoch=3))
    with pytest.raises(FencedOffError):
        require_epoch(repo, "site", 2)
    assert check(repo, read_data=True).problems == []


def test_a_fence_that_cannot_be_read_lets_nobody_through() -> None:
    repo = new_repository()
    raise_fence(repo, SPARE)
    (info,) = repo.store.list("backupctl/fence/")
    whole = repo.store.get(info.name)
    for spoilt in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        repo.store.put(info.name, spoilt)
        with pytest.raises(DamageError):
            require_epoch(repo, "site", 1)
        with pytest.raises(DamageError):
            raise_fence(repo, SPARE)
    assert [problem.object_name for problem in check(repo, read_data=True).problems] == [info.name]
    raise_fence(other := new_repository(), SPARE)
    (elsewhere,) = other.store.list("backupctl/fence/")
    assert elsewhere.name != info.name, "the store does not learn which job it is of"


def test_log_behind_the_turn_is_nobody_s() -> None:
    began = Began("site", 2, {"db": Turning("42", 1, 0x2000000, 2)})
    refuse_diverged(None, "42", 1, 0x9000000)
    refuse_diverged(began, "42", 1, 0x2000000)
    refuse_diverged(began, "42", 2, 0x9000000)
    refuse_diverged(began, "43", 1, 0x9000000)
    with pytest.raises(FencedOffError, match="timeline 1 ended at 0/2000000"):
        refuse_diverged(began, "42", 1, 0x2000001)


def test_fences_go_along_with_a_new_master_key() -> None:
    old, new = new_repository(), new_repository()
    began = Began("site", 3, {"db": Turning("42", 1, 7, 2)})
    for epoch in (2, 3):
        raise_fence(old, replace(SPARE, epoch=epoch))
    save_began(old, began)
    assert copy_fences(old, new, "site") == copy_fences(old, new, "site") == 2
    assert (find_fence(new, "site", 3), find_began(new, "site", 3)) == (replace(SPARE, epoch=3), began)
    with pytest.raises(FencedOffError):
        require_epoch(new, "site", 2)
