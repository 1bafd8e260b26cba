"""Sections that a configuration may have and mostly has not: their models are imported when the first of them comes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class _Later:
    module: str
    name: str

    @property
    def model(self) -> type[BaseModel]:
        model: type[BaseModel] = getattr(import_module(self.module), self.name)
        return model

    def _validated(self, value: Any) -> BaseModel:
        return self.model.model_validate(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validated)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # within a list of definitions it is referred to, as where a field names the model, and not repeated in each place
        return handler(core_schema.definitions_schema(self.model.__pydantic_core_schema__, []))


def later(module: str, name: str) -> Any:
    """A field's type: what is in it is validated, documented and shown as by the model of this name in that module."""
    return Annotated[Any, _Later(module, name)]
