"""What crosses the wire: old Pythons must be able to run it, and nobody may be misled by what comes back."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupctl.hosts import agent, far, placing, posix, supervisor
from backupctl.hosts.protocol import FileInfo


@pytest.mark.parametrize("module", [posix, placing, agent, supervisor])
def test_the_far_side_needs_no_more_than_python_3_6(module: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module), feature_version=(3, 6))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.startswith("backupctl")} <= {"backupctl.hosts"}
    assert not imported & {"__future__", "dataclasses", "importlib.resources"}
    evaluated = [
        annotation
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for annotation in [node.returns, *(argument.annotation for argument in node.args.args)]
        if isinstance(annotation, ast.Subscript | ast.BinOp)
    ]
    assert evaluated == []  # `list[str]` and `a | b` must be quoted


def test_records_are_file_infos() -> None:
    assert posix.Record._fields == tuple(field.name for field in dataclasses.fields(FileInfo))


def test_the_program_that_is_sent_is_plain_text() -> None:
    ast.parse(far.program().decode("ascii"))
    ast.parse(far.START)


@given(
    path=st.binary(),
    target=st.binary(),
    xattrs=st.lists(st.tuples(st.binary(), st.binary())),
    number=st.integers(min_value=-(1 << 63), max_value=1 << 64),
    text=st.text(),
)
def test_records_survive_the_wire(
    path: bytes, target: bytes, xattrs: list[tuple[bytes, bytes]], number: int, text: str
) -> None:
    record = posix.Record(path, "file", linktarget=target, xattrs=tuple(xattrs), mtime_ns=number, user=text, error=text)
    stream = io.BytesIO(agent.pack({"record": agent.encode_record(record)}, path))
    frame = agent.read_frame(stream.read)
    assert frame is not None
    assert agent.decode_record(frame[0]["record"]) == record
    assert frame[1] == path
    assert agent.read_frame(stream.read) is None


@given(data=st.binary(max_size=200), cut=st.integers(min_value=1, max_value=400))
def test_a_frame_cut_anywhere_is_no_frame(data: bytes, cut: int) -> None:
    whole = agent.pack({"a": "b"}, data)
    if cut < len(whole):
        with pytest.raises(agent.BrokenFrame):
            agent.read_frame(io.BytesIO(whole[:cut]).read)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5
)


@given(st.lists(json_values, max_size=20))
def test_records_that_are_none_are_refused(fields: list[Any]) -> None:
    with pytest.raises(agent.BrokenFrame):
        agent.decode_record(fields)


@given(index=st.integers(min_value=0, max_value=16), value=json_values)
def test_a_field_of_another_type_is_refused(index: int, value: Any) -> None:
    record = posix.Record(b"/a", "file", xattrs=((b"user.a", b"b"),))
    fields = agent.encode_record(record)
    if type(fields[index]) is not type(value):
        fields[index] = value
        with pytest.raises(agent.BrokenFrame):
            agent.decode_record(fields)


def test_a_frame_that_is_too_large_is_refused() -> None:
    with pytest.raises(agent.BrokenFrame, match="larger"):
        agent.read_frame(io.BytesIO(b"\xff" * 100).read)


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b"", []),
        (b"abc", [(10, b"abc")]),
        (bytes(12000), [(10, bytes(4086)), (8192, bytes(3818))]),  # a hole is made of whole blocks of the file
        (b"a" * 4086 + bytes(4096) + b"b", [(10, b"a" * 4086), (8192, b"b")]),
        (b"a" + bytes(4096) + b"b", [(10, b"a" + bytes(4096) + b"b")]),
        (b"a" * 4086 + b"b" * 4096 + bytes(8192), [(10, b"a" * 4086 + b"b" * 4096)]),
    ],
)
def test_holes(monkeypatch: pytest.MonkeyPatch, data: bytes, written: list[tuple[int, bytes]]) -> None:
    calls: list[tuple[int, bytes]] = []

    def pwrite(_descriptor: int, view: memoryview, offset: int) -> int:
        calls.append((offset, bytes(view)))
        return len(view)

    monkeypatch.setattr(placing.os, "pwrite", pwrite)
    placing.write_at(0, 10, data)
    assert calls == written


@pytest.mark.parametrize(
    "data", [b"", b"a", b"\0", bytes(4096), b"a" * 4096 + bytes(8192), bytes(4096) + b"a", b"a" * 5000]
)
def test_a_file_written_whole_has_its_size_whatever_it_ends_in(tmp_path: Path, data: bytes) -> None:
    with (tmp_path / "f").open("wb", buffering=0) as file:
        placing.write_whole(file.fileno(), data)
    assert (tmp_path / "f").read_bytes() == data
    assert (tmp_path / "f").stat().st_blocks * 512 <= len(data.replace(bytes(4096), b"")) + 4096
