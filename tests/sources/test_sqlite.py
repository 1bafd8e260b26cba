"""SQLite: one moment of a live database, checked, streamed, placed and compared."""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
import struct
import subprocess
import sys
import threading

import pytest
from pydantic import ValidationError

from backupctl.errors import DamageError, NoSuchError, SourceError
from backupctl.sources import sqlite_program
from backupctl.sources.sqlite import SqliteOptions, SqliteSource
from tests.sources.helpers import CLOCK, HOST, MemoryFiles, bad, drain, take

ROWS = 3000


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "articles.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA user_version = 7")
    connection.executescript(
        """CREATE TABLE articles (id INTEGER PRIMARY KEY, title TEXT, body BLOB, weight REAL);
        CREATE TABLE words (word TEXT PRIMARY KEY, n) WITHOUT ROWID;
        CREATE TABLE "odd ""name" (a, b GENERATED ALWAYS AS (a * 2));
        CREATE TABLE child (article REFERENCES articles (id));
        CREATE INDEX by_title ON articles (title);
        CREATE VIEW titles AS SELECT title FROM articles;"""
    )
    rows = ((f"題目 {n}", bytes([n % 256]) * 40, n / 7) for n in range(ROWS))
    connection.executemany("INSERT INTO articles (title, body, weight) VALUES (?, ?, ?)", rows)
    connection.execute("INSERT INTO words VALUES ('a', NULL), ('b', 'NULL'), (x'00', 3)")
    connection.execute("""INSERT INTO "odd ""name" (a) VALUES (1), (CAST(x'ff41' AS TEXT))""")
    connection.commit()
    connection.close()
    return path


def make(path, **options):
    return SqliteSource("articles", SqliteOptions(path=str(path), **options))


def restored(source, files, fingerprint, directory, **choice):
    instance = source.boot(HOST, str(directory).encode(), fingerprint)
    source.load(instance, files, **choice)
    return instance


def test_round_trip(database, tmp_path):
    source = make(database)
    files, fingerprint = take(source)
    assert fingerprint["databases"]["articles.db"]["tables"]["articles"]["rows"] == ROWS
    instance = restored(source, files, fingerprint, tmp_path / "back")
    results = source.compare(instance, fingerprint)
    assert not bad(results)
    assert "table articles.db.articles" in [result.name for result in results]
    assert source.query(instance, "articles.db", "SELECT count(*), NULL FROM articles") == [[str(ROWS), ""]]
    source.stop(instance)
    source.stop(instance)


@pytest.mark.parametrize("way", ["1", "2"])
@pytest.mark.parametrize("table", ["articles", "words", '"odd ""name"'])
def test_digests_do_not_depend_on_how_text_is_decoded(database, table, way):
    """The quick way is for proper text; a text that is not gives what it always gave."""
    connection = sqlite_program.connect(bytes(database), "mode=ro")
    expected = sqlite_program.digest_rows(connection.execute(f"SELECT * FROM {table} NOT INDEXED"), way)
    assert sqlite_program.digest_table(connection, table, way) == expected
    if "odd" in table:
        assert connection.execute(f"SELECT a FROM {table}").fetchall()[1] == ("\udcffA",)


ROW = (None, 1, -1, 2**31, -(2**63), 0.1, -0.0, 1e300, "", "題\udcff", b"", b"\0\xff")


def test_digests_stay_what_they_were():
    """What snapshots hold must be comparable for ever, whichever Python is there; the encoding of 2 as its rules say."""
    assert sqlite_program.digest_rows([ROW], "1") == {
        "rows": 1,
        "digest": hashlib.sha256(ascii(ROW).encode() + b"\n").hexdigest(),
    }
    encoded = b"".join(
        (
            b"(" + struct.pack("<I", len(ROW)) + b"N",
            *(b"i" + struct.pack("<i", number) for number in (1, -1)),
            b"l" + struct.pack("<i3H", 3, 0, 0, 2),
            b"l" + struct.pack("<i5H", -5, 0, 0, 0, 0, 8),
            *(b"g" + struct.pack("<d", number) for number in (0.1, -0.0, 1e300)),
            *(b"u" + struct.pack("<I", len(text)) + text for text in (b"", "題".encode() + b"\xed\xb3\xbf")),
            *(b"s" + struct.pack("<I", len(blob)) + blob for blob in (b"", b"\0\xff")),
        )
    )
    assert sqlite_program.digest_rows([ROW, ROW], "2") == {
        "rows": 2,
        "digest": "2:" + hashlib.sha256(2 * encoded).hexdigest(),
    }


def test_older_fingerprints_are_compared_in_their_own_way(database, tmp_path):
    source = make(database)
    files, fingerprint = take(source)
    tables = fingerprint["databases"]["articles.db"]["tables"]
    assert {table["digest"][:2] for table in tables.values()} == {"2:"}
    connection = sqlite_program.connect(bytes(database), "mode=ro")
    tables.update(sqlite_program.describe_content(connection, "1")["tables"])
    connection.close()
    instance = restored(source, files, fingerprint, tmp_path / "back")
    assert not bad(source.compare(instance, fingerprint))
    with sqlite3.connect(tmp_path / "back" / "articles.db") as connection:
        connection.execute("UPDATE articles SET weight = 1 WHERE id = 3")
    connection.close()
    assert bad(source.compare(instance, fingerprint)) == ["table articles.db.articles"]


@pytest.mark.parametrize("together", [False, True])
def test_rows_that_cannot_be_read_fail_the_stream_after_its_bytes(database, tmp_path, monkeypatch, together):
    """Rows are read while the bytes are sent: without their digests nothing of that database may count as stored."""
    text = sqlite_program.__loader__.get_source(sqlite_program.__name__)
    begin = "def describe_content("
    failing = f"{begin}database, way):\n    raise sqlite3.OperationalError('disk I/O error')\n\n\n"
    broken = text.replace(begin, failing + "def unused(")
    monkeypatch.setattr("backupctl.sources.sqlite_session.program_text", lambda module: broken)
    other = tmp_path / "other.db"
    other.write_bytes(database.read_bytes())
    options = {"paths": [str(database), str(other)], "together": True} if together else {"path": str(database)}
    with SqliteSource("articles", SqliteOptions(**options)).open(HOST, CLOCK) as session:
        for entry in session.entries():
            stream = entry.open()
            with pytest.raises(SourceError, match=r"\.db on host local: disk I/O error"):
                drain(stream)
            with pytest.raises(SourceError):  # no end is ever believed
                stream.read(1)
        with pytest.raises(SourceError, match="no SQLite database could be read"):
            session.fingerprint()


def test_sending_without_the_kernels_help(database, monkeypatch):
    text = sqlite_program.__loader__.get_source(sqlite_program.__name__)
    first = "COPY_BYTES = 1 << 20\n"
    assert first in text
    refusing = "def refuse(*_):\n    raise OSError(errno.EINVAL, 'no')\n\n\nos.sendfile = refuse\n"
    slow = text.replace(first, first + refusing)
    monkeypatch.setattr("backupctl.sources.sqlite_session.program_text", lambda module: slow)
    slowly, _ = take(make(database))
    monkeypatch.undo()
    quickly, _ = take(make(database))
    assert slowly.content == quickly.content and slowly.content[b"articles.db"][18:20] == b"\2\2"


def test_entry_is_cut_at_pages(database):
    with make(database).open(HOST, CLOCK) as session:
        (entry,) = session.entries()
        assert entry.chunking.kind == "fixed"
        assert entry.chunking.block_size == 8192
        assert not entry.stable


def test_large_pages_and_databases_get_larger_blocks():
    from backupctl.sources.sqlite_session import block_size

    assert block_size(65536, 10**6) == 65536
    assert block_size(4096, 5 * 1024**3) == 65536


def test_one_moment_while_a_writer_writes(database, tmp_path):
    """Two tables always change together; the copy must hold both halves of every transaction, and equal its fingerprint."""
    ready, stop = threading.Event(), threading.Event()

    def write():
        connection = sqlite3.connect(database, timeout=30)
        for n in itertools.count():
            with connection:
                connection.execute("INSERT INTO child VALUES (?)", (1 + n % ROWS,))
                connection.execute("INSERT INTO words VALUES (?, ?)", (f"w{n}", n))
            ready.set()
            if stop.is_set():
                break
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert ready.wait(30)
        source = make(database)
        files, fingerprint = take(source)
    finally:
        stop.set()
        writer.join()
    tables = fingerprint["databases"]["articles.db"]["tables"]
    assert tables["child"]["rows"] == tables["words"]["rows"] - 3 > 0
    instance = restored(source, files, fingerprint, tmp_path / "back")
    assert not bad(source.compare(instance, fingerprint))


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_attached_databases_are_one_moment(tmp_path, mode):
    """A writer commits into two files at once, all the time; the copies hold as many rows of the one as of the other."""
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    for path in paths:
        with sqlite3.connect(path) as connection:
            connection.execute(f"PRAGMA journal_mode = {mode}")
            connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, filling BLOB)")
        connection.close()
    stop, ready, failed = threading.Event(), threading.Event(), []

    def write():
        connection = sqlite3.connect(paths[0], timeout=60)
        try:
            connection.execute("ATTACH ? AS other", (str(paths[1]),))
            for n in itertools.count():
                with connection:
                    connection.execute("INSERT INTO main.t VALUES (?, zeroblob(100))", (n,))
                    connection.execute("INSERT INTO other.t VALUES (?, zeroblob(100))", (n,))
                ready.set()
                if stop.wait(0.002):
                    break
        except sqlite3.Error as error:
            failed.append(error)
        finally:
            connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert ready.wait(30)
        source = SqliteSource("both", SqliteOptions(paths=[str(path) for path in paths], together=True))
        for turn in range(2):
            files, fingerprint = take(source)
            rows = [fingerprint["databases"][name]["tables"]["t"]["rows"] for name in ("a.db", "b.db")]
            assert rows[0] == rows[1] > 0
            instance = restored(source, files, fingerprint, tmp_path / f"back{turn}")
            assert not bad(source.compare(instance, fingerprint))
    finally:
        stop.set()
        writer.join()
    assert not failed


INSERT = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("INSERT INTO t VALUES (2)")
"""


@pytest.mark.parametrize("verb", ["snapshot", "together"])
def test_nobody_commits_into_a_file_while_its_bytes_are_copied(tmp_path, monkeypatch, capfdbinary, verb):
    """A process has its locks on a file until it closes any descriptor of it: also one that another part of it has opened."""
    paths = [str(tmp_path / "a.db"), str(tmp_path / "b.db")][: 2 if verb == "together" else 1]
    for path in paths:
        with sqlite3.connect(path) as connection:
            connection.executescript("CREATE TABLE t (n INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")
        connection.close()
    copied: list[int] = []
    transfer = sqlite_program.transfer

    def watched(target, source, start, end):
        if start == 0:
            for path in paths[len(copied) :]:
                writer = subprocess.run([sys.executable, "-c", INSERT, path], check=False, capture_output=True)
                assert b"database is locked" in writer.stderr
            copied.append(end)
        transfer(target, source, start, end)

    monkeypatch.setattr(sqlite_program, "transfer", watched)
    arguments = ["together", "", *paths] if verb == "together" else ["snapshot", paths[0], ""]
    assert sqlite_program.main(arguments) == 0
    assert copied == [8192] * len(paths)
    assert capfdbinary.readouterr().out.count(b'"rows": 1') == len(paths)
    for path in paths:
        subprocess.run([sys.executable, "-c", INSERT, path], check=True)


def test_a_file_that_was_put_there_meanwhile_is_not_taken_for_the_view(database, tmp_path):
    file = sqlite_program.open_file(bytes(database))
    other = tmp_path / "other.db"
    other.write_bytes(database.read_bytes())
    with sqlite3.connect(other) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    other.rename(database)
    view = sqlite_program.begin_view(bytes(database))
    assert not sqlite_program.is_still(view, bytes(database), file)
    assert sqlite_program.is_still(view, bytes(database), sqlite_program.open_file(bytes(database)))
    view.close()


def test_the_middle_of_a_commit_over_two_files_is_waited_for(tmp_path):
    """With a WAL the first file shows a transaction before the second does; both are locked until the second does too."""
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    first, second = (sqlite3.connect(path, isolation_level=None, check_same_thread=False) for path in paths)
    for connection in (first, second):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (n)")
    second.execute("BEGIN IMMEDIATE")
    second.execute("INSERT INTO t VALUES (1)")
    first.execute("INSERT INTO t VALUES (1)")
    tried = threading.Event()

    def finish():
        assert tried.wait(30)
        second.execute("COMMIT")

    def watched(path, wait=0.0, begin=sqlite_program.begin_view):
        view = begin(path, wait)
        if path == bytes(paths[1]) and wait == sqlite_program.SHORT_WAIT_SECONDS:
            tried.set()  # a view of each is open, in the middle of the commit
        return view

    writer = threading.Thread(target=finish)
    writer.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_program, "begin_view", watched)
        _, views, same = sqlite_program.begin_together([bytes(path) for path in paths])
    writer.join()
    assert same
    assert [view.execute("SELECT count(*) FROM t").fetchone()[0] for view in views.values()] == [1, 1]
    for connection in (first, second, *views.values()):
        connection.close()


def test_one_that_is_missing_costs_itself_only_also_together(database, tmp_path):
    paths = [str(tmp_path / "absent.db"), str(database), str(tmp_path / "other.db")]
    with sqlite3.connect(paths[2]) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    with SqliteSource("s", SqliteOptions(paths=paths, together=True)).open(HOST, CLOCK) as session:
        read = {}
        for entry in session.entries():
            if entry.path == b"articles.db":
                entry.open().read(100)  # and no further: the next one is whole all the same
            elif entry.open:
                read[entry.path] = drain(entry.open())
            else:
                assert "No such file" in entry.error
        assert list(read) == [b"other.db"]
        assert read[b"other.db"] == (tmp_path / "other.db").read_bytes()
        assert session.fingerprint()["unreadable"].keys() == {"absent.db"}


def test_never_one_moment_is_said(database, tmp_path, monkeypatch):
    """Somebody commits between any two views."""
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    text = sqlite_program.__loader__.get_source(sqlite_program.__name__)
    text = text.replace("LOCK_WAIT_SECONDS = 30.0", "LOCK_WAIT_SECONDS = 0.2")
    text = text.replace("def data_version(", "def data_version(watcher):\n    return time.monotonic()\n\n\ndef unused(")
    monkeypatch.setattr("backupctl.sources.sqlite_session.program_text", lambda module: text)
    source = SqliteSource("s", SqliteOptions(paths=[str(database), str(other)], together=True))
    with source.open(HOST, CLOCK) as session, pytest.raises(SourceError, match="no one moment"):
        for entry in session.entries():
            drain(entry.open())


def test_one_changed_row_is_named(database, tmp_path):
    source = make(database)
    files, fingerprint = take(source)
    instance = restored(source, files, fingerprint, tmp_path / "back")
    with sqlite3.connect(tmp_path / "back" / "articles.db") as connection:
        connection.execute("UPDATE words SET n = 'NULL' WHERE word = 'a'")
    connection.execute("PRAGMA journal_mode = DELETE")  # the comparison reads the file alone
    connection.close()
    assert bad(source.compare(instance, fingerprint)) == ["table articles.db.words"]


def test_missing_database_after_a_restore_is_a_failure(database, tmp_path):
    source = make(database)
    _, fingerprint = take(source)
    instance = restored(source, MemoryFiles({}), fingerprint, tmp_path / "back")
    assert bad(source.compare(instance, fingerprint)) == ["database articles.db"]


def test_chosen_databases(database, tmp_path):
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    source = SqliteSource("two", SqliteOptions(paths=[str(other), str(database)]))
    files, fingerprint = take(source)
    assert files.names() == [b"articles.db", b"other.db"]
    instance = restored(source, files, fingerprint, tmp_path / "back", databases=["other.db"])
    assert (tmp_path / "back" / "other.db").exists()
    assert not (tmp_path / "back" / "articles.db").exists()
    assert not bad(source.compare(instance, fingerprint))
    with pytest.raises(NoSuchError, match=r"articles\.db, other\.db"):
        source.load(instance, files, databases=["nowhere.db"])


def test_flipped_byte_in_the_restored_file_is_found(database, tmp_path):
    source = make(database)
    files, fingerprint = take(source)
    content = bytearray(files.content[b"articles.db"])
    content[len(content) // 2] ^= 0x20
    instance = restored(source, MemoryFiles({b"articles.db": bytes(content)}), fingerprint, tmp_path / "back")
    assert bad(source.compare(instance, fingerprint))


def test_dump_that_is_no_database_is_damage(database, tmp_path):
    source = make(database)
    _, fingerprint = take(source)
    with pytest.raises(DamageError, match=r"articles\.db"):
        restored(source, MemoryFiles({b"articles.db": b"hello"}), fingerprint, tmp_path / "back")


def unreadable(path, tmp_path):
    with make(path).open(HOST, CLOCK) as session:
        (entry,) = session.entries()
        assert entry.open is None
        with pytest.raises(SourceError):
            session.fingerprint()
    return entry.error


def test_missing_empty_and_foreign_files_are_refused(tmp_path):
    assert "No such file" in unreadable(tmp_path / "absent.db", tmp_path)
    (tmp_path / "empty.db").write_bytes(b"")
    assert "empty" in unreadable(tmp_path / "empty.db", tmp_path)
    (tmp_path / "text.db").write_bytes(b"not a database at all")
    assert "not a database" in unreadable(tmp_path / "text.db", tmp_path)


def test_damaged_source_is_refused(database, tmp_path):
    content = bytearray(database.read_bytes())
    content[4096 * 3 : 4096 * 3 + 200] = b"\xff" * 200
    (tmp_path / "broken.db").write_bytes(bytes(content))
    message = unreadable(tmp_path / "broken.db", tmp_path)
    assert "broken.db" in message
    assert "integrity_check" in message or "malformed" in message


def test_locked_database_is_refused_in_bounded_time(database, monkeypatch):
    text = sqlite_program.__loader__.get_source(sqlite_program.__name__)
    assert "LOCK_WAIT_SECONDS = 30.0" in text
    short = text.replace("LOCK_WAIT_SECONDS = 30.0", "LOCK_WAIT_SECONDS = 0.2")
    monkeypatch.setattr("backupctl.sources.sqlite_session.program_text", lambda module: short)
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("INSERT INTO child VALUES (1)")
    assert "locked" in unreadable(database, None)
    connection.close()


def test_copy_killed_in_the_middle_raises(database, tmp_path):
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO articles (body) VALUES (zeroblob(5000000))")
    connection.close()
    with make(database).open(HOST, CLOCK) as session:
        for entry in session.entries():
            stream = entry.open()
            assert stream.read(10) == b"SQLite for"
            session._process.kill()
            with pytest.raises(SourceError, match=r"articles\.db"):
                drain(stream)


def test_nothing_stays_behind(database, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = sorted(database.parent.iterdir())
    take(make(database, scratch=str(scratch)))
    assert list(scratch.iterdir()) == []
    assert sorted(database.parent.iterdir()) == before


def test_preflight(tmp_path, database):
    assert make(database).preflight(HOST) == []
    (finding,) = make(tmp_path / "absent.db").preflight(HOST)
    assert finding.severity == "error"
    assert "absent.db" in finding.message


def test_preflight_where_we_may_not_look(monkeypatch, database):
    def refuse(_self, path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(type(HOST), "stat", refuse)
    (finding,) = make(database).preflight(HOST)
    assert finding.severity == "error"
    assert "Permission denied" in finding.message


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"path": "/a", "paths": ["/b"]},
        {"paths": ["/a/x.db", "/b/x.db"]},
        {"path": "relative.db"},
        {"path": "/a", "x": 1},
        {"path": "/a", "together": True},
    ],
)
def test_options_refused(options):
    with pytest.raises(ValidationError):
        SqliteOptions(**options)
