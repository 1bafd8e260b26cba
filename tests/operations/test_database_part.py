"""`--only db:`, `schema:` and `table:`, in whatever length fits one thing only."""

from __future__ import annotations

import pytest

from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.database_part import choose_part, is_part


def postgresql(databases, **facts):
    return {"kind": "postgresql", "fingerprint": {"databases": databases, **facts}}


SOURCES = {
    "site-db": postgresql(
        {
            "site": {
                "tables": dict.fromkeys(
                    ["public.articles", "public.words", "archive.words", "public.log_1", "public.log_2"]
                ),
                "partitioned": {"public.log": ["public.log_1", "public.log_2"], "public.none": []},
            },
            "a/b": {"tables": {"public.only": {}}},
        }
    ),
    "whole": postgresql({"shop": {"tables": {"public.items": {}}}}, method="physical"),
    "maria": {"kind": "mariadb", "fingerprint": {"databases": {"market": {"tables": {"orders": {}}}}}},
    "cache": {"kind": "redis", "fingerprint": {"databases": {"0": {}}}},
    "www": {"kind": "files", "fingerprint": {"databases": {"no": {}}}},
}


def choose(only, rename=""):
    return choose_part(only, SOURCES, rename, "abcd")


@pytest.mark.parametrize(
    "name", ["articles", "public.articles", "site/public.articles", "site-db/site/public.articles"]
)
def test_a_table_by_as_much_of_its_name_as_it_takes(name):
    chosen = choose(f"table:{name}", "back")
    assert (chosen.source, chosen.path, chosen.is_file) == ("site-db", "site", False)
    part = chosen.part
    assert (part.database, part.tables, part.table, part.rename) == (
        "site",
        ("public.articles",),
        "public.articles",
        "back",
    )


def test_a_partitioned_table_is_its_partitions():
    assert choose("table:log").part.tables == ("public.log_1", "public.log_2")


def test_a_schema_is_its_tables():
    part = choose("schema:archive").part
    assert (part.schema, part.tables) == ("archive", ("archive.words",))


def test_databases_and_their_paths():
    assert choose("db:site").part.tables == ()
    assert choose("db:a/b").path == "a%2Fb"
    assert (choose("db:shop").path, choose("db:shop").is_file) == ("", False)
    assert choose("db:0").path == "dump.rdb"
    assert choose("db:maria/market").shown == "database maria/market"


@pytest.mark.parametrize("only", ["table:words", "schema:public"])
def test_what_fits_several_is_refused_with_all_of_them(only):
    with pytest.raises(UsageError, match="fits several") as caught:
        choose(only)
    assert "site-db/site/" in caught.value.next_step


@pytest.mark.parametrize("only", ["table:nothing", "table:none", "db:no", "schema:articles", "table:rticles"])
def test_what_is_not_there_is_said_with_what_is(only):
    with pytest.raises(NoSuchError, match="it holds: "):
        choose(only)


@pytest.mark.parametrize(
    ("only", "rename"), [("table:orders", ""), ("db:market", "x"), ("table:items", ""), ("db:shop", "x")]
)
def test_what_cannot_be_taken_apart_says_how_else(only, rename):
    with pytest.raises(UsageError) as caught:
        choose(only, rename)
    assert "--start-database" in caught.value.next_step


def test_paths_are_no_parts():
    assert [is_part(one) for one in ("db:x", "table:x", "srv/db", "web:x", "db")] == [True, True, False, False, False]
