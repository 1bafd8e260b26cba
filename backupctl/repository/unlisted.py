"""What lies in packs that no index lists, read from the packs themselves: an index that was lost makes nothing
unreadable, and what a killed run has uploaded is not uploaded again."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from backupctl.errors import Corrupt, NotFound
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys, unseal
from backupctl.repository.format.pack import PackedBlob, decode_header, pack_bytes, sealed_header, tail_bytes
from backupctl.repository.memory_index import MemoryIndex
from backupctl.storage.protocol import ObjectInfo, ObjectStore

_NAME = re.compile(r"data/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_HEADER_GUESS_BYTES = 8 << 10  # of 16 MiB of large blobs; where files are small it is longer, and asked for once more
_READERS = 8  # threads: enough to hide the latency of an object store

log = logging.getLogger(__name__)


def pack_of(name: str) -> bytes | None:
    """The id of the pack that an object of this name is; None when it is none."""
    match = _NAME.fullmatch(name)
    return bytes.fromhex(match[2]) if match else None


def unlisted_packs(store: ObjectStore, keys: Keys, index: MemoryIndex) -> MemoryIndex:
    """The blobs of packs that are not in `index`. Packs that cannot be read are left out with a warning."""
    found = MemoryIndex()
    unlisted = [info for info in store.list("data/") if (pack := pack_of(info.name)) and pack not in index.packs]
    for info, blobs, why in read_headers(store, keys, unlisted):
        if blobs is None:
            log.warning("%s is in no index and its header cannot be read: %s", info.name, why)
        else:
            found.add_pack(bytes.fromhex(info.name.rpartition("/")[2]), blobs)
    return found


def read_headers(
    store: ObjectStore, keys: Keys, packs: Iterable[ObjectInfo]
) -> Iterator[tuple[ObjectInfo, list[PackedBlob] | None, str]]:
    """Each pack with its blobs by its own header, or None and why it cannot be read. Several are on their way at a time."""
    running: deque[Future[tuple[ObjectInfo, list[PackedBlob] | None, str]]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="headers") as readers:
        for info in packs:
            if len(running) == 2 * _READERS:
                yield running.popleft().result()
            running.append(readers.submit(_read, store, keys, info))
        while running:
            yield running.popleft().result()


def _read(store: ObjectStore, keys: Keys, info: ObjectInfo) -> tuple[ObjectInfo, list[PackedBlob] | None, str]:
    try:
        tail = store.get(info.name, offset=max(0, info.size - _HEADER_GUESS_BYTES))
        wanted = tail_bytes(tail)
        if len(tail) < wanted <= info.size:
            tail = store.get(info.name, offset=info.size - wanted)
        blobs = decode_header(unseal(keys, sealed_header(tail)))
        if pack_bytes(blobs) != info.size:
            raise FormatError(f"it has {info.size} bytes, its blobs need {pack_bytes(blobs)}")
    except (Corrupt, NotFound) as error:
        return info, None, error.message
    except FormatError as error:
        return info, None, str(error)
    return info, blobs, ""
