"""Canonical trees: names, strings, times and modes as restic writes them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tracemalloc
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupctl.repository.format import FormatError
from backupctl.repository.format.gojson import go_string, iterate_list
from backupctl.repository.format.names import display_name, quote_name, unquote_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.printable import is_printable
from backupctl.repository.format.times import format_time, parse_time
from backupctl.repository.format.tree import decode_tree, encode_node, encode_tree, go_mode, iterate_tree, unix_mode


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (b"tab\tnl\n\x01\x7f", r"tab\tnl\n\x01\x7f"),
        (b"bad\xff\xc3", r"bad\xff\xc3"),
        ("\u00a0".encode(), r"\u00a0"),
        ("é\u200b\u2028😀".encode(), "é\\u200b\\u2028😀"),
        (b'a"b<', r"a\"b<"),
        (b"q\\x41", r"q\\x41"),
        (b"\a\b\f\r\v", r"\a\b\f\r\v"),
        ("\U0001fae8".encode(), "\U0001fae8"),  # Unicode 15.0
        ("\U0001fae9".encode(), r"\U0001fae9"),  # Unicode 16.0
        ("\U0002ebf0".encode(), r"\U0002ebf0"),  # Unicode 15.1
        ("\ufffd\ufeff\u00ad".encode(), "\ufffd\\ufeff\\u00ad"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),  # a surrogate is not UTF-8
    ],
)
def test_name_vectors(name: bytes, quoted: str) -> None:
    assert quote_name(name) == quoted
    assert unquote_name(quoted) == name


def test_both_layers() -> None:
    assert go_string(quote_name(b'a"b<')) == r'"a\\\"b\u003c"'
    assert go_string("\b\f\n\r\t\x01\x7f/&>\u2028") == '"\\b\\f\\n\\r\\t\\u0001\x7f/\\u0026\\u003e\\u2028"'
    assert go_string("\udcff\ufffd") == '"\\ufffd\ufffd"'


@given(st.binary(min_size=1, max_size=40))
def test_names_round_trip(name: bytes) -> None:
    assert unquote_name(quote_name(name)) == name
    assert json.loads(go_string(quote_name(name))) == quote_name(name)
    display_name(name).encode()


@pytest.mark.parametrize("text", ["\\'", "\\q", 'a"b', "a\nb", "\\", "\\x4", "\\ud800", "\\U00110000", "\\777"])
def test_bad_escapes_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        unquote_name(text)


def test_octal_escapes_are_read() -> None:
    assert unquote_name("\\101") == b"A"


def test_printable_table_agrees_with_this_interpreter_where_it_can() -> None:
    """Code points assigned before Unicode 13 never changed their kind; the interpreter knows at least those."""
    assert hashlib.sha256(bytes(is_printable(code) for code in range(0x110000))).hexdigest() == TABLE_SHA256
    if unicodedata.unidata_version == "15.0.0":
        assert all(is_printable(code) == chr(code).isprintable() for code in range(0x110000))
    assert all(is_printable(code) for code in range(0x20, 0x7F))
    assert not any(is_printable(code) for code in (*range(0x20), 0x7F, 0xD800, 0x10FFFF))


TABLE_SHA256 = "a24a109bc8e347f9490466c59e4160d0dc9dd1006a5be9a4c91af71cd2e7fa99"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (120_000_000, "1970-01-01T00:00:00.12Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1685613600_000000001, "2023-06-01T10:00:00.000000001Z"),
        (951782400_000000000, "2000-02-29T00:00:00Z"),
        (-62135596800_000000000, "0001-01-01T00:00:00Z"),
        (-62167219200_000000000, "0000-01-01T00:00:00Z"),
        (253402300799_999999999, "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_time_vectors(ns: int, text: str) -> None:
    assert format_time(ns) == text
    assert parse_time(text) == ns


def test_times_of_other_zones_and_out_of_range() -> None:
    assert parse_time("2023-06-01T12:00:00.12+02:00") == parse_time("2023-06-01T10:00:00.12Z")
    assert parse_time("1970-01-01T00:59:59.123456789+01:00") == -876543211
    assert format_time(10**21).startswith("9999-")
    assert format_time(-(10**21)).startswith("0000-")


@pytest.mark.parametrize(
    "text",
    ["", "2023-06-01T12:00:00", "2023-06-01 12:00:00Z", "2023-02-29T00:00:00Z", "2023-13-01T00:00:00Z", None, 7],
)
def test_bad_times_are_refused(text: object) -> None:
    with pytest.raises(FormatError):
        parse_time(text)


@given(st.integers(-62167219200 * 10**9, 253402300799 * 10**9))
def test_times_round_trip(ns: int) -> None:
    assert parse_time(format_time(ns)) == ns


@pytest.mark.parametrize(
    ("kind", "mode", "go"),
    [
        ("dir", 0o755, 2147484141),
        ("dir", 0o1777, 2148532735),
        ("file", 0o6755, 12583405),
        ("symlink", 0o777, 134218239),
        ("fifo", 0o644, 33554852),
        ("file", 0, 0),
    ],
)
def test_modes(kind: str, mode: int, go: int) -> None:
    assert go_mode(Node(b"x", kind, mode=mode)) == go  # type: ignore[arg-type]  # a kind of node, as pytest gives it
    assert unix_mode(go) == mode


def test_empty_tree_id() -> None:
    assert encode_tree([]) == b'{"nodes":[]}\n'
    assert hashlib.sha256(encode_tree([])).hexdigest() == (
        "ac08ce34ba4f8123618661bef2425f7028ffb9ac740578a3ee88684d2523fee8"
    )


def test_node_fields_in_order_and_presence() -> None:
    blob = bytes(32)
    assert encode_node(Node(b"f", "file")) == (
        '{"name":"f","type":"file","mtime":"1970-01-01T00:00:00Z","atime":"1970-01-01T00:00:00Z",'
        '"ctime":"1970-01-01T00:00:00Z","uid":0,"gid":0,"content":[]}'
    )
    full = Node(
        b"l", "symlink", 0o777, 1, 2, 3, 4, 5, "u<", "g", 6, 7, 0, 1, b"t\xff", [(b"user.a", b"\0")], content=[blob]
    )
    assert encode_node(full) == (
        '{"name":"l","type":"symlink","mode":134218239,"mtime":"1970-01-01T00:00:00.000000001Z",'
        '"atime":"1970-01-01T00:00:00.000000002Z","ctime":"1970-01-01T00:00:00.000000003Z","uid":4,"gid":5,'
        '"user":"u\\u003c","group":"g","inode":6,"device_id":7,"links":1,"linktarget":"t\\ufffd",'
        '"linktarget_raw":"dP8=","extended_attributes":[{"name":"user.a","value":"AA=="}],"content":null}'
    )
    assert '"links"' not in encode_node(Node(b"d", "dir", links=3, subtree=blob))


NAMES = st.binary(min_size=1, max_size=12).filter(lambda n: n not in (b".", b"..") and b"/" not in n and b"\0" not in n)
IDS = st.binary(min_size=32, max_size=32)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
NS = st.integers(-(10**19), 10**20)
COMMON = {
    "mode": st.integers(0, 0o7777),
    "mtime_ns": NS,
    "atime_ns": NS,
    "ctime_ns": NS,
    "uid": U32,
    "gid": U32,
    "user": TEXT,
    "group": TEXT,
    "inode": U64,
    "device_id": U64,
    "xattrs": st.lists(st.tuples(TEXT.map(str.encode), st.binary(max_size=9)), max_size=3),
    "error": TEXT,
}
NODES = st.one_of(
    st.builds(Node, NAMES, st.just("file"), **COMMON, size=U64, links=U64, content=st.lists(IDS, max_size=3)),
    st.builds(Node, NAMES, st.just("dir"), **COMMON, subtree=IDS),
    st.builds(Node, NAMES, st.just("symlink"), **COMMON, links=U64, linktarget=st.binary(max_size=12)),
    st.builds(Node, NAMES, st.sampled_from(["dev", "chardev"]), **COMMON, links=U64, device=U64),
    st.builds(Node, NAMES, st.sampled_from(["fifo", "socket"]), **COMMON),
)


@given(st.lists(NODES, max_size=6, unique_by=lambda node: node.name))
def test_trees_round_trip_and_are_canonical(nodes: list[Node]) -> None:
    data = encode_tree(nodes)
    decoded = decode_tree(data)
    assert decoded == sorted(nodes, key=lambda node: node.name)
    assert encode_tree(reversed(decoded)) == data
    json.loads(data)


def test_duplicate_names_are_refused() -> None:
    with pytest.raises(FormatError, match="two nodes"):
        encode_tree([Node(b"a", "file"), Node(b"a", "dir")])


def node_json(**changes: object) -> bytes:
    fields = json.loads(encode_node(Node(b"x", "file")))
    fields.update(changes)
    return json.dumps({"nodes": [fields]}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"nodes":null}',
        b'{"nodes":[}',
        b'{"nodes":[]} x',
        b'{"nodes":[1]}',
        b'{"nodes":[],}',
        b'{"nodes":[],"nodes":[]}',
        b'{"nodes":[{"name":"a","type":"file"},]}',
        b"[" * 100_000,
        b'{"nodes":' + b"[" * 100_000,
        node_json(name=""),
        node_json(name=".."),
        node_json(name="a/b"),
        node_json(name="\\x00"),
        node_json(name='q"u'),
        node_json(type="irregular"),
        node_json(type=["file"]),
        node_json(mode=-1),
        node_json(mode=1.5),
        node_json(uid=2**32),
        node_json(uid=True),
        node_json(mtime="yesterday"),
        node_json(content="x"),
        node_json(content=["x"]),
        node_json(content=["é" * 64]),
        node_json(subtree="00"),
        node_json(linktarget_raw="?"),
        node_json(extended_attributes=[1]),
    ],
)
def test_malformed_trees_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_tree(data)


@given(NODES, st.data())
def test_damaged_trees_never_raise_anything_else(node: Node, data: st.DataObject) -> None:
    encoded = bytearray(encode_tree([node]))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    try:
        decode_tree(bytes(encoded))
    except FormatError:
        return


def test_unknown_keys_and_white_space_are_tolerated() -> None:
    text = b' { "x" : {"nodes":[1]} , "nodes" : [ {"name":"a","type":"dir","new":[1]} , {"name":"b","type":"fifo"} ] , "y":1 } '
    assert [node.name for node in decode_tree(text)] == [b"a", b"b"]


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    (node,) = decode_tree(node_json(user="USER").replace(b"USER", b"a\xff\xfe"))
    assert node.user == "a\ufffd\ufffd"
    (node,) = decode_tree(node_json(user="\ud800x"))
    assert node.user == "\ufffdx"


def test_lists_are_read_lazily() -> None:
    elements = iterate_list(b'{"nodes":[1,2,', "nodes")
    assert [next(elements), next(elements)] == [1, 2]
    with pytest.raises(FormatError):
        next(elements)


def test_a_socket_keeps_no_links() -> None:
    assert decode_tree(encode_tree([Node(b"s", "socket", links=1)])) == [replace(Node(b"s", "socket"))]


@pytest.mark.skipif(shutil.which("go") is None, reason="needs the Go toolchain")
def test_against_go_itself(tmp_path: Path) -> None:
    """Names quoted by us are what Go quotes, byte for byte."""
    names = [bytes([code]) for code in range(256)] + [
        chr(code).encode() for code in range(0x80, 0x30000, 7) if not 0xD800 <= code < 0xE000
    ]
    source = tmp_path / "quote.go"
    source.write_text(
        'package main\nimport ("bufio";"encoding/hex";"encoding/json";"fmt";"os";"strconv";"unicode")\n'
        "func main() { fmt.Println(unicode.Version); s := bufio.NewScanner(os.Stdin)\n"
        "for s.Scan() { b, _ := hex.DecodeString(s.Text()); q := strconv.Quote(string(b)); q = q[1:len(q)-1]\n"
        "j, _ := json.Marshal(q); fmt.Println(string(j)) } }\n"
    )
    run = subprocess.run(
        ["go", "run", str(source)],
        input="\n".join(name.hex() for name in names),
        capture_output=True,
        text=True,
        check=True,
    )
    version, *lines = run.stdout.splitlines()
    if version != "15.0.0":
        pytest.skip(f"this Go has Unicode {version}")
    assert [go_string(quote_name(name)) for name in names] == lines
    assert sys.maxunicode == 0x10FFFF


def test_of_what_was_read_only_the_text_is_held_between_nodes() -> None:
    """A database's tree stays open while it is read, and lists a block for every 8 KiB."""
    node = Node(b"site.db", "file", 0o644, content=[bytes([n % 256] * 32) for n in range(50_000)], size=400_000_000)
    text_bytes = len(encode_tree([node]))
    assert decode_tree(encode_tree([node])) == [node]
    tracemalloc.start()
    try:
        nodes = iterate_tree(encode_tree([node]))
        assert len(next(nodes).content or ()) == 50_000
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 1.2 * text_bytes, f"{held:,} bytes for a text of {text_bytes:,}"
    assert next(nodes, None) is None
