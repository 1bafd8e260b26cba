"""The far end of `far.py`: serves the functions of `posix.py` and `placing.py` over framed standard input and output.

Its text is sent over SSH and run by the far Python (>= 3.6, standard library only); nothing is installed there.
Requests are answered one by one in the order they came, so that many may be under way. It ends when standard input
ends, and removes its private files then.

A frame: length of head and of payload (two big-endian 32-bit numbers), head (JSON, bytes as Latin-1), payload (raw).
A request's head is `{"do": NAME, …}`; an answer's is what the function gave, or `{"errno": N, "text": …, "file": …}`.
Handles (`h`) are numbers the asker chooses.
"""

import contextlib
import json
import os
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from backupctl.hosts import placing, posix, private

GREETING = b"backupctl agent 1\n"
HEADER = struct.Struct(">II")
HEAD_LIMIT = 64 << 20  # one record's xattrs may be large, and JSON makes them larger
PAYLOAD_LIMIT = 16 << 20
BATCH_RECORDS = 256
BATCH_BYTES = 1 << 20


if TYPE_CHECKING:
    from typing import TypeAlias

    Head: TypeAlias = dict[str, Any]
    Frame: TypeAlias = tuple[Head, bytes]
    Answer: TypeAlias = tuple[Head, bytes | memoryview]


class BrokenFrame(Exception):
    """The stream ended inside a frame, or what came is none."""


def pack(head: "Head", payload: bytes = b"") -> bytes:
    return pack_head(head, len(payload)) + payload


def pack_head(head: "Head", payload_size: int) -> bytes:
    """A frame but for its payload."""
    text = json.dumps(head, separators=(",", ":")).encode("ascii")
    return HEADER.pack(len(text), payload_size) + text


def read_frame(read_exactly: "Callable[[int], bytes]") -> "Frame | None":
    """None at the end of the stream. `read_exactly(n)` gives n bytes, or fewer when the stream ends."""
    header = read_exactly(HEADER.size)
    if not header:
        return None
    if len(header) < HEADER.size:
        raise BrokenFrame("the stream ended inside a frame")
    head_size, payload_size = HEADER.unpack(header)
    if head_size > HEAD_LIMIT or payload_size > PAYLOAD_LIMIT:
        raise BrokenFrame("a frame is larger than any may be")
    text = read_exactly(head_size)
    payload = read_exactly(payload_size) if payload_size else b""
    if len(text) < head_size or len(payload) < payload_size:
        raise BrokenFrame("the stream ended inside a frame")
    try:
        head = json.loads(text.decode("ascii"))
    except ValueError:
        raise BrokenFrame("a frame's head is not JSON") from None
    if not isinstance(head, dict):
        raise BrokenFrame("a frame's head is not an object")
    return head, payload


def text_of(data: bytes) -> str:
    return data.decode("latin-1")


def bytes_of(text: str) -> bytes:
    return text.encode("latin-1")


def encode_record(record: posix.Record) -> "list[Any]":
    xattrs = [[text_of(name), text_of(value)] for name, value in record.xattrs]
    plain = record._replace(xattrs=())
    return [text_of(field) if isinstance(field, bytes) else field for field in plain[:-2]] + [xattrs, record.error]


def decode_record(fields: "list[Any]") -> posix.Record:
    """Raises BrokenFrame for anything that is no record: the far host may be in somebody else's hands."""
    try:
        path, target, xattrs = bytes_of(fields[0]), bytes_of(fields[14]), fields[15]
        pairs = tuple((bytes_of(name), bytes_of(value)) for name, value in xattrs)
        record = posix.Record(*[path, *fields[1:14], target, pairs, fields[16]])
        numbers = (*record[2:5], *record[7:14])
        texts = (record.user, record.group, record.error)
        if len(fields) != 17 or type(xattrs) is not list or record.kind not in posix.KINDS.values():
            raise BrokenFrame("a record is not as agreed")
        if any(type(number) is not int for number in numbers) or any(type(text) is not str for text in texts):
            raise BrokenFrame("a record is not as agreed")
    except (TypeError, ValueError, IndexError, AttributeError):
        raise BrokenFrame("a record is not as agreed") from None
    return record


class Agent:
    """One method `do_X` per request X; each gives the answer's head and payload."""

    def __init__(self) -> None:
        self.scans: dict[int, Iterator[posix.Record]] = {}
        self.reads: dict[int, tuple[int, os.stat_result]] = {}
        self.writes: dict[int, int] = {}
        self.placers: dict[int, placing.PosixPlacer] = {}
        self.private: set[bytes] = set()
        self.buffer = bytearray()  # of `do_read`: new memory for each answer costs more than reading

    def answer(self, head: "Head", payload: bytes) -> "Answer":
        try:
            answer: Answer = getattr(self, "do_" + head["do"])(head, payload)
            return answer
        except OSError as error:
            text = error.strerror or str(error)
            return {"errno": error.errno or 5, "text": text, "file": os.fsdecode(error.filename or b"")}, b""

    def close(self) -> None:
        for path in self.private:
            with contextlib.suppress(OSError):  # nobody is left to tell
                private.take_back(path)

    # reading

    def do_scan(self, head: "Head", _payload: bytes) -> "Answer":
        self.scans[head["h"]] = posix.scan(
            bytes_of(head["path"]), head["exclude"], [bytes_of(one) for one in head["only"]]
        )
        return self.do_next(head, b"")

    def do_next(self, head: "Head", _payload: bytes) -> "Answer":
        records, size = [], 0
        for record in islice(self.scans[head["h"]], BATCH_RECORDS):
            records.append(encode_record(record))
            size += sum(len(value) for _name, value in record.xattrs)
            if size > BATCH_BYTES:
                break
        end = len(records) < BATCH_RECORDS and size <= BATCH_BYTES
        if end:
            del self.scans[head["h"]]
        return {"records": records, "end": end}, b""

    def do_end_scan(self, head: "Head", _payload: bytes) -> "Answer":
        self.scans.pop(head["h"], None)
        return {}, b""

    def opened(self, path: bytes) -> "tuple[int, os.stat_result]":
        return posix.open_regular(path)

    def do_open(self, head: "Head", _payload: bytes) -> "Answer":
        path = bytes_of(head["path"])
        descriptor, status = self.opened(path)
        self.reads[head["h"]] = descriptor, status
        more, data = self.do_read(head, b"")
        more["info"] = encode_record(posix.record(path, status))
        return more, data

    def do_read(self, head: "Head", _payload: bytes) -> "Answer":
        """`size` bytes, fewer only at the end of the file; there also whether the file changed. Then it is closed. What is
        answered is good until the next request."""
        if head["h"] not in self.reads:
            return {"end": True}, b""  # asked ahead of what turned out to be the end
        descriptor, status = self.reads[head["h"]]
        if len(self.buffer) < head["size"]:
            self.buffer = bytearray(head["size"])
        view, done = memoryview(self.buffer)[: head["size"]], 0
        while done < head["size"]:
            count = os.readv(descriptor, [view[done:]])
            if not count:
                changed = posix.differs(status, descriptor)
                os.close(self.reads.pop(head["h"])[0])
                return {"end": True, "changed": changed}, view[:done]
            done += count
        return {"end": False}, view

    def do_changed(self, head: "Head", _payload: bytes) -> "Answer":
        descriptor, status = self.reads[head["h"]]
        return {"changed": posix.differs(status, descriptor)}, b""

    def do_end_read(self, head: "Head", _payload: bytes) -> "Answer":
        if head["h"] in self.reads:
            os.close(self.reads.pop(head["h"])[0])
        return {}, b""

    def do_stat(self, head: "Head", _payload: bytes) -> "Answer":
        record = posix.lstat(bytes_of(head["path"]))
        return {"record": encode_record(record) if record else None}, b""

    def do_list(self, head: "Head", _payload: bytes) -> "Answer":
        return {"names": [text_of(name) for name in posix.list_directory(bytes_of(head["path"]))]}, b""

    def do_free(self, head: "Head", _payload: bytes) -> "Answer":
        return {"bytes": posix.free_bytes(bytes_of(head["path"]))}, b""

    def do_facts(self, _head: "Head", _payload: bytes) -> "Answer":
        return {"facts": posix.facts()}, b""

    # writing

    def do_create(self, head: "Head", _payload: bytes) -> "Answer":
        self.writes[head["h"]] = posix.create(bytes_of(head["path"]), head["mode"])
        return {}, b""

    def do_append(self, head: "Head", payload: bytes) -> "Answer":
        posix.write_all(self.writes[head["h"]], payload)
        return {}, b""

    def do_finish(self, head: "Head", _payload: bytes) -> "Answer":
        posix.finish_writing(self.writes.pop(head["h"]))
        return {}, b""

    def do_make_directory(self, head: "Head", _payload: bytes) -> "Answer":
        posix.make_directory(bytes_of(head["path"]), head["mode"])
        return {}, b""

    def do_remove_tree(self, head: "Head", _payload: bytes) -> "Answer":
        posix.remove_tree(bytes_of(head["path"]))
        return {}, b""

    def do_private(self, _head: "Head", payload: bytes) -> "Answer":
        path = private.put(payload)
        self.private.add(path)
        return {"path": text_of(path)}, b""

    def do_end_private(self, head: "Head", _payload: bytes) -> "Answer":
        path = bytes_of(head["path"])
        if path in self.private:
            private.take_back(path)
            self.private.discard(path)
        return {}, b""

    # placing: `f` is the handle of a file that the placer `h` has open

    def do_placer(self, head: "Head", _payload: bytes) -> "Answer":
        self.placers[head["h"]] = placing.PosixPlacer(bytes_of(head["path"]))
        return {}, b""

    def do_place(self, head: "Head", _payload: bytes) -> "Answer":
        placer, path, what = self.placers[head["h"]], bytes_of(head["path"]), head["what"]
        if what == "directory":
            placer.directory(path)
        elif what == "file":
            self.writes[head["f"]] = placer.file(path, head["size"])
        elif what == "remove":
            placer.remove(path)
        elif what == "symlink":
            placer.symlink(path, bytes_of(head["target"]))
        elif what == "hardlink":
            placer.hardlink(path, bytes_of(head["existing"]))
        elif what == "special":
            placer.special(path, head["kind"], head["device"])
        elif what == "metadata":
            placer.metadata(path, decode_record(head["record"]))
        return {"warnings": placer.take_warnings()}, b""

    def do_write_at(self, head: "Head", payload: bytes) -> "Answer":
        if head["f"] in self.writes:  # otherwise the answer to making the file has said why
            placing.write_at(self.writes[head["f"]], head["offset"], payload)
        return {}, b""

    def do_end_write(self, head: "Head", _payload: bytes) -> "Answer":
        if head["f"] in self.writes:
            os.close(self.writes.pop(head["f"]))
        return {}, b""

    def do_end_placer(self, head: "Head", _payload: bytes) -> "Answer":
        self.placers.pop(head["h"]).close()
        return {}, b""


def serve(agent: "Agent | None" = None) -> None:
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a deep tree holds one descriptor per level
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stdout.write(GREETING)
    stdout.flush()
    agent = agent or Agent()
    try:
        while True:
            frame = read_frame(stdin.read)
            if frame is None:
                break
            answer, payload = agent.answer(*frame)
            stdout.write(pack_head(answer, len(payload)))
            stdout.write(payload)
            stdout.flush()
    except (BrokenFrame, BrokenPipeError):
        sys.exit("the connection was cut")
    finally:
        agent.close()
