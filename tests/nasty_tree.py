"""A directory with everything in it that has ever broken a backup."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

CHUNK = 512 * 1024
NAMES = [
    b"plain.txt",
    b"bad-\xff\xc3-utf8",
    b"latin-\xe9",
    b'quote"s',
    b"single'quote",
    b"back\\slash",
    b"looks\\x41escaped",
    b"new\nline",
    b"tab\tbell\x07del\x7f",
    b" leading and trailing ",
    b"<html>&amp;",
    "資料備份".encode(),
    "emoji😀".encode(),
    "new-emoji\U0001fae8".encode(),
    "nbsp\u00a0zero\u200bline\u2028".encode(),
    "e\u0301 decomposed".encode(),
    b"-rf",
    b"*?[x]",
    b"n" * 255,
]


def build_nasty_tree(root: Path) -> None:
    """Build it in `root`, which must exist and be empty. Without root's rights: without devices and foreign owners."""
    top = os.fsencode(root)
    rng = random.Random(20261122)

    def write(name: bytes, content: bytes, *, mode: int = 0o644, mtime_ns: int = 1_700_000_000_123_456_789) -> bytes:
        path = os.path.join(top, name)
        with open(path, "wb") as stream:
            stream.write(content)
        os.chmod(path, mode)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        return path

    for name in (b"names", b"sizes", b"links", b"special", b"times", b"modes", b"xattrs", b"deep"):
        os.mkdir(os.path.join(top, name))
    for name in NAMES:
        write(b"names/" + name, name)
    os.mkdir(os.path.join(top, b"names/dir-\xfe"))
    write(b"names/dir-\xfe/inside", b"inside")
    # siblings whose order differs between bytes of names and bytes of paths
    os.mkdir(os.path.join(top, b"names/order"))
    write(b"names/order/file", b"1")
    write(b"names/order-file", b"2")
    write(b"names/order.file", b"3")

    for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 << 20):
        write(b"sizes/%d" % size, rng.randbytes(size))
    write(b"sizes/copy", (root / "sizes" / str(3 << 20)).read_bytes())
    with open(os.path.join(top, b"sizes/sparse"), "wb") as stream:
        stream.truncate(20 << 20)
        stream.seek(5 << 20)
        stream.write(b"island")
        stream.truncate(20 << 20)
    os.mkdir(os.path.join(top, b"sizes/empty-directory"))

    first = write(b"links/first", b"linked content")
    os.link(first, os.path.join(top, b"links/second"))
    os.link(first, os.path.join(top, b"special/third"))
    os.symlink(b"first", os.path.join(top, b"links/relative"))
    os.symlink(b"nowhere/at/all", os.path.join(top, b"links/dangling"))
    os.symlink(b"bad-\xff-target", os.path.join(top, b"links/not-utf8"))
    os.symlink(b"../names", os.path.join(top, b"links/directory"))
    os.utime(os.path.join(top, b"links/relative"), ns=(1_000_000_007, 1_000_000_007), follow_symlinks=False)

    os.mkfifo(os.path.join(top, b"special/fifo"), 0o640)
    if os.geteuid() == 0:
        os.mknod(os.path.join(top, b"special/null"), 0o020666, os.makedev(1, 3))
        os.mknod(os.path.join(top, b"special/loop"), 0o060660, os.makedev(7, 3))
        os.chown(write(b"modes/owned", b"owned"), 12345, 54321)

    for name, mtime_ns in (
        (b"now-ns", 1_700_000_000_000_000_001),
        (b"whole-second", 1_700_000_000_000_000_000),
        (b"epoch", 0),
        (b"before-1970", -86_400_000_000_001),
        (b"1901", -2_147_483_648_000_000_000),
        (b"2100", 4_102_444_800_987_654_321),
    ):
        write(b"times/" + name, b"", mtime_ns=mtime_ns)

    for mode in (0o000, 0o400, 0o600, 0o755, 0o777, 0o4755, 0o2755, 0o6711):
        write(b"modes/%04o" % mode, b"%o" % mode, mode=mode)
    os.mkdir(os.path.join(top, b"modes/sticky"))
    os.chmod(os.path.join(top, b"modes/sticky"), 0o1777)
    os.mkdir(os.path.join(top, b"modes/setgid"))
    os.chmod(os.path.join(top, b"modes/setgid"), 0o2750)
    os.mkdir(os.path.join(top, b"modes/read-only"))
    write(b"modes/read-only/inside", b"inside")
    os.chmod(os.path.join(top, b"modes/read-only"), 0o555)

    _xattrs(top, write(b"xattrs/file", b"attributes"), write(b"xattrs/acl", b"acl"))

    path = b"deep"
    for level in range(60):
        path += b"/level-%02d" % level
        os.mkdir(os.path.join(top, path))
    write(path + b"/bottom", b"bottom")
    for directory, _, _ in os.walk(top, topdown=False):
        os.utime(directory, ns=(1_600_000_000_987_654_321, 1_600_000_000_987_654_321))


def _xattrs(top: bytes, plain: bytes, acl: bytes) -> None:
    """Attributes and an ACL, where the file system has them."""
    try:
        os.setxattr(plain, b"user.text", b"value")
        os.setxattr(plain, b"user.empty", b"")
        os.setxattr(plain, b"user.binary", bytes(range(256)))
        os.setxattr(os.path.join(top, b"xattrs"), b"user.directory", b"yes")
    except OSError:
        return
    # acl_ea_header version 2; owner rw, user 12345 r, group r, mask r, others none (linux/posix_acl_xattr.h)
    entries = [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 12345),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(acl, b"system.posix_acl_access", value)
    except OSError:
        return
