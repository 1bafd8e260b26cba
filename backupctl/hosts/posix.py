"""Reading a POSIX file system, written once: called in process on this machine, sent as text to the far Python.

Standard library only, Python >= 3.6 (hence the quoted annotations), no imports from the rest of the house. Everything
goes by directory descriptors without following links: nobody who renames directories while we walk leads us elsewhere.
`placing.py` is its other half, for writing.
"""
# ruff: noqa: PTH101, PTH102, PTH112, PTH123, PTH208 - pathlib knows neither bytes nor directory descriptors

import contextlib
import errno
import grp
import os
import platform
import pwd
import re
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "dev",
}
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LOOK_AT = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC


class Record(NamedTuple):
    """The fields of `protocol.FileInfo` in its order; a test holds the two together."""

    path: bytes
    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    device_id: int = 0
    links: int = 0
    device: int = 0
    linktarget: bytes = b""
    xattrs: "tuple[tuple[bytes, bytes], ...]" = ()
    error: str = ""


class Excludes:
    """Patterns as `Host.scan` describes them, compiled into one expression for names and one for whole paths. Paths without
    wildcards, of which there may be thousands, are looked up."""

    def __init__(self, patterns: "Sequence[str]") -> None:
        self._name = self._compile([pattern for pattern in patterns if "/" not in pattern])
        paths = [pattern for pattern in patterns if "/" in pattern]
        self._exact = {pattern.rstrip("/") or "/" for pattern in paths if not any(sign in pattern for sign in "*?[")}
        self._path = self._compile([pattern for pattern in paths if any(sign in pattern for sign in "*?[")])

    @staticmethod
    def _compile(patterns: "list[str]") -> "re.Pattern[str] | None":
        return re.compile("|".join(translate(pattern) for pattern in patterns), re.DOTALL) if patterns else None

    def match(self, path: bytes, name: bytes) -> bool:
        if self._name and self._name.fullmatch(name.decode("utf-8", "surrogateescape")):
            return True
        if not self._path and not self._exact:
            return False
        text = path.decode("utf-8", "surrogateescape")
        return text in self._exact or bool(self._path and self._path.fullmatch(text))


def translate(pattern: str) -> str:
    """A pattern as a regular expression: `*` and `?` stop at `/`, `**` does not, `**/` also matches nothing."""
    pattern = pattern.rstrip("/") or "/"
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
        elif pattern.startswith("**", i):
            out, i = out + ".*", i + 2
        elif pattern[i] == "*":
            out, i = out + "[^/]*", i + 1
        elif pattern[i] == "?":
            out, i = out + "[^/]", i + 1
        elif pattern[i] == "[" and "]" in pattern[i + 2 :]:
            end = pattern.index("]", i + 2)
            body = pattern[i + 1 : end]
            negated = body[0] in "!^" and len(body) > 1
            inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", body[1:] if negated else body)
            out, i = out + "(?!/)[" + ("^" if negated else "") + inside + "]", end + 1
        else:
            out, i = out + re.escape(pattern[i]), i + 1
    return out


_names: "dict[tuple[str, int], str]" = {}


def user_name(uid: int) -> str:
    return _cached_name("user", uid)


def group_name(gid: int) -> str:
    return _cached_name("group", gid)


def _cached_name(what: str, number: int) -> str:
    key = (what, number)
    if key not in _names:
        try:
            _names[key] = pwd.getpwuid(number).pw_name if what == "user" else grp.getgrgid(number).gr_name
        except KeyError:
            _names[key] = ""
    return _names[key]


def record(
    path: bytes, status: os.stat_result, linktarget: bytes = b"", xattrs: "tuple[tuple[bytes, bytes], ...]" = ()
) -> Record:
    kind = KINDS.get(stat.S_IFMT(status.st_mode), "")
    return Record(
        path=path,
        kind=kind or "file",
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        user=user_name(status.st_uid),
        group=group_name(status.st_gid),
        size=status.st_size if kind == "file" else 0,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
        device_id=status.st_dev,
        links=status.st_nlink,
        device=status.st_rdev if kind in ("dev", "chardev") else 0,
        linktarget=linktarget,
        xattrs=xattrs,
        error="" if kind else "unknown type of file",
    )


def split(path: bytes) -> "tuple[bytes, bytes]":
    """Parent directory and last name of an absolute path. `/` gives (`/`, `.`)."""
    if not path.startswith(b"/") or b"\0" in path:
        raise OSError(errno.EINVAL, "not an absolute path", os.fsdecode(path))
    parent, _, name = path.rstrip(b"/").rpartition(b"/")
    return parent or b"/", name or b"."


def look(parent: int, name: bytes, path: bytes) -> Record:
    """lstat, link target and extended attributes of one name in an open directory. Raises OSError."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    target = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else b""
    return record(path, status, target, read_xattrs(parent, name))


def xattr_path(parent: int, name: bytes) -> bytes:
    # there is no listxattrat: the kernel resolves this through the open descriptor, however deep the tree is
    return b"/proc/self/fd/%d/%s" % (parent, name)


def read_xattrs(parent: int, name: bytes) -> "tuple[tuple[bytes, bytes], ...]":
    """Sorted by name, raw. ACLs are among them. What may not be read belongs to a file whose content may not be read
    either, which opening it reports."""
    return _xattrs(xattr_path(parent, name), follow=False)


def open_xattrs(descriptor: int) -> "tuple[tuple[bytes, bytes], ...]":
    """The same of an open file, in a third of the time."""
    return _xattrs(descriptor, follow=True)


def _xattrs(place: "int | bytes", *, follow: bool) -> "tuple[tuple[bytes, bytes], ...]":
    if not hasattr(os, "listxattr"):
        return ()
    found = []
    try:
        names = os.listxattr(place, follow_symlinks=follow)
        for attribute in sorted(os.fsencode(text) for text in names) if names else ():
            with contextlib.suppress(PermissionError):
                found.append((attribute, os.getxattr(place, attribute, follow_symlinks=follow)))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.ENOENT, errno.EACCES, errno.EPERM):
            raise
    return tuple(found)


def lstat(path: bytes) -> "Record | None":
    parent_path, name = split(path)
    try:
        parent = os.open(parent_path, LOOK_AT | os.O_DIRECTORY)
        try:
            return look(parent, name, path)
        finally:
            os.close(parent)
    except (FileNotFoundError, NotADirectoryError):
        return None


def scan(root: bytes, exclude: "Sequence[str]" = (), only: "Sequence[bytes]" = ()) -> "Iterator[Record]":
    """As `Host.scan`. Holds one descriptor and one list of names per level."""
    parent_path, name = split(root)
    excludes = Excludes(exclude)
    root = root.rstrip(b"/") or b"/"
    ways = ways_to(root, only)
    stack: list[tuple[int, bytes, Iterator[bytes]]] = []
    try:
        parent = os.open(parent_path, LOOK_AT | os.O_DIRECTORY)
    except OSError as error:
        yield Record(root, "dir", error=str(error.strerror))
        return
    try:
        stack.append((parent, parent_path, iter([name])))
        while stack:
            directory, where, names = stack[-1]
            current = next(names, None)
            if current is None:
                os.close(stack.pop()[0])
                continue
            path = where.rstrip(b"/") + b"/" + current if len(stack) > 1 else root
            if len(stack) > 1 and excludes.match(path, current):
                continue
            try:
                found = look(directory, current, path)
            except OSError as error:
                if where not in ways or not isinstance(error, FileNotFoundError):  # nobody saw it in a directory
                    yield Record(path, "file", error=str(error.strerror))
                continue
            if found.kind == "dir":
                try:
                    inside = os.open(current, OPEN_DIRECTORY, dir_fd=directory)
                except OSError as error:
                    yield found._replace(error=str(error.strerror))
                    continue
                stack.append((inside, path, iter(())))
                try:
                    listed = ways[path] if path in ways else sorted(os.fsencode(text) for text in os.listdir(inside))
                except OSError as error:
                    yield found._replace(error=str(error.strerror))
                    continue
                stack[-1] = (inside, path, iter(listed))
            yield found
    finally:
        for directory, _where, _names in stack:
            os.close(directory)


def ways_to(root: bytes, only: "Sequence[bytes]") -> "dict[bytes, list[bytes]]":
    """The directories on the way from `root` down to `only`, each with the names to go on with. Raises OSError for what
    does not lie below `root`."""
    ways: dict[bytes, set[bytes]] = {}
    for one in only:
        at = root
        inside = one[len(root.rstrip(b"/")) :].split(b"/")[1:] if one != root else []
        if not (one == root or one.startswith(root.rstrip(b"/") + b"/")) or {b"", b".", b".."} & set(inside):
            raise OSError(errno.EINVAL, "not below what is to be scanned", os.fsdecode(one))
        for name in inside:
            ways.setdefault(at, set()).add(name)
            at = at.rstrip(b"/") + b"/" + name
    for one in only:
        ways.pop(one, None)
    return {path: sorted(names) for path, names in ways.items()}


def open_regular(path: bytes) -> "tuple[int, os.stat_result]":
    """A descriptor for reading and its fstat. Never follows a final link, never blocks on a fifo, leaves atime alone
    where we may. Raises OSError, also when it is no regular file."""
    split(path)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # O_NOATIME is for the owner and root; without permission to read, this raises again
        descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status


def differs(before: os.stat_result, descriptor: int) -> bool:
    now = os.fstat(descriptor)
    return (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (before.st_size, before.st_mtime_ns, before.st_ctime_ns)


def create(path: bytes, mode: int) -> int:
    """A descriptor for a new file; FileExistsError when the name is taken, by a link too."""
    split(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    os.fchmod(descriptor, mode)  # whatever the umask says
    return descriptor


def write_all(descriptor: int, data: "bytes | memoryview") -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def finish_writing(descriptor: int) -> None:
    """fsync and close. The descriptor is gone afterwards even when this raises."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_directory(path: bytes) -> "list[bytes]":
    split(path)
    return sorted(os.listdir(path))


def make_directory(path: bytes, mode: int) -> None:
    parent, name = split(path)
    if os.path.isdir(path):
        return
    if name != b"." and not os.path.isdir(parent):
        make_directory(parent, mode)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
        os.chmod(path, mode)
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))


def remove_tree(path: bytes) -> None:
    """As `Host.remove_tree`. One descriptor per level; directories without permission bits are opened up first."""
    parent_path, name = split(path)
    if name in (b".", b".."):
        raise OSError(errno.EINVAL, "refusing to remove this directory", os.fsdecode(path))
    try:
        parent = os.open(parent_path, LOOK_AT | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    remove_below(parent, name)


def remove_below(parent: int, name: bytes) -> None:
    """The same for a name in an open directory, which is closed."""
    stack = [(parent, b"", [name])]
    try:
        while stack:
            directory, own_name, names = stack[-1]
            if not names:
                os.close(stack.pop()[0])
                if stack:
                    os.rmdir(own_name, dir_fd=stack[-1][0])
                continue
            current = names.pop()
            try:
                if stat.S_ISDIR(os.stat(current, dir_fd=directory, follow_symlinks=False).st_mode):
                    inside = _open_anyway(directory, current)
                    stack.append((inside, current, []))
                    stack[-1] = (inside, current, [os.fsencode(text) for text in os.listdir(inside)])
                else:
                    os.unlink(current, dir_fd=directory)
            except FileNotFoundError:
                continue
    finally:
        for directory, _own_name, _rest in stack:
            os.close(directory)


def _open_anyway(directory: int, name: bytes) -> int:
    looking = os.open(name, LOOK_AT | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        if stat.S_IMODE(os.fstat(looking).st_mode) & 0o700 != 0o700:
            with contextlib.suppress(OSError):  # not ours to change: opening or unlinking says so
                os.chmod(b"/proc/self/fd/%d" % looking, 0o700)
        return os.open(b"/proc/self/fd/%d/." % looking, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(looking)


def free_bytes(path: bytes) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def facts() -> "dict[str, str | int | dict[str, str]]":
    """The fields of `protocol.HostFacts`."""
    name = os.uname()
    uid = os.geteuid()
    release = dict(
        line.split("=", 1) for line in _text("/etc/os-release", "/usr/lib/os-release").splitlines() if "=" in line
    )
    return {
        "hostname": name.nodename,
        "machine_id": _text("/etc/machine-id", "/var/lib/dbus/machine-id").strip(),
        "system": release.get("PRETTY_NAME", name.sysname).strip("\"'"),
        "kernel": name.release,
        "uid": uid,
        "user": user_name(uid),
        "python": platform.python_version(),
        "extra": {"machine": name.machine},
    }


def _text(*paths: str) -> str:
    for path in paths:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    return ""
