"""Rows as plain objects, and the tables they stand in: SQLAlchemy's Core. Its ORM, which tracks changes and loads what is
missing, would take a tenth of a second of each command, and nothing here asks for either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    CursorResult,
    Executable,
    Index,
    MetaData,
    Result,
    ScalarResult,
    Select,
    Table,
    and_,
    insert,
    select,
    update,
)

R = TypeVar("R", bound="Base")
T = TypeVar("T")


def column(*arguments: Any, nullable: bool = False, **options: Any) -> Any:
    """A column of the class's table, named as the attribute is. `default` is what `Session.add` puts where nothing was given."""
    return Column(*arguments, nullable=nullable, **options)


class _Attribute:
    """Of the class, the column; of an object, None until a value was given."""

    def __init__(self, column: Column[Any]) -> None:
        self._column = column

    def __get__(self, row: object, owner: type) -> Column[Any] | None:
        return self._column if row is None else None


class Base:
    """A subclass is a table, and an object of it one of its rows, which belongs to no session."""

    __tablename__: ClassVar[str]
    __table_args__: ClassVar[tuple[Index, ...]] = ()
    __table__: ClassVar[Table]
    metadata: ClassVar[MetaData] = MetaData()

    def __init_subclass__(cls) -> None:
        columns = {name: one for name, one in vars(cls).items() if isinstance(one, Column)}
        for name, one in columns.items():
            one.name = one.key = name
            setattr(cls, name, _Attribute(one))
        cls.__table__ = Table(cls.__tablename__, cls.metadata, *columns.values(), *cls.__table_args__)

    @classmethod
    def __clause_element__(cls) -> Table:
        """So that `select(Run)` is understood."""
        return cls.__table__

    def __init__(self, **fields: Any) -> None:
        if unknown := fields.keys() - self.__table__.columns.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        vars(self).update(fields)


class Session:
    """One transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Result[Any]:
        return self._connection.execute(statement, parameters)

    def changed(self, statement: Executable) -> int:
        """How many rows it changed."""
        result = self._connection.execute(statement)
        assert isinstance(result, CursorResult)
        return int(result.rowcount)

    def scalar(self, query: Executable) -> Any:
        return self._connection.scalar(query)

    def scalars(self, query: Executable) -> ScalarResult[Any]:
        return self._connection.scalars(query)

    def all(self, kind: type[R], query: Select[R]) -> list[R]:
        """The rows that `select(kind)` finds, as objects."""
        return [kind(**found) for found in self._connection.execute(query).mappings()]

    def get(self, kind: type[R], *key: object) -> R | None:
        return next(iter(self.all(kind, select(kind).where(_is(kind, key)))), None)

    def add(self, row: Base) -> None:
        """Insert it. Afterwards it has its defaults, and its number where the database gives one."""
        table, fields = row.__table__, vars(row)
        for one in table.columns:
            if one.name not in fields and one.default is not None:
                default: Any = one.default
                fields[one.name] = default.arg(None) if default.is_callable else default.arg
        result = self._connection.execute(insert(table).values(fields))
        for one, value in zip(table.primary_key, result.inserted_primary_key or (), strict=True):
            fields[one.name] = value

    def put(self, row: Base) -> None:
        """Insert it, or change the row that has its key, as far as it says something else."""
        kind, fields = type(row), vars(row)
        key = tuple(fields[one.name] for one in row.__table__.primary_key)
        there = self.get(kind, *key)
        if there is None:
            self.add(row)
        elif changes := {name: value for name, value in fields.items() if value != getattr(there, name)}:
            self._connection.execute(update(kind).where(_is(kind, key)).values(changes))


def _is(kind: type[Base], key: tuple[object, ...]) -> Any:
    return and_(*(one == value for one, value in zip(kind.__table__.primary_key, key, strict=True)))
