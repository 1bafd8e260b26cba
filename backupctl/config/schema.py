"""JSON Schema of each kind of file, for completion and checks in editors:
`# yaml-language-server: $schema=FILE` on a file's first line."""

from __future__ import annotations

from typing import Any, Literal

from backupctl.config.drilling import DrillSettings
from backupctl.config.models import Job, MainFile
from backupctl.config.names import NAME_LENGTH, NAME_PATTERN
from backupctl.hosts.options import HostOptions

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Kind = Literal["main", "job", "host"]


def schema(kind: Kind) -> dict[str, Any]:
    """Of the main file, of a job file, or of a host's."""
    if kind == "job":
        return {"$schema": DIALECT, **Job.model_json_schema(by_alias=True), "title": "backupctl job"}
    if kind == "host":
        host = HostOptions.model_json_schema(by_alias=True)
        name = {"type": "string", "pattern": NAME_PATTERN, "maxLength": NAME_LENGTH, "description": "As jobs call it."}
        host |= {"properties": {"host": name, **host["properties"]}, "required": ["host"], "title": "backupctl host"}
        return {"$schema": DIALECT, **host}
    main = MainFile.model_json_schema(by_alias=True)
    definitions = main.setdefault("$defs", {})
    for model in (Job, DrillSettings):
        part = model.model_json_schema(by_alias=True)
        definitions.update(part.pop("$defs", {}))
        definitions[model.__name__] = part
    named = {**definitions["Job"], "required": [key for key in definitions["Job"]["required"] if key != "job"]}
    definitions["NamedJob"] = named
    properties = main["properties"]
    properties["jobs"] = {
        "description": properties["jobs"]["description"],
        "anyOf": [
            {"type": "object", "additionalProperties": {"$ref": "#/$defs/NamedJob"}},
            {"type": "array", "items": {"$ref": "#/$defs/Job"}},
        ],
    }
    properties["drills"] = {
        "description": properties["drills"]["description"],
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/DrillSettings"},
    }
    return {"$schema": DIALECT, **main, "title": "backupctl configuration"}
