"""A promotion that is killed goes on, begins one epoch, and is never undone by a refresh."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupctl.clock import SystemClock
from backupctl.config.load import load
from backupctl.errors import CouldNotRunError, UserError
from backupctl.operations import standby, standby_promotion
from backupctl.operations.backup import run_backup
from backupctl.operations.context import Context
from backupctl.operations.setup import create_repository
from backupctl.repository.fence import FencedOffError, find_began, find_fence
from backupctl.scheduling.dispatch import enqueue_now

CONFIG = """\
version: 1
repositories: {main: {storage: {local: {path: repository}}, password: {file: key}}}
standby:
  warm: {host: local, jobs: [site], directory: warm}
  other: {host: local, jobs: [site], directory: other}
jobs:
  site:
    sources: {www: {files: {paths: [www]}}}
    repository: main
    objectives: {rpo: 24h, rto: 2h}
"""
STEPS = (
    "backupctl.operations.standby_promotion._fence",
    "backupctl.operations.standby_promotion._bring_the_rest",
    "backupctl.operations.standby_place.Place.write",
    "backupctl.operations.standby_promotion._promote",
    "backupctl.operations.standby_promotion.save_began",
)


class Killed(BaseException):
    pass


def back_up(context: Context) -> None:
    queued = enqueue_now(context.catalog, context.clock, "backup", "site")
    run = context.catalog.claim(queued.id, "test")
    assert run is not None
    state = "failed"
    try:
        state = run_backup(context, run).state
    finally:
        context.catalog.finish(run.id, run.epoch, state, exit_code=0 if state == "complete" else 1)


def opened(root: Path) -> Context:
    return Context.open(load(root / "backupctl.yaml"), clock=SystemClock())


def promote(context: Context, name: str = "warm") -> list[standby_promotion.Handover]:
    return standby_promotion.apply(context, name, standby_promotion.plan(context, name))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("promotion")
    (root / "www").mkdir()
    (root / "www" / "page").write_text("hello")
    (root / "backupctl.yaml").write_text(CONFIG)
    with opened(root) as context:
        create_repository(context, "main")
        back_up(context)
        for name in ("warm", "other"):
            list(standby.refresh(context, name))
    return root


def test_killed_at_every_step_it_goes_on(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prepared / "www" / "late").write_text("stored before the fence")
    with opened(prepared) as context:
        back_up(context)
    for step in STEPS:

        def killed(*given: object, **named: object) -> None:
            raise Killed

        with monkeypatch.context() as patch, opened(prepared) as context:
            patch.setattr(step, killed)
            with pytest.raises(Killed):
                promote(context)
        with opened(prepared) as context:
            if step != STEPS[0]:
                with pytest.raises(FencedOffError):
                    back_up(context)
                with pytest.raises(CouldNotRunError, match="standby warm on host local was promoted"):
                    promote(context, "other")
    with opened(prepared) as context:
        for _ in range(2):  # the second time finds everything done
            (done,) = promote(context)
            assert done.epoch == 2
        repository = context.resources.repository("main")
        assert find_began(repository, "site", 2) is not None
        assert find_fence(repository, "site", 3) is None
        live = prepared / "warm" / "files" / "site" / "www" / str(prepared / "www").lstrip("/")
        assert (live / "late").read_text() == "stored before the fence"
        for again in (standby.refresh(context, "warm"), standby.stop(context, "warm")):
            with pytest.raises(UserError, match="what is there is live"):
                list(again)
