"""Mounts the snapshots of a repository as `JOB/2026-11-22T02:15:00Z/…`, read-only, in the foreground."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any

from backupctl.errors import NoSuchError, UsageError, UserError
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, of_job
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.mount import Folder, SnapshotFileSystem

_INSTALL = "pip install 'backupctl[mount]', and as root: apt-get install fuse3"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def mount(
    context: Context,
    directory: Path,
    *,
    repository: str | None = None,
    job: str | None = None,
    allow_other: bool = False,
    ready: Callable[[], None],
) -> None:
    """Returns when the mount ended: by SIGINT, SIGTERM, or `umount`. `ready` is called once it stands. The snapshots are
    those that are there now; a shared lock keeps prune away meanwhile.

    Raises UsageError for a directory that is not empty, UserError without the library or the kernel's part of FUSE."""
    name = _repository_name(context, repository, job)
    fuse = _library()
    _require_mount_point(directory)
    opened = context.resources.repository(name)
    with opened.lock():
        root = layout(opened.snapshots(), job)
        if not root.entries:
            raise NoSuchError(
                f"{name} holds no snapshot" + (f" of {job}" if job else ""), next_step="backupctl snapshots"
            )
        shown = {"repository": name, "job": job or "", "allow_other": allow_other}
        context.audit("mount.started", str(directory), **shown)  # whoever reads there is not seen by us
        with closing(SnapshotFileSystem(opened, root, uid=os.geteuid(), gid=os.getegid(), ready=ready)) as file_system:
            _serve(fuse, file_system, directory, allow_other=allow_other, source=f"backupctl:{name}")
        context.audit("mount.ended", str(directory), **shown)


def layout(snapshots: Sequence[Snapshot], job: str | None = None) -> Folder:
    """A folder per job with its snapshots by time (UTC), incomplete ones marked in the name, and `latest`, which leads to the
    newest complete one. What backupctl did not make is under `foreign`, by time and id."""
    jobs = sorted({tags.job for one in snapshots if (tags := SnapshotTags.of(one)).ours})
    entries: dict[bytes, Folder | Snapshot | bytes] = {}
    for name in jobs if job is None else [one for one in jobs if one == job]:
        entries[os.fsencode(name)] = _job_folder(of_job(snapshots, name))
    foreign = [one for one in snapshots if not SnapshotTags.of(one).ours]
    if foreign and job is None and b"foreign" not in entries:
        entries[b"foreign"] = Folder({_stamp(one) + b"-" + one.short_id.encode(): one for one in foreign})
    return Folder(entries)


def _job_folder(snapshots: Sequence[Snapshot]) -> Folder:
    entries: dict[bytes, Folder | Snapshot | bytes] = {}
    for one in snapshots:
        complete = SnapshotTags.of(one).complete
        name = _stamp(one) + (b"" if complete else b"-incomplete")
        if name in entries:  # within one second
            name += b"-" + one.short_id.encode()
        entries[name] = one
        if complete:
            entries[b"latest"] = name
    return Folder(dict(sorted(entries.items())))


def _stamp(snapshot: Snapshot) -> bytes:
    return snapshot.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def _repository_name(context: Context, repository: str | None, job: str | None) -> str:
    if repository is not None:
        if repository not in context.settings.repositories:
            known = ", ".join(context.settings.repositories)
            raise NoSuchError(f"no repository named {repository!r}; known: {known}", next_step="backupctl config show")
        return repository
    if job is not None:
        return context.job(job).repository
    names = list(context.settings.repositories)
    if len(names) == 1:
        return names[0]
    raise UsageError("name the repository, or a job with --job", next_step=f"one of: {', '.join(names)}")


def _library() -> Any:
    try:
        import mfusepy
    except ImportError:
        raise UserError(
            "mounting needs the Python package mfusepy, which is not installed", next_step=_INSTALL
        ) from None
    except (OSError, AttributeError) as error:
        raise UserError(f"mounting needs libfuse: {error}", next_step=_INSTALL) from None
    if not Path("/dev/fuse").exists():
        raise UserError(
            "this system has no /dev/fuse", next_step="as root: modprobe fuse; in a container: --device /dev/fuse"
        )
    return mfusepy


def _require_mount_point(directory: Path) -> None:
    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory", next_step=f"mkdir {directory}")
    try:
        filled = next(directory.iterdir(), None)
    except OSError as error:
        hint = f"fusermount3 -u {directory}" if error.errno == errno.ENOTCONN else f"ls -ld {directory}"
        raise UsageError(f"{directory}: {error.strerror}", next_step=hint) from None
    if filled is not None:
        raise UsageError(f"{directory} is not empty", next_step="mount on an empty directory: mkdir DIRECTORY")


def _serve(fuse: Any, file_system: SnapshotFileSystem, directory: Path, *, allow_other: bool, source: str) -> None:
    # libfuse ends its loop on a signal only where nobody else handles it; Python's handlers would not even run in there
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _SIGNALS}
    try:
        fuse.FUSE(
            file_system,
            str(directory),
            foreground=True,
            ro=True,
            use_ino=True,
            kernel_cache=True,  # what is in a snapshot never changes
            attr_timeout=3600,
            entry_timeout=3600,
            fsname=source.replace(",", "_"),
            subtype="backupctl",
            **({"allow_other": True, "default_permissions": True} if allow_other else {}),
        )
    except RuntimeError as error:
        if not file_system.unmounted:  # libfuse 3 also calls a signal an error
            raise UserError(
                f"{directory} could not be mounted (libfuse says why above; status {error})",
                next_step="try it as root; for others than yourself: user_allow_other in /etc/fuse.conf",
            ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
