"""Comparing directories by everything a backup has to bring back."""

from __future__ import annotations

import os
from pathlib import Path


def tree(root: Path) -> dict[bytes, tuple[object, ...]]:
    """What everything below `root` is: kind and rights, owners, times, content or target, attributes."""
    found: dict[bytes, tuple[object, ...]] = {}
    top = os.fsencode(root)
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            regular = os.path.isfile(path) and not os.path.islink(path)
            content = Path(os.fsdecode(path)).read_bytes() if regular else b""
            target = os.readlink(path) if os.path.islink(path) else b""
            attributes = {
                one: os.getxattr(path, one, follow_symlinks=False) for one in os.listxattr(path, follow_symlinks=False)
            }
            facts = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_rdev, info.st_nlink)
            directory_link_count = facts[:-1] if os.path.isdir(path) else facts
            found[os.path.relpath(path, top)] = (*directory_link_count, content, target, attributes)
    return found
