"""The effective configuration for people: defaults filled in, paths absolute, secrets as references only."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from backupctl.config.models import Settings


def effective(settings: Settings) -> dict[str, Any]:
    """JSON-ready. The address of a webhook or heartbeat is cut after its host: the rest is often a token."""
    found = settings.model_dump(mode="json", exclude_none=True, by_alias=True)
    for channel in found["notify"].values():
        for way in channel.values():
            if isinstance(way, dict) and isinstance(way.get("url"), str):
                url = urlsplit(way["url"])
                way["url"] = f"{url.scheme}://{url.netloc}/…"
    return found


def show(settings: Settings) -> str:
    """YAML, beginning with a comment that names the file."""
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 4096  # a wrapped path cannot be copied or searched for
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.dump(effective(settings), text)
    return f"# effective configuration of {settings.path}\n{text.getvalue()}"
