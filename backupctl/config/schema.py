"""JSON Schema of the two kinds of file, for completion and checks in editors:
`# yaml-language-server: $schema=FILE` on a file's first line."""

from __future__ import annotations

from typing import Any, Literal

from backupctl.config.models import DrillSettings, Job, MainFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(kind: Literal["main", "job"]) -> dict[str, Any]:
    """Of the main file, or of a job file."""
    if kind == "job":
        return {"$schema": DIALECT, **Job.model_json_schema(by_alias=True), "title": "backupctl job"}
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
