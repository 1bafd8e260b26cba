"""What runs beside a SQLite database: sent as text to the far Python (>= 3.7 there for the backup API; standard library only).

    snapshot PATH SCRATCH   copy into an unlinked file, judge the copy, send header + bytes + content
    together SCRATCH PATH…  the same for several at one moment, one after the other; each header says whether it was one
    inspect PATH WAY        judge a file that nobody writes to, send header and content as one; digests made in that way
    query PATH              one read-only statement from stdin, the rows as JSON

Header and content are each one line of JSON, with exactly `size` bytes in between. The header tells that the copy is intact, the
content what is in its tables, which is read while the bytes are sent. A refusal is a line with `error`; of
a header, exit 3.
"""

import errno
import hashlib
import json
import marshal
import os
import pathlib
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from urllib.parse import quote

LOCK_WAIT_SECONDS = 30.0
SHORT_WAIT_SECONDS = 0.5
"""While views of others are held: who commits into several files at once may wait for one of ours and hold the next."""
COPY_BYTES = 1 << 20
NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP)
SELECT, IN_ORDER = "SELECT * FROM ", " NOT INDEXED"  # in the order of rowid or primary key
NEWEST_WAY = "2"


class Refusal(Exception):
    pass


def connect(path: bytes, mode: str, wait: float = LOCK_WAIT_SECONDS) -> sqlite3.Connection:
    uri = "file:" + quote(path) + "?" + mode
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=wait)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


def begin_view(path: bytes, wait: float = LOCK_WAIT_SECONDS) -> sqlite3.Connection:
    """A connection that holds a read transaction: from here on the database is one moment.

    Without it, `backup` waits for ever on an exclusive lock. Where a WAL lies, read-only first: then nothing of the owner's
    is touched. Where none lies, a read-only connection would leave an empty one, and a writing one cleans up after itself.
    """
    refused = ""
    modes = ("mode=ro", "mode=rw") if os.access(path + b"-wal", os.F_OK) else ("mode=rw", "mode=ro")
    for mode in modes:
        connection = None
        try:
            connection = connect(path, mode, wait)
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return connection
        except sqlite3.DatabaseError as error:
            refused = refused or str(error)
            if connection is not None:
                connection.close()
            if "locked" in refused or "not a database" in refused or "malformed" in refused:
                break
    raise Refusal(refused)


def open_file(path: bytes) -> int:
    """A descriptor that nobody closes: with it every lock would go that SQLite holds for us on the same file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        magic = os.read(descriptor, 16)
    except OSError as error:
        raise Refusal(error.strerror or str(error)) from None
    if magic != b"SQLite format 3\0":
        raise Refusal("file is empty" if not magic else "file is not a database")
    return descriptor


def check_integrity(database: sqlite3.Connection) -> "tuple[str, list[str]]":
    """Which check ran and what it found; a collation that only the application knows leaves `quick_check`."""
    found = []
    for check in ("integrity_check", "quick_check"):
        try:
            found = [str(row[0]) for row in database.execute("PRAGMA " + check + "(20)")]
        except sqlite3.OperationalError as error:
            if check == "integrity_check" and "no such" in str(error):
                continue
            raise
        break
    return check, [] if found == ["ok"] else found


def digest_rows(rows: sqlite3.Cursor, way: str = "1") -> "dict[str, object]":
    """Both ways keep NULL, numbers, text and blobs apart and are the same in every Python: 1 is `ascii` of each row, 2 its
    `marshal` of version 2, in half the time. A digest of 2 says so, by `2:` before it."""
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update(marshal.dumps(row, 2) if way == "2" else ascii(row).encode() + b"\n")
        count += 1
    return {"rows": count, "digest": ("2:" if way == "2" else "") + digest.hexdigest()}


def digest_table(database: sqlite3.Connection, quoted: str, way: str) -> "dict[str, object]":
    """Read as proper text, a seventh quicker; as whatever the bytes are where one text turns out not to be UTF-8."""
    tolerant = database.text_factory
    database.text_factory = str
    try:
        return digest_rows(database.execute(SELECT + quoted + IN_ORDER), way)
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    finally:
        database.text_factory = tolerant
    return digest_rows(database.execute(SELECT + quoted + IN_ORDER), way)


def quoted_tables(database: sqlite3.Connection) -> "dict[str, str]":
    # a virtual table (rootpage 0) keeps its content in ordinary shadow tables, which are listed themselves
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name")
    return {name: '"' + name.replace('"', '""') + '"' for (name,) in names.fetchall()}


def judge_file(database: sqlite3.Connection) -> "dict[str, object]":
    """What is told of an intact database before its content. Refuses any other, and one with a table that cannot be asked for."""
    check, damage = check_integrity(database)
    if damage:
        raise Refusal(check + ": " + "; ".join(damage)[:2000])
    for quoted in quoted_tables(database).values():
        database.execute(SELECT + quoted + IN_ORDER + " LIMIT 0")
    facts = {"check": check}  # type: dict[str, object]
    facts["foreign_key_violations"] = sum(1 for _ in database.execute("PRAGMA foreign_key_check"))
    for name in ("user_version", "application_id", "page_size", "page_count", "encoding"):
        facts[name] = database.execute("PRAGMA " + name).fetchone()[0]
    return facts


def describe_content(database: sqlite3.Connection, way: str) -> "dict[str, object]":
    tables = {name: digest_table(database, quoted, way) for name, quoted in quoted_tables(database).items()}
    schema = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")
    return {"tables": tables, "schema": digest_rows(schema)["digest"]}


class Copy:
    """Of the database at `path`, as of the moment of its view, which ends. It has lost its name before it holds anything."""

    def __init__(self, path: bytes, file: int, view: sqlite3.Connection, scratch: str) -> None:
        directory = tempfile.mkdtemp(prefix="backupctl-", dir=scratch or None)
        try:
            if not hasattr(view, "backup"):
                raise Refusal(f"Python {sys.version.split()[0]} has no SQLite backup API; 3.7 or newer is needed")
            name = pathlib.Path(directory, "copy")
            self.descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            copy, self.judge = connect(os.fsencode(name), "mode=rw"), connect(os.fsencode(name), "mode=ro")
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            self.judge.execute("PRAGMA schema_version").fetchone()  # opens the file: SQLite is lazy
            name.unlink()
            if is_still(view, path, file):
                transfer(self.descriptor, file, 0, pragma(view, "page_count") * pragma(view, "page_size"))
            else:
                view.backup(copy, pages=-1)  # small steps start again at every foreign write
            copy.close()
        finally:
            view.close()
            shutil.rmtree(directory, ignore_errors=True)
        self.head = os.pread(self.descriptor, 20, 0)
        # A WAL database says so in its header, and cannot be read without a name beside which the WAL would lie.
        os.pwrite(self.descriptor, b"\1\1", 18)
        self.header = judge_file(self.judge)
        self.header["size"] = self.size = os.fstat(self.descriptor).st_size

    def send(self) -> None:
        """While one thread sends the bytes, this one reads the rows: SQLite lets others run meanwhile."""
        say(self.header)
        sys.stdout.buffer.write(self.head)
        sys.stdout.buffer.flush()
        failed = []  # type: list[OSError]
        sender = threading.Thread(target=self._send_rest, args=(failed,))
        sender.start()
        try:
            content = describe_content(self.judge, NEWEST_WAY)
        except (sqlite3.Error, sqlite3.Warning) as error:
            content = {"error": str(error)}
        finally:
            sender.join()
            self.judge.close()
            os.close(self.descriptor)
            if failed:
                sys.exit(f"the copy could not be sent: {failed[0]}")  # in the middle of it nothing else can be said
        say(content)

    def _send_rest(self, failed: "list[OSError]") -> None:
        try:
            transfer(sys.stdout.buffer.fileno(), self.descriptor, len(self.head), self.size)
        except OSError as error:
            failed.append(error)


def is_still(view: sqlite3.Connection, path: bytes, file: int) -> bool:
    """Whether the file is what the view sees, while that lasts. Without a WAL nobody may write into a file that somebody reads: its
    bytes can be copied as they are, in a third of the time that the online backup API takes page by page."""
    there = pathlib.Path(os.fsdecode(path)).stat()
    same = os.path.samestat(os.fstat(file), there)  # nobody put another one there before the view began
    return same and view.execute("PRAGMA journal_mode").fetchone()[0] != "wal"


def pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute("PRAGMA " + name).fetchone()[0])


def transfer(target: int, source: int, start: int, end: int) -> None:
    """Part of a file into a pipe or another file; by the kernel, in a fraction of the time, where it can."""
    direct = hasattr(os, "sendfile")
    while start < end:
        count = min(COPY_BYTES, end - start)
        try:
            moved = (
                os.sendfile(target, source, start, count)
                if direct
                else os.write(target, os.pread(source, count, start))
            )
        except OSError as error:
            if not direct or error.errno not in NO_SENDFILE:
                raise
            direct = False
            continue
        if not moved:
            raise OSError("a file became shorter while it was copied")
        start += moved


def begin_together(
    paths: "list[bytes]",
) -> "tuple[dict[bytes, int], dict[bytes, sqlite3.Connection], bool]":
    """A descriptor and a view of each that can be read, and whether they are one moment.

    They are when nobody committed anywhere while they were begun, and nobody was in the middle of a commit either: with a WAL,
    a transaction over several files becomes visible in one after the other, while the write locks of all are held.
    """
    files, watchers = {}, {}
    for path in paths:
        try:
            files[path] = open_file(path)
            begin_view(path).close()
            watchers[path] = connect(path, "mode=rw", SHORT_WAIT_SECONDS)
        except (Refusal, sqlite3.Error):
            continue  # said again, for its own header
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        views, same = {}, False
        try:
            before = {path: data_version(watcher) for path, watcher in watchers.items()}
            for path in watchers:
                views[path] = begin_view(path, SHORT_WAIT_SECONDS)
            same = before == {path: settled_version(watcher) for path, watcher in watchers.items()}
        except (Refusal, sqlite3.Error) as error:
            same = False
            if "readonly" in str(error):
                deadline = 0.0  # no later try would lock more
        if same or (time.monotonic() > deadline and len(views) == len(watchers)):
            break
        for view in views.values():
            view.close()
        if time.monotonic() > deadline:
            views = {}
            break
    for watcher in watchers.values():
        watcher.close()
    return files, views, same


def settled_version(watcher: sqlite3.Connection) -> int:
    """The version at an instant at which nobody is about to commit: who is holds the write lock, which is taken for that instant.

    Without a WAL our views keep every commit out, and who may only read needs no lock; with one, sqlite3.Error then.
    """
    if watcher.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        return data_version(watcher)
    watcher.execute("BEGIN IMMEDIATE")
    try:
        return data_version(watcher)
    finally:
        watcher.execute("ROLLBACK")


def data_version(watcher: sqlite3.Connection) -> int:
    """Changes when another connection commits."""
    return pragma(watcher, "data_version")


def send_together(paths: "list[bytes]", scratch: str) -> None:
    files, views, same = begin_together(paths)
    for path in paths:
        try:
            file = files[path] if path in files else open_file(path)
            view = views.pop(path, None)
            copy = Copy(path, file, view if view is not None else begin_view(path), scratch)
            copy.header["together"] = same and view is not None
            copy.send()
        except (Refusal, sqlite3.Error, sqlite3.Warning, OSError) as error:
            say({"error": str(error)})


def say(facts: "dict[str, object]") -> None:
    facts["versions"] = {"sqlite": sqlite3.sqlite_version, "python": sys.version.split()[0]}
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n")
    sys.stdout.buffer.flush()


def main(arguments: "list[str]") -> int:
    verb, path = arguments[0], os.fsencode(arguments[1])
    if verb == "together":
        send_together([os.fsencode(one) for one in arguments[2:]], arguments[1])
        return 0
    try:
        file = open_file(path)
        if verb == "snapshot":
            Copy(path, file, begin_view(path), arguments[2]).send()
        elif verb == "inspect":
            database = connect(path, "mode=ro&immutable=1")
            facts = judge_file(database)
            facts.update(describe_content(database, arguments[2]))
            say(facts)
        else:
            database = connect(path, "mode=ro&immutable=1")
            rows = database.execute(sys.stdin.read()).fetchall()
            say({"rows": [["" if cell is None else str(cell) for cell in row] for row in rows]})
    except (Refusal, sqlite3.Error, sqlite3.Warning, OSError) as error:
        say({"error": str(error)})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
