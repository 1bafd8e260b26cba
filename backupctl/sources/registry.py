"""The kinds of source there are. Modules are imported when a kind is used: the command line starts without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module

from pydantic import BaseModel

from backupctl.errors import ConfigError
from backupctl.hosts.secret import SecretRef
from backupctl.sources.protocol import Source

MODULES = {  # kind → module, options model, source class, whether it takes secrets
    "files": ("files", "FilesOptions", "FilesSource", False),
    "mariadb": ("mariadb", "MariadbOptions", "MariadbSource", True),
    "mysql": ("mysql", "MysqlOptions", "MysqlSource", True),
    "postgresql": ("postgresql", "PostgresqlOptions", "PostgresqlSource", True),
    "redis": ("redis", "RedisOptions", "RedisSource", True),
    "software": ("software", "SoftwareOptions", "SoftwareSource", False),
    "sqlite": ("sqlite", "SqliteOptions", "SqliteSource", False),
}


class _Kinds(Mapping[str, tuple[type[BaseModel], Callable[..., Source]]]):
    """kind → (options model, class), imported on access."""

    def __getitem__(self, kind: str) -> tuple[type[BaseModel], Callable[..., Source]]:
        module_name, options, source, _ = MODULES[kind]
        module = import_module(f"backupctl.sources.{module_name}")
        return getattr(module, options), getattr(module, source)

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


SOURCE_KINDS: Mapping[str, tuple[type[BaseModel], Callable[..., Source]]] = _Kinds()


def make_source(name: str, kind: str, options: BaseModel, *, secrets: Callable[[SecretRef], bytes]) -> Source:
    """The source `name` of a job. `options` is an instance of the kind's model; `secrets` fetches what it refers to, when
    it is needed. Raises ConfigError for an unknown kind or another kind's options."""
    if kind not in SOURCE_KINDS:
        raise ConfigError(f"source {name}: unknown kind {kind!r}", next_step=f"one of: {', '.join(SOURCE_KINDS)}")
    model, source = SOURCE_KINDS[kind]
    if not isinstance(options, model):
        raise ConfigError(f"source {name}: options of kind {kind} are a {model.__name__}, not {type(options).__name__}")
    takes_secrets = MODULES[kind][3]
    return source(name, options, secrets) if takes_secrets else source(name, options)
