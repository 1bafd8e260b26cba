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
from typing import Tuple  # noqa: UP035 - Python 3.6

from backupctl.hosts import posix

_ZEROS = bytes(4096)  # the block of most file systems: smaller runs of zeros make no hole
_TYPES = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "chardev": stat.S_IFCHR, "dev": stat.S_IFBLK}
_MOST = (1 << 63) - 1  # what a file's size can be
_NOBODY = (1 << 32) - 1
_TROUBLE = 10_000  # warnings kept until somebody asks for them
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WITHOUT_OWNER = "setuid and setgid left out, because the owner could not be set"


Facts = Tuple[int, int, int, int, Tuple[Tuple[bytes, bytes], ...]]  # noqa: UP006 - Python 3.6
"""Mode, uid, gid, mtime in ns, xattrs."""


class PosixPlacer:
    """Raises OSError when an object cannot be made; what could not be set on it is a line in `warnings`.
    New files are 0600 and new directories 0700 until `metadata`; something other than a directory in the way of a new
    object is removed first."""

    def __init__(self, root: bytes) -> None:
        parent, name = posix.split(root)
        self._root = os.open(parent.rstrip(b"/") + b"/" + name, posix.OPEN_DIRECTORY)
        self._open: list[tuple[bytes, int]] = []
        self._entered: tuple[bytes, int] = (b"", self._root)  # the directory at the end of `_open`, by its path
        self._inherits: dict[int, bool] = {}  # open directories: whether new files get an ACL from them
        self.warnings: list[str] = []

    def identity(self) -> "tuple[int, int]":
        """Device and inode of the root: what has these is the same directory."""
        now = os.fstat(self._root)
        return now.st_dev, now.st_ino

    def close(self) -> None:
        self._leave(0)
        os.close(self._root)

    def _leave(self, depth: int) -> None:
        while len(self._open) > depth:
            descriptor = self._open.pop()[1]
            self._inherits.pop(descriptor, None)
            os.close(descriptor)

    def _enter(self, path: bytes) -> "tuple[int, bytes]":
        """An open descriptor of the directory that holds `path`, and the last name. Missing parents are made."""
        where, _, last = path.rpartition(b"/")
        if where and where == self._entered[0] and last not in (b"", b".", b"..") and b"\0" not in last:
            return self._entered[1], last
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
        self._entered = (b"", self._root)
        for part in parts[depth:-1]:
            self._open.append((part, _open_or_make(part, self._open[-1][1] if self._open else self._root)))
        parent = self._open[-1][1] if self._open else self._root
        self._entered = (where, parent)
        return parent, parts[-1]

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
        if size > _MOST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fsdecode(path))
        parent, name = self._enter(path)
        try:
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            os.unlink(name, dir_fd=parent)  # a directory in the way is an error that names it
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if size:
                os.ftruncate(descriptor, size)
        except BaseException:
            os.close(descriptor)
            os.unlink(name, dir_fd=parent)
            raise
        return descriptor

    def reopen(self, path: bytes) -> int:
        """A descriptor of a file that `file` made, to write more of it."""
        parent, name = self._enter(path)
        descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        now = os.fstat(descriptor)
        if not stat.S_ISREG(now.st_mode) or now.st_nlink != 1:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is no longer what was restored", os.fsdecode(path))
        return descriptor

    def finish(self, path: bytes, descriptor: int, facts: "Facts") -> None:
        """What `metadata` does, for a file fresh from `file` whose descriptor is still open."""
        parent = self._entered[1]
        if parent not in self._inherits:
            self._inherits[parent] = _has_default_acl(parent)
        self._finish(path, descriptor, facts, bool(facts[4]) or self._inherits[parent])

    def _finish(self, path: bytes, descriptor: int, facts: "Facts", with_xattrs: bool) -> None:
        mode, uid, gid, mtime_ns, xattrs = facts
        if not self._own(path, descriptor, os.fstat(descriptor), uid, gid) and mode & 0o6000:
            mode &= ~0o6000
            self._warn(path, _WITHOUT_OWNER)
        if with_xattrs:
            self._set_xattrs(path, descriptor, xattrs)
        try:  # not `_tolerating`: a context manager costs more than the call
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        except OSError as error:
            self._warn(path, "times not set", error)
        try:
            os.fchmod(descriptor, mode)
        except OSError as error:
            self._warn(path, "mode not set", error)

    def remove(self, path: bytes) -> None:
        """Whatever is there, with all below it."""
        parent, name = self._enter(path)
        if name == b".":
            raise OSError(errno.EINVAL, "refusing to remove the target itself", os.fsdecode(path))
        posix.remove_below(os.dup(parent), name)
        self._leave(0)  # what was open may be what is gone
        self._entered = (b"", self._root)

    def symlink(self, path: bytes, target: bytes) -> None:
        if b"\0" in target:
            raise OSError(errno.EINVAL, "not a link target", os.fsdecode(path))
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
        if info.kind == "dir" and self._directory_metadata(path, info):
            return
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
            mode = info.mode if self._own(path, name, now, info.uid, info.gid, parent) else info.mode & ~0o6000
            if mode != info.mode:
                self._warn(path, _WITHOUT_OWNER)
            self._set_xattrs(path, posix.xattr_path(parent, name), info.xattrs)
            with self._tolerating(path, "times"):
                times = (info.mtime_ns, info.mtime_ns)
                os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
            if info.kind != "symlink":
                with self._tolerating(path, "mode"):
                    os.chmod(b"/proc/self/fd/%d" % looking, mode)
        finally:
            os.close(looking)

    def _directory_metadata(self, path: bytes, info: posix.Record) -> bool:
        """By a descriptor, in two thirds of the time that names and /proc take; False for a directory that cannot be read."""
        parent, name = self._enter(path)
        try:
            descriptor = os.open(name, posix.OPEN_DIRECTORY, dir_fd=parent)
        except OSError:
            return False
        try:
            self._finish(path, descriptor, (info.mode, info.uid, info.gid, info.mtime_ns, info.xattrs), True)
        finally:
            os.close(descriptor)
        return True

    def _own(
        self,
        path: bytes,
        what: "int | bytes",
        now: os.stat_result,
        uid: int,
        gid: int,
        parent: "int | None" = None,
    ) -> bool:
        """`what` is an open file, or a name in `parent`."""
        if now.st_uid == uid and now.st_gid == gid:
            return True
        follow = parent is None
        try:
            if _NOBODY in (uid, gid):  # to the system that number means: leave it as it is
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            os.chown(what, uid, gid, dir_fd=parent, follow_symlinks=follow)
        except OSError as error:
            self._warn(path, "owner {}:{} not set".format(uid, gid), error)  # noqa: UP032 - as above
            with contextlib.suppress(OSError):  # the group alone may be allowed; the line above stands either way
                os.chown(what, -1, -1 if gid == _NOBODY else gid, dir_fd=parent, follow_symlinks=follow)
            return False
        return True

    def _set_xattrs(self, path: bytes, where: "int | bytes", xattrs: "tuple[tuple[bytes, bytes], ...]") -> None:
        follow = isinstance(where, int)
        wanted = dict(xattrs)
        with contextlib.suppress(OSError):  # inherited ACLs that the source did not have
            for text in os.listxattr(where, follow_symlinks=follow):
                if text.startswith("system.posix_acl_") and os.fsencode(text) not in wanted:
                    os.removexattr(where, text, follow_symlinks=follow)
        for attribute, value in xattrs:
            with self._tolerating(path, "xattr " + os.fsdecode(attribute)):
                if b"\0" in attribute:
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                os.setxattr(where, attribute, value, follow_symlinks=follow)

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


def _open_or_make(name: bytes, parent: int) -> int:
    """A descriptor of that directory. Mostly it is there."""
    try:
        return os.open(name, posix.OPEN_DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        return os.open(name, posix.OPEN_DIRECTORY, dir_fd=parent)


def is_zeros(data: bytes) -> bool:
    return not data or (data[0] == 0 and data[-1] == 0 and data.count(0) == len(data))


def _has_default_acl(directory: int) -> bool:
    try:
        return "system.posix_acl_default" in os.listxattr(directory)
    except OSError:  # a file system without xattrs
        return False


def write_at(descriptor: int, offset: int, data: bytes) -> None:
    """Write into a file fresh from `PosixPlacer.file`, leaving whole blocks of zeros as holes."""
    block = -offset % len(_ZEROS)
    if 0 not in data[block :: len(_ZEROS)]:  # most content: no block begins with a zero
        _pwrite_all(descriptor, data, offset)
        return
    view, start = memoryview(data), 0
    while block + len(_ZEROS) <= len(data):
        after = block + len(_ZEROS)
        if data.startswith(_ZEROS, block):
            _pwrite_all(descriptor, view[start:block], offset + start)
            start = after
        block = after
    _pwrite_all(descriptor, view[start:], offset + start)


def write_whole(descriptor: int, data: bytes) -> None:
    """The same for all of a file that `PosixPlacer.file` made without its size."""
    if 0 in data[:: len(_ZEROS)]:  # it may end in a hole
        os.ftruncate(descriptor, len(data))
    write_at(descriptor, 0, data)


def _pwrite_all(descriptor: int, data: "bytes | memoryview", offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        if written == len(data):
            return
        data, offset = memoryview(data)[written:], offset + written
