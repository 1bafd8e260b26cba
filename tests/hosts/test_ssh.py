"""What only happens between machines: logins, host keys, jump hosts, and connections that break."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from backupctl.errors import ConfigError, CouldNotRunError, UnreachableError, UserError, WrongKeyError
from backupctl.hosts import ssh
from backupctl.hosts.options import HostOptions
from backupctl.hosts.protocol import Placer
from backupctl.hosts.registry import open_host
from backupctl.hosts.secret import SecretRef
from backupctl.hosts.ssh import SshHost
from tests.conformance.test_hosts import await_gone
from tests.servers.plugin_sshd import ssh_options
from tests.servers.sshd import Sshd, make_key

NewHost = Callable[..., SshHost]


def fetch(reference: SecretRef) -> bytes:
    assert reference.file is not None
    return Path(reference.file).read_bytes()


def test_an_unpinned_host_key_is_refused_and_shown(sshd: Sshd, new_ssh_host: NewHost) -> None:
    with pytest.raises(UnreachableError) as caught:
        new_ssh_host(host_key="").facts()
    assert sshd.fingerprint("ed25519") in str(caught.value)
    assert sshd.fingerprint("rsa") in str(caught.value)
    assert "ssh-keygen -lf" in caught.value.next_step


def test_a_changed_host_key_is_refused(sshd: Sshd, new_ssh_host: NewHost) -> None:
    with pytest.raises(UnreachableError, match="NOT the pinned host key SHA256:AAAA"):
        new_ssh_host(host_key="SHA256:" + "A" * 43).facts()


def test_any_key_of_the_host_may_be_pinned(sshd: Sshd, new_ssh_host: NewHost) -> None:
    assert new_ssh_host(host_key=sshd.fingerprint("rsa")).run(["true"]).returncode == 0


def test_a_wrong_login_key_says_which_line_is_missing(sshd: Sshd, new_ssh_host: NewHost) -> None:
    with pytest.raises(WrongKeyError) as caught:
        new_ssh_host(key=sshd.other_key).facts()
    public = sshd.other_key.with_suffix(".pub").read_text().rsplit(" ", 2)[0]
    assert public in caught.value.next_step


def test_a_key_with_a_passphrase_and_no_key_at_all(tmp_path: Path, new_ssh_host: NewHost) -> None:
    make_key(tmp_path / "locked", passphrase="something")
    with pytest.raises(UserError, match="has a passphrase"):
        new_ssh_host(key=tmp_path / "locked").facts()
    (tmp_path / "junk").write_bytes(b"no key\xff")
    with pytest.raises(UserError, match="is not an Ed25519, ECDSA or RSA private key"):
        new_ssh_host(key=tmp_path / "junk").facts()


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_other_kinds_of_login_keys(sshd: Sshd, tmp_path: Path, new_ssh_host: NewHost, kind: str) -> None:
    key = tmp_path / "key"
    make_key(key, kind)
    with (sshd.directory / "authorized_keys").open("a") as authorized:
        authorized.write(key.with_suffix(".pub").read_text())
    assert new_ssh_host(key=key).run(["true"]).returncode == 0


def test_nobody_listens(new_ssh_host: NewHost) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match="Connection refused"):
            new_ssh_host(port=taken.getsockname()[1]).facts()


def test_something_else_listens(new_ssh_host: NewHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UnreachableError, match="SSH connection failed"):
            new_ssh_host(port=server.getsockname()[1]).facts()


def test_a_host_without_python(sshd: Sshd) -> None:
    host = SshHost("web1", ssh_options(sshd), sshd.login_key.read_bytes(), python="python3-is-missing")
    with pytest.raises(CouldNotRunError, match="no usable python3") as caught:
        host.run(["true"])
    assert "install the package python3" in caught.value.next_step
    host.close()


def test_a_command_longer_than_ssh_can_carry(ssh_host: SshHost) -> None:
    with pytest.raises(UserError, match="more than SSH can carry"):
        ssh_host.run(["echo", "x" * 140_000])


# jump hosts


def test_through_a_jump_host(sshd: Sshd, tmp_path: Path) -> None:
    with Sshd(tmp_path / "inner") as inner:
        hosts = {
            "bastion": HostOptions(ssh=ssh_options(sshd)),
            "inner": HostOptions(ssh=ssh_options(inner, jump="bastion")),
        }
        host = open_host("inner", hosts["inner"], secrets=fetch, base=tmp_path, hosts=hosts)
        connection = host.run(["sh", "-c", "cat /proc/$PPID/stat"])
        assert connection.returncode == 0
        assert host.facts().uid == os.geteuid()
        assert "Accepted publickey" in inner.log()
        host.close()
    host = open_host("inner", hosts["inner"], secrets=fetch, base=tmp_path, hosts=hosts)
    with pytest.raises(UnreachableError, match="jump host bastion cannot reach"):
        host.facts()
    host.close()


def test_jump_hosts_that_make_no_sense(sshd: Sshd, tmp_path: Path) -> None:
    hosts = {
        "a": HostOptions(ssh=ssh_options(sshd, jump="b")),
        "b": HostOptions(ssh=ssh_options(sshd, jump="a")),
        "c": HostOptions(ssh=ssh_options(sshd, jump="nowhere")),
    }
    with pytest.raises(ConfigError, match="circle: a → b → a"):
        open_host("a", hosts["a"], secrets=fetch, base=tmp_path, hosts=hosts)
    with pytest.raises(ConfigError, match="'nowhere' is not an SSH host"):
        open_host("c", hosts["c"], secrets=fetch, base=tmp_path, hosts=hosts)


# connections that break


@contextmanager
def cut_after(target: Sshd, count: int) -> Iterator[int]:
    """A port that passes everything on, and cuts both ways once the server has sent `count` bytes."""
    with socket.create_server(("127.0.0.1", 0)) as front:

        def serve() -> None:
            near, _ = front.accept()
            front.close()
            far = socket.create_connection((target.address, target.port))
            threading.Thread(target=pump, args=(near, far, 1 << 60), daemon=True).start()
            pump(far, near, count)

        def pump(source: socket.socket, sink: socket.socket, left: int) -> None:
            try:
                while left > 0 and (data := source.recv(min(left, 65536))):
                    sink.sendall(data)
                    left -= len(data)
            except OSError:
                pass  # the other direction has been cut
            finally:
                for end in (source, sink):
                    try:
                        end.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        continue  # was cut from the other side already

        threading.Thread(target=serve, daemon=True).start()
        yield front.getsockname()[1]


@pytest.mark.parametrize("count", [10, 1000, 5000, 20_000, 200_000, 300_000, 700_000, 1_000_000, 2_000_000])
def test_a_cut_connection_is_never_a_short_file(sshd: Sshd, new_ssh_host: NewHost, tmp_path: Path, count: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2_500_000))
    with cut_after(sshd, count) as port:
        host = new_ssh_host(port=port)
        with pytest.raises(UnreachableError), host.open_read(os.fsencode(path)) as stream:
            stream.read()
        with pytest.raises(UnreachableError):  # and it stays broken
            host.stat(os.fsencode(path))


@pytest.mark.parametrize("count", [20_000, 300_000, 1_500_000])
def test_a_cut_connection_is_never_a_short_stream(sshd: Sshd, new_ssh_host: NewHost, count: int) -> None:
    with cut_after(sshd, count) as port:
        host = new_ssh_host(port=port)
        with pytest.raises(UnreachableError):
            host.run(["sh", "-c", "head -c 3000000 /dev/zero"])


def test_a_killed_sshd_ends_everything_under_way(sshd: Sshd, new_ssh_host: NewHost, tmp_path: Path) -> None:
    host = new_ssh_host()
    (tmp_path / "file").write_bytes(bytes(30_000_000))
    reader = host.open_read(os.fsencode(tmp_path / "file"))
    private = host.private_file(b"secret")
    secret = private.__enter__()
    process = host.start(["sh", "-c", "echo $$; sleep 1000"])
    pid = int(process.stdout.read(100))
    scan = host.scan(b"/usr/lib")
    next(scan)
    sshd.cut_connections()
    with pytest.raises(UnreachableError):
        reader.read()
    with pytest.raises(UnreachableError):
        process.stdout.read(100)
    with pytest.raises(UnreachableError):
        process.finish()
    with pytest.raises(UnreachableError):
        list(scan)
    with pytest.raises(UnreachableError):
        host.make_directory(os.fsencode(tmp_path / "new"))
    private.__exit__(None, None, None)
    await_gone([pid])  # the command did not outlive its connection
    await_missing(secret)  # nor did the secret
    reader.close()


def test_a_restore_cut_in_the_middle(sshd: Sshd, new_ssh_host: NewHost, tmp_path: Path) -> None:
    host = new_ssh_host()
    sink = host.open_write(os.fsencode(tmp_path / "written"))
    sink.write(b"x" * 100)

    def place_many(placer: Placer) -> None:
        for number in range(100_000):
            placer.directory(b"%d" % number)
            if number == 2000:
                sshd.cut_connections()
        placer.flush()

    with pytest.raises(UnreachableError), host.placer(os.fsencode(tmp_path)) as placer:
        place_many(placer)
    with pytest.raises(UnreachableError):
        sink.close()


def await_missing(path: str) -> None:
    deadline = time.monotonic() + 20
    while os.path.exists(path):
        assert time.monotonic() < deadline, f"still there: {path}"
        time.sleep(0.02)


def test_more_commands_at_once_than_sshd_allows_sessions(new_ssh_host: NewHost) -> None:
    """MariaDB needs one running dump per database, and sshd allows 10 sessions per connection (MaxSessions)."""
    host = new_ssh_host()
    with ExitStack() as stack:
        running = [stack.enter_context(host.start(["cat"])) for _ in range(25)]
        for number, process in enumerate(running):
            process.stdin.write(b"%d" % number)
        assert [process.finish().returncode for process in running] == [0] * 25
    host.close()


def test_there_is_an_end_to_the_connections(new_ssh_host: NewHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "MAX_CONNECTIONS", 1)
    host = new_ssh_host()
    with ExitStack() as stack, pytest.raises(UnreachableError, match="opens no further channel") as caught:
        for _ in range(25):
            stack.enter_context(host.start(["cat"]))
    assert "MaxSessions" in caught.value.next_step
    host.close()
