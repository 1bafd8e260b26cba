"""What lies in packs that no index lists, read from the packs themselves: an index that was lost makes nothing unreadable."""

from __future__ import annotations

import logging
import re

from backupctl.errors import Corrupt, NotFound
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys, unseal
from backupctl.repository.format.pack import PackedBlob, decode_header, sealed_header
from backupctl.repository.memory_index import MemoryIndex
from backupctl.storage.protocol import ObjectStore

_NAME = re.compile(r"data/[0-9a-f]{2}/([0-9a-f]{64})")
_HEADER_GUESS_BYTES = 1 << 16  # most pack headers are shorter

log = logging.getLogger(__name__)


def unlisted_packs(store: ObjectStore, keys: Keys, index: MemoryIndex) -> MemoryIndex:
    """The blobs of packs that are not in `index`. Packs that cannot be read are left out with a warning."""
    found = MemoryIndex()
    for info in store.list("data/"):
        match = _NAME.fullmatch(info.name)
        if match is None or bytes.fromhex(match[1]) in index.packs:
            continue
        try:
            found.add_pack(bytes.fromhex(match[1]), read_header(store, keys, info.name, info.size))
        except (NotFound, Corrupt, FormatError) as error:
            log.warning("%s is in no index and its header cannot be read: %s", info.name, error)
    return found


def read_header(store: ObjectStore, keys: Keys, name: str, size: int) -> list[PackedBlob]:
    """The blobs of a pack by its own header. Raises NotFound, Corrupt, FormatError."""
    tail = store.get(name, offset=max(0, size - _HEADER_GUESS_BYTES))
    try:
        header = sealed_header(tail)
    except FormatError:
        header = sealed_header(store.get(name))
    return decode_header(unseal(keys, header))
