"""A command that executes a run forks before it has imported anything: the child does all of it, and the one that waits holds
little more than the interpreter. Should the child be killed in the middle of its run, that one closes the run."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import click

from backupctl.cli.main import main, output_of
from backupctl.cli.session import open_context
from backupctl.hosts import child

_telling: int | None = None
"""In the child: a pipe to the one that waits."""

_ROOM = 4096  # more than is ever told


def watched() -> int | None:
    """None in the process that shall go on with the command. In the one that waits for it, once that has ended: its exit
    code. Where a fork is not safe the command goes on in this process, and nobody watches it."""
    arguments = click.get_current_context().find_root().ensure_object(dict).get("arguments")
    if _telling is not None or arguments is None or not child.may_fork():
        return None
    hearing, telling = os.pipe()
    started = child.ForkedChild(partial(_inside, telling), arguments)
    os.close(telling)
    try:
        with child.PassSignals(started):
            code = started.wait()
        output_of().inner = not started.killed  # else it has said itself how all of it ended
        os.set_blocking(hearing, False)  # what the child left behind may hold the pipe open
        try:
            told = os.read(hearing, _ROOM).decode().splitlines()
        except BlockingIOError:
            told = []
    finally:
        os.close(hearing)
    if told and told[-1]:
        from backupctl.scheduling.launch import settled

        return settled(open_context().catalog, told[-1], code)
    return code


def is_watched() -> bool:
    return _telling is not None


def observed(run_id: str, execute: Callable[[], int]) -> int:
    """`execute()`, which executes this run; who watches us knows it meanwhile."""
    assert _telling is not None
    os.write(_telling, f"{run_id}\n".encode())
    code = execute()
    os.write(_telling, b"\n")
    return code


def _inside(telling: int, arguments: list[str]) -> None:
    global _telling
    _telling = telling
    main(arguments)
