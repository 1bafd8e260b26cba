"""Hosts that stand in files of their own: each *.yaml below `hosts_dir` is one, with its name in `host`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from backupctl.config.document import Document
from backupctl.config.names import NAME_LENGTH, NAME_PATTERN
from backupctl.config.validate import validated
from backupctl.hosts.options import HostOptions


@dataclass(frozen=True, slots=True)
class HostFile:
    """`name` and `options` are empty when they are not valid; the faults are in `document`."""

    name: str
    value: dict[str, Any]
    options: dict[str, HostOptions]
    document: Document


def host_of(document: Document) -> HostFile:
    name = document.value.get("host")
    value = {key: item for key, item in document.value.items() if key != "host"}
    options = validated(HostOptions, value, document)
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name) or len(name) > NAME_LENGTH:
        what = "is missing: the name of the host, as jobs call it" if name is None else "is no name of a host"
        document.fault(("host",), what)
        return HostFile("", value, {}, document)
    return HostFile(name, value, {name: options} if options is not None else {}, document)
