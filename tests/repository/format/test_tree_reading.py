"""Reading trees quickly gives what reading them carefully gives, and nothing that the latter refuses."""

from __future__ import annotations

import random

import pytest

from backupctl.repository.format import FormatError
from backupctl.repository.format.node import Node
from backupctl.repository.format.tree import decode_tree, encode_tree
from backupctl.repository.format.tree_reading import _read_written, read_tree

PLAIN = [
    Node(
        b"a file", "file", 0o4755, 1_700_000_000_123_456_789, 1, -1, 1, 2, "u", "g", 3, 4, 5, 6, content=[bytes(32)] * 3
    ),
    Node(b"dir", "dir", 0o1777, 0, 0, 0, subtree=b"\x01" * 32),
    Node(b"empty", "file", 0, 951_782_399_999_999_999, 4_102_444_799_000_000_000, 0, content=[]),
    Node("ünïcode".encode(), "symlink", 0o777, 5, 5, 5, linktarget="zíel".encode(), links=1),
    Node(b"zero", "chardev", 0o600, 5, 5, 5, device=259),
]
STRANGE = [
    Node(b'quo"te', "file", content=[]),
    Node(b"\xff", "file", content=[]),
    Node(b"x", "file", xattrs=[(b"user.a", b"1")], content=[]),
    Node(b"x", "symlink", linktarget=b"\xff"),
]


def test_what_we_write_is_read_quickly() -> None:
    data = encode_tree(PLAIN)
    assert _read_written(data) == decode_tree(data) == read_tree(data)
    assert _read_written(encode_tree([])) == []


@pytest.mark.parametrize("node", STRANGE)
def test_the_rest_is_read_carefully(node: Node) -> None:
    data = encode_tree([*PLAIN, node])
    assert _read_written(data) is None
    assert read_tree(data) == decode_tree(data)


def test_both_agree_about_what_is_broken() -> None:
    data, chance = encode_tree([*PLAIN, Node(b"x", "fifo")]), random.Random(1)
    seen = set()
    for _ in range(4000):
        start = chance.randrange(len(data))
        new = bytes(chance.choices(b'0123456789:TZ"{}[],\\./-x', k=chance.randrange(3)))
        broken = data[:start] + new + data[start + chance.randrange(4) :]
        try:
            expected: object = decode_tree(broken)
        except FormatError:
            expected = FormatError
        try:
            found: object = read_tree(broken)
        except FormatError:
            found = FormatError
        assert found == expected, broken
        seen.add(expected is FormatError)
    assert seen == {True, False}
