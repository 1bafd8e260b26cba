"""Relative paths start at the directory of the file that names them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from backupctl.hosts.secret import SecretRef

Model = TypeVar("Model", bound=BaseModel)


def rebased(model: Model, base: Path, *, texts: tuple[str, ...] = ()) -> Model:
    """The model with every `Path` and every secret's file made absolute; also the text fields named in `texts`."""
    changes = {}
    for name in type(model).model_fields:
        old = getattr(model, name)
        new = _rebased(old, base, texts, as_path=name in texts or (isinstance(model, SecretRef) and name == "file"))
        if new is not old:
            changes[name] = new
    return model.model_copy(update=changes) if changes else model


def _rebased(value: Any, base: Path, texts: tuple[str, ...], *, as_path: bool) -> Any:
    if isinstance(value, Path):
        return absolute(value, base)
    if isinstance(value, str) and as_path:
        return str(absolute(Path(value), base))
    if isinstance(value, BaseModel):
        return rebased(value, base, texts=texts)
    if isinstance(value, dict):
        return {key: _rebased(item, base, texts, as_path=False) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_rebased(item, base, texts, as_path=as_path) for item in value)
    return value


def absolute(path: Path, base: Path) -> Path:
    """`~` is the home directory. A leading `..` is taken from where `base` really is."""
    if path.parts[:1] and path.parts[0].startswith("~"):
        path = path.expanduser()
    if path.is_absolute() or ".." not in path.parts:
        return base / path
    return Path(os.path.normpath(base.resolve() / path))
