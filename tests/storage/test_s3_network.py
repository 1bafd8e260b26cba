"""A server, or something between us and it, that answers nonsense. No real S3 is needed to be let down."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from backupctl.errors import Denied, Full, StorageError, StoreUnreachableError, Transient, UserError
from backupctl.storage.credentials import Credentials
from backupctl.storage.options import S3Options
from backupctl.storage.s3 import S3Store


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[S3Store]:
    """A store whose server reads one request per connection, sends `answer` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener was closed: the test is over
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):  # the client may hang up first
                        request = b""
                        while b"\r\n\r\n" not in request:
                            request += connection.recv(65536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        store = S3Store(S3Options(bucket="bucket", endpoint=endpoint), Credentials("access", "top-secret"))
        try:
            yield store
        finally:
            store.close()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def http(status: str, body: bytes = b"", *, length: int | None = None, kind: str = "application/xml") -> bytes:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said so</Message></Error>".encode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", Transient),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Transient),
        (http("200 OK", b"half", length=8), Transient),
        (http("500 Internal Server Error", error("InternalError")), Transient),
        (http("503 Slow Down", error("SlowDown")), Transient),
        (http("502 Bad Gateway", b"<html>proxy</html>", kind="text/html"), Transient),
        (http("429 Too Many Requests", error("TooManyRequests")), Transient),
        (http("507 Insufficient Storage", error("XMinioStorageFull")), Full),
        (http("403 Forbidden", error("RequestTimeTooSkewed")), Denied),
        (http("403 Forbidden", b"<html>proxy</html>", kind="text/html"), Denied),
        (http("401 Unauthorized"), Denied),
        (http("404 Not Found", error("NoSuchBucket")), StoreUnreachableError),
        (http("400 Bad Request", error("AuthorizationHeaderMalformed")), StorageError),
        (http("501 Not Implemented", error("NotImplemented")), StorageError),
        (http("405 Method Not Allowed", b""), StorageError),
    ],
)
def test_nonsense_is_classified(answer: bytes, expected: type[UserError]) -> None:
    with answering(answer) as store:
        with pytest.raises(expected) as caught:
            store.get("data/ab/cd")
        assert type(caught.value) is expected
        assert caught.value.message.startswith(store.location)
        assert "data/ab/cd" in caught.value.message
        assert "top-secret" not in str(caught.value)
        for call in (
            lambda: store.put("data/ab/cd", b"x"),
            lambda: store.stat("data/ab/cd"),
            lambda: store.delete("data/ab/cd"),
            lambda: list(store.list("data/")),
        ):
            # what HEAD and an empty answer mean depends on the call; that it is no traceback does not
            with contextlib.suppress(UserError):
                call()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>please log in</html>",
        b"<ListBucketResult><Contents><Key>half",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    ],
)
def test_a_page_that_is_no_listing_is_not_an_empty_store(body: bytes) -> None:
    with answering(http("200 OK", body)) as store, pytest.raises(Transient, match="cannot list everything"):
        list(store.list())


def test_a_login_page_has_stored_nothing() -> None:
    with answering(http("200 OK", b"<html>please log in</html>", kind="text/html")) as store:
        for if_absent in (False, True):
            with pytest.raises(Transient, match="not the answer of an S3 server"):
                store.put("config", b"c", if_absent=if_absent)
        with pytest.raises(Transient, match="not the answer of an S3 server"):
            store.stat("config")


def test_a_server_that_ignores_ranges_is_found_out() -> None:
    with answering(http("200 OK", b"12345", kind="application/octet-stream")) as store:
        assert store.get("data/ab/cd") == b"12345"
        with pytest.raises(UserError, match="ignored the range"):
            store.get("data/ab/cd", offset=1, length=4)
        with pytest.raises(UserError, match="ignored the range"):
            store.get("data/ab/cd", offset=0, length=5)
