"""From plain values to models: every fault at its place, in words, never repeating a value that may be a secret."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from backupctl.config.document import Document, Location

PLAIN = {  # pydantic says these in the words of a programmer
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "list_type": "must be a list",
    "string_type": "must be a text",
    "path_type": "must be a path",
    "bool_type": "must be true or false",
}

SAME_THING = {"database": "catalog"}
"""Keys by another name that people write, and what they are called here."""

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], value: Any, document: Document, where: Location = ()) -> Model | None:
    """The model, or None with the faults noted in `document`, under `where`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for details in error.errors(include_input=False, include_url=False):
            _note(model, details, document, where)
        return None


def _note(model: type[BaseModel], details: ErrorDetails, document: Document, where: Location) -> None:
    location = _known(document, where, details["loc"])
    if details["type"] == "extra_forbidden":
        name = str(location[-1]) if location else ""
        known = known_keys(model, details["loc"][:-1])
        close = [SAME_THING[name]] if SAME_THING.get(name) in known else difflib.get_close_matches(name, known, 1, 0.6)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        document.fault(location, f"unknown key{hint}", key=True)
    elif details["type"] == "missing":
        document.fault((*where, *details["loc"]), "is missing", key=True)
    else:
        what = PLAIN.get(details["type"], details["msg"].removeprefix("Value error, "))
        document.fault(location, what, key=details["loc"][-1:] == ("[key]",))


def _known(document: Document, where: Location, parts: Location) -> Location:
    """The location without the parts that pydantic adds for itself, such as the branch of a union."""
    location = where
    for part in parts:
        if (*location, part) in document.values:
            location = (*location, part)
    return location


def known_keys(model: type[BaseModel], parts: Location) -> list[str]:
    """The keys that the model knows at this place, read from its JSON schema."""
    schema = model.model_json_schema(by_alias=True)
    nodes = [schema]
    for part in parts:
        nodes = [child for node in nodes for child in _children(_resolved(schema, node), part)] or nodes
    return sorted({key for node in nodes for option in _resolved(schema, node) for key in option.get("properties", {})})


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    """The node behind references, one for each branch of a union."""
    if "$ref" in node:
        return _resolved(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    branches = node.get("anyOf") or node.get("oneOf") or []
    return [node, *(found for branch in branches for found in _resolved(schema, branch))]


def _children(options: list[dict[str, Any]], part: str | int) -> list[dict[str, Any]]:
    found = []
    for option in options:
        child = option.get("items") if isinstance(part, int) else option.get("properties", {}).get(part)
        children = [child, option.get("additionalProperties"), *option.get("patternProperties", {}).values()]
        found += [each for each in children if isinstance(each, dict)]
    return found
