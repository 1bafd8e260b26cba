"""Putting restored objects into a POSIX file system: the other half of `posix.py`, under the same rules
(standard library only, Python >= 3.6, runs in process and on the far host).

Every path is relative to the root. It is walked one directory descriptor at a time without following links, so a
symbolic link, restored or planted while we work, never leads out of the root.
"""
# ruff: noqa: PTH101 - pathlib knows neither bytes nor directory descriptors

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from backupctl.hosts import posix

_ZEROS = bytes(4096)  # the block of most file systems: smaller runs of zeros make no hole
_TYPES = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "chardev": stat.S_IFCHR, "dev": stat.S_IFBLK}
_TROUBLE = 10_000  # warnings kept until somebody asks for them


class PosixPlacer:
    """Raises OSError when an object cannot be made; what could not be set on it is a line in `warnings`.
    New files are 0600 and new directories 0700 until `metadata`; something other than a directory in the way of a new
    object is removed first."""

    def __init__(self, root: bytes) -> None:
        parent, name = posix.split(root)
        self._root = os.open(parent.rstrip(b"/") + b"/" + name, posix.OPEN_DIRECTORY)
        self._open: list[tuple[bytes, int]] = []
        self.warnings: list[str] = []

    def close(self) -> None:
        self._leave(0)
        os.close(self._root)

    def _leave(self, depth: int) -> None:
        while len(self._open) > depth:
            os.close(self._open.pop()[1])

    def _enter(self, path: bytes) -> "tuple[int, bytes]":
        """An open descriptor of the directory that holds `path`, and the last name. Missing parents are made."""
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if path.startswith(b"/") or b".." in parts or b"\0" in path:
            raise OSError(errno.EINVAL, "not a path inside the target", os.fsdecode(path))
        if not parts:
            return self._root, b"."
        depth = 0
        for (name, _descriptor), part in zip(self._open, parts[:-1]):  # noqa: B905 - Python 3.6
            if name != part:
                break
            depth += 1
        self._leave(depth)
        for part in parts[depth:-1]:
            current = self._open[-1][1] if self._open else self._root
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=current)
            self._open.append((part, os.open(part, posix.OPEN_DIRECTORY, dir_fd=current)))
        return (self._open[-1][1] if self._open else self._root), parts[-1]

    def _clear(self, path: bytes) -> "tuple[int, bytes]":
        parent, name = self._enter(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)  # a directory in the way is an error that names it
        return parent, name

    def directory(self, path: bytes) -> None:
        parent, name = self._enter(path)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise

    def file(self, path: bytes, size: int) -> int:
        """A descriptor to write to. The file has its final size at once, all of it a hole."""
        parent, name = self._clear(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            os.ftruncate(descriptor, size)
        except BaseException:
            os.close(descriptor)
            os.unlink(name, dir_fd=parent)
            raise
        return descriptor

    def remove(self, path: bytes) -> None:
        """Take back a file."""
        self._clear(path)

    def symlink(self, path: bytes, target: bytes) -> None:
        parent, name = self._clear(path)
        os.symlink(target, name, dir_fd=parent)

    def hardlink(self, path: bytes, existing: bytes) -> None:
        parent, name = self._clear(path)
        here = os.dup(parent)  # entering the other path may leave this directory
        try:
            there, old_name = self._enter(existing)
            os.link(old_name, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)

    def special(self, path: bytes, kind: str, device: int) -> None:
        if kind not in _TYPES:
            raise OSError(errno.EINVAL, "not a fifo, socket or device", os.fsdecode(path))
        parent, name = self._clear(path)
        try:
            os.mknod(name, _TYPES[kind] | 0o600, device, dir_fd=parent)
        except PermissionError as error:
            self._warn(path, "not made, a {} needs root".format(kind), error)  # noqa: UP032 - one shape for all lines

    def metadata(self, path: bytes, info: posix.Record) -> None:
        """Owner first, because changing it drops setuid and capabilities; mode last, because xattrs need write access.
        Without the owner a setuid or setgid bit would give away somebody else's rights: it is left out."""
        parent, name = self._enter(path)
        try:
            looking = os.open(name, posix.LOOK_AT | os.O_NOFOLLOW, dir_fd=parent)
        except FileNotFoundError as error:
            if info.kind in ("chardev", "dev"):
                return  # `special` has said so
            raise error
        try:
            now = os.fstat(looking)
            if posix.KINDS.get(stat.S_IFMT(now.st_mode)) != info.kind:
                raise OSError(errno.EINVAL, "is no longer what was restored", os.fsdecode(path))
            mode = info.mode if self._own(path, parent, name, now, info) else info.mode & ~0o6000
            if mode != info.mode:
                self._warn(path, "setuid and setgid left out, because the owner could not be set")
            self._set_xattrs(path, posix.xattr_path(parent, name), info)
            with self._tolerating(path, "times"):
                times = (info.mtime_ns, info.mtime_ns)
                os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
            if info.kind != "symlink":
                with self._tolerating(path, "mode"):
                    os.chmod(b"/proc/self/fd/%d" % looking, mode)
        finally:
            os.close(looking)

    def _own(self, path: bytes, parent: int, name: bytes, now: os.stat_result, info: posix.Record) -> bool:
        if (now.st_uid, now.st_gid) == (info.uid, info.gid):
            return True
        try:
            os.chown(name, info.uid, info.gid, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            self._warn(path, "owner {}:{} not set".format(info.uid, info.gid), error)  # noqa: UP032 - as above
            with contextlib.suppress(OSError):  # the group alone may be allowed; the line above stands either way
                os.chown(name, -1, info.gid, dir_fd=parent, follow_symlinks=False)
            return False
        return True

    def _set_xattrs(self, path: bytes, where: bytes, info: posix.Record) -> None:
        wanted = dict(info.xattrs)
        with contextlib.suppress(OSError):  # inherited ACLs that the source did not have
            for text in os.listxattr(where, follow_symlinks=False):
                if text.startswith("system.posix_acl_") and os.fsencode(text) not in wanted:
                    os.removexattr(where, text, follow_symlinks=False)
        for attribute, value in info.xattrs:
            with self._tolerating(path, "xattr " + os.fsdecode(attribute)):
                os.setxattr(where, attribute, value, follow_symlinks=False)

    @contextlib.contextmanager
    def _tolerating(self, path: bytes, what: str) -> "Iterator[None]":
        try:
            yield
        except OSError as error:
            self._warn(path, what + " not set", error)

    def _warn(self, path: bytes, what: str, error: "OSError | None" = None) -> None:
        if len(self.warnings) < _TROUBLE:
            shown = path.decode("utf-8", "backslashreplace")
            self.warnings.append(shown + ": " + what + (": " + str(error.strerror) if error else ""))

    def take_warnings(self) -> "list[str]":
        taken, self.warnings = self.warnings, []
        return taken


def write_at(descriptor: int, offset: int, data: bytes) -> None:
    """Write into a file fresh from `PosixPlacer.file`, leaving whole blocks of zeros as holes."""
    view, start, block = memoryview(data), 0, -offset % len(_ZEROS)
    while block + len(_ZEROS) <= len(data):
        after = block + len(_ZEROS)
        if data.startswith(_ZEROS, block):
            _pwrite_all(descriptor, view[start:block], offset + start)
            start = after
        block = after
    _pwrite_all(descriptor, view[start:], offset + start)


def _pwrite_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
