"""What only happens between machines: logins, host keys, jump hosts, and connections that break."""

from __future__ import annotations

import base64
import os
import random
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from backupctl.errors import ConfigError, CouldNotRunError, UnreachableError, UserError, WrongKeyError
from backupctl.hosts import paramiko_transport
from backupctl.hosts.options import HostOptions
from backupctl.hosts.protocol import Placer
from backupctl.hosts.registry import open_host
from backupctl.hosts.secret import SecretRef
from backupctl.hosts.ssh import SshHost
from backupctl.hosts.transport import Login
from tests.conformance.test_hosts import await_gone
from tests.end_to_end.processes import wait_until
from tests.servers.plugin_sshd import ssh_options
from tests.servers.relay import relay
from tests.servers.sshd import Sshd, make_key
from tests.soak import rounds

NewHost = Callable[..., SshHost]


@pytest.fixture(params=["paramiko", "openssh"])
def new_host(request: pytest.FixtureRequest, new_ssh_host: NewHost) -> NewHost:
    """Hosts by either transport."""
    return partial(new_ssh_host, transport=request.param)


def fetch(reference: SecretRef) -> bytes:
    assert reference.file is not None
    return Path(reference.file).read_bytes()


def test_an_unpinned_host_key_is_refused_and_shown(sshd: Sshd, new_host: NewHost) -> None:
    with pytest.raises(UnreachableError) as caught:
        new_host(host_key="").facts()
    assert sshd.fingerprint("ed25519") in str(caught.value)
    assert sshd.fingerprint("rsa") in str(caught.value)
    assert "ssh-keygen -lf" in caught.value.next_step


def test_a_changed_host_key_is_refused(sshd: Sshd, new_host: NewHost) -> None:
    with pytest.raises(UnreachableError, match="NOT the pinned host key SHA256:AAAA"):
        new_host(host_key="SHA256:" + "A" * 43).facts()


def test_any_key_of_the_host_may_be_pinned(sshd: Sshd, new_host: NewHost) -> None:
    assert new_host(host_key=sshd.fingerprint("rsa")).run(["true"]).returncode == 0


def test_a_wrong_login_key_says_which_line_is_missing(sshd: Sshd, new_ssh_host: NewHost) -> None:
    with pytest.raises(WrongKeyError, match="login as") as caught:
        new_ssh_host(key=sshd.other_key, transport="openssh").facts()
    assert "authorized_keys" in caught.value.next_step
    with pytest.raises(WrongKeyError) as caught:
        new_ssh_host(key=sshd.other_key).facts()
    public = sshd.other_key.with_suffix(".pub").read_text().rsplit(" ", 2)[0]
    assert public in caught.value.next_step


def test_a_key_with_a_passphrase_and_no_key_at_all(tmp_path: Path, new_ssh_host: NewHost) -> None:
    make_key(tmp_path / "locked", passphrase="something")
    with pytest.raises(UserError, match="has a passphrase"):
        new_ssh_host(key=tmp_path / "locked").facts()
    with pytest.raises(UserError, match=r"login as .* refused|cannot be used"):
        new_ssh_host(key=tmp_path / "locked", transport="openssh").facts()
    (tmp_path / "junk").write_bytes(b"no key\xff")
    with pytest.raises(UserError, match="is not an Ed25519, ECDSA or RSA private key"):
        new_ssh_host(key=tmp_path / "junk").facts()


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_other_kinds_of_login_keys(sshd: Sshd, tmp_path: Path, new_host: NewHost, kind: str) -> None:
    key = tmp_path / "key"
    make_key(key, kind)
    with (sshd.directory / "authorized_keys").open("a") as authorized:
        authorized.write(key.with_suffix(".pub").read_text())
    assert new_host(key=key).run(["true"]).returncode == 0


def test_a_user_certificate_logs_in(sshd: Sshd, tmp_path: Path, new_ssh_host: NewHost) -> None:
    """sshd knows the authority alone, and a certificate that has run out is as good as none."""
    authority, key = tmp_path / "ca", tmp_path / "certified"
    make_key(authority)
    make_key(key)
    with (sshd.directory / "authorized_keys").open("a") as authorized:
        authorized.write("cert-authority " + authority.with_suffix(".pub").read_text())

    def certify(validity: str) -> bytes:
        argv = [
            "ssh-keygen",
            "-q",
            "-s",
            str(authority),
            "-I",
            "backupctl",
            "-n",
            sshd.user,
            "-V",
            validity,
            f"{key}.pub",
        ]
        subprocess.run(argv, check=True, capture_output=True)
        return Path(f"{key}-cert.pub").read_bytes()

    valid, expired = certify("+1h"), certify("20200101:20200102")
    reference = SecretRef(file=f"{key}-cert.pub")
    for transport in ("paramiko", "openssh"):
        options = ssh_options(sshd, certificate=reference, transport=transport)
        host = SshHost("web1", options, Login(key.read_bytes(), valid))
        assert host.run(["true"]).returncode == 0
        host.close()
        for certificate in (expired, b""):
            host = SshHost("web1", options, Login(key.read_bytes(), certificate))
            with pytest.raises(WrongKeyError):
                host.facts()
            host.close()
    host = SshHost("web1", ssh_options(sshd, certificate=reference), Login(key.read_bytes(), b"no certificate"))
    with pytest.raises(UserError, match="is not a user certificate of its key"):
        host.facts()
    host.close()


def test_the_keys_of_an_ssh_agent_log_in(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody"))
    for transport, error in (("paramiko", UserError), ("openssh", WrongKeyError)):
        host = SshHost("web1", ssh_options(sshd, key=None, transport=transport), Login())
        with pytest.raises(error, match=r"no ssh-agent answers|login as .* refused"):
            host.facts()
        host.close()
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        wait_until((tmp_path / "agent").exists, "the ssh-agent")
        for key in (sshd.other_key, sshd.login_key):  # the first is refused
            subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
        for transport in ("paramiko", "openssh"):
            host = SshHost("web1", ssh_options(sshd, key=None, transport=transport), Login())
            assert host.run(["true"]).returncode == 0
            host.close()
    finally:
        agent.kill()
        agent.wait()


def token_key() -> bytes:
    """What `ssh-keygen -t ed25519-sk` writes: the private half stays on the token. PROTOCOL.key and PROTOCOL.u2f of OpenSSH."""

    def string(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    public = string(b"sk-ssh-ed25519@openssh.com") + string(bytes(32)) + string(b"ssh:")
    private = bytes(8) + public + b"\1" + string(bytes(64)) + string(b"") + string(b"token")
    private += bytes(range(1, 1 + -len(private) % 8))
    whole = b"openssh-key-v1\0" + string(b"none") * 2 + string(b"") + (1).to_bytes(4, "big")
    text = base64.encodebytes(whole + string(public) + string(private)).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}-----END OPENSSH PRIVATE KEY-----\n".encode()


def test_a_key_on_a_security_token_needs_the_other_transport(sshd: Sshd, new_ssh_host: NewHost, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(token_key())
    with pytest.raises(UserError, match="is not an Ed25519") as caught:
        new_ssh_host(key=tmp_path / "token").facts()
    assert "`transport: openssh`" in caught.value.next_step


def test_a_dead_peer_is_noticed_by_keepalives(new_ssh_host: NewHost) -> None:
    host = new_ssh_host(transport="openssh")
    said = subprocess.run([*host.transport.ssh(), "-G", "--", "x"], capture_output=True, text=True, check=True).stdout
    assert {"serveraliveinterval 15", "serveralivecountmax 3", "stricthostkeychecking true"} <= set(said.splitlines())
    assert "forwardagent no" in said.splitlines()


def test_what_openssh_is_told_is_private_and_goes_away(new_ssh_host: NewHost, sshd: Sshd, tmp_path: Path) -> None:
    """The user's own ssh_config is not read unless it is asked for."""
    host = new_ssh_host(transport="openssh")
    assert host.run(["true"]).returncode == 0
    directory = Path(host.transport._directory.name)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {one.name for one in directory.iterdir()} == {"control", "key", "known_hosts"}
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in directory.iterdir())
    assert sshd.login_key.read_text().splitlines()[1] not in " ".join(host.transport.ssh())
    host.close()
    assert not directory.exists()
    (tmp_path / "config").write_text("Host *\n  SendEnv LC_FROM_CONFIG\n")
    host = new_ssh_host(transport="openssh", ssh_config=str(tmp_path / "config"))
    argv = [*host.transport.ssh(), "-G", "--", "x"]
    assert "sendenv LC_FROM_CONFIG" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_nobody_listens(new_host: NewHost) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match=r"[Cc]onnection refused"):
            new_host(port=taken.getsockname()[1]).facts()


def test_something_else_listens(new_host: NewHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UnreachableError, match="SSH connection failed"):
            new_host(port=server.getsockname()[1]).facts()


def test_a_host_without_python(sshd: Sshd) -> None:
    host = SshHost("web1", ssh_options(sshd), Login(sshd.login_key.read_bytes()), python="python3-is-missing")
    with pytest.raises(CouldNotRunError, match="no usable python3") as caught:
        host.run(["true"])
    assert "install the package python3" in caught.value.next_step
    host.close()


def test_a_command_longer_than_ssh_can_carry(new_host: NewHost) -> None:
    with pytest.raises(UserError, match="more than SSH can carry"):
        new_host().run(["echo", "x" * 140_000])


# jump hosts


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_through_a_jump_host(sshd: Sshd, tmp_path: Path, transport: str) -> None:
    """The jump host goes by the transport of whoever goes through it."""
    with Sshd(tmp_path / "inner") as inner:
        hosts = {
            "bastion": HostOptions(ssh=ssh_options(sshd)),
            "inner": HostOptions(ssh=ssh_options(inner, jump="bastion", transport=transport)),
        }
        host = open_host("inner", hosts["inner"], secrets=fetch, base=tmp_path, hosts=hosts)
        assert host.run(["true"]).returncode == 0
        assert host.facts().uid == os.geteuid()
        assert "Accepted publickey" in inner.log()
        host.close()
        changed = {**hosts, "bastion": HostOptions(ssh=ssh_options(sshd, host_key="SHA256:" + "A" * 43))}
        host = open_host("inner", hosts["inner"], secrets=fetch, base=tmp_path, hosts=changed)
        with pytest.raises(UnreachableError, match="host bastion: NOT the pinned host key"):
            host.facts()
        host.close()
    host = open_host("inner", hosts["inner"], secrets=fetch, base=tmp_path, hosts=hosts)
    with pytest.raises(UnreachableError, match=r"jump host bastion cannot reach|host inner: SSH connection failed"):
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


def cuts(*known: int, below: int) -> list[int]:
    """After how many bytes of the server's the connection is cut: some places that matter, and drawn ones, many in a soak."""
    drawn = random.Random(below)
    return [*known, *(drawn.randrange(below) for _ in range(rounds(2, 200)))]


@pytest.mark.parametrize("count", cuts(10, 3000, 20_000, 262_144, 1_000_000, below=2_500_000))
def test_a_cut_connection_is_never_a_short_file(sshd: Sshd, new_host: NewHost, tmp_path: Path, count: int) -> None:
    path = tmp_path / "file"
    content = random.Random(count).randbytes(2_500_000)
    path.write_bytes(content)
    with relay(sshd.port, count) as cutting:
        host = new_host(port=cutting.port)
        with pytest.raises(UnreachableError), host.open_read(os.fsencode(path)) as stream:
            stream.read()
        with pytest.raises(UnreachableError):  # and it stays broken
            host.stat(os.fsencode(path))


@pytest.mark.parametrize("count", cuts(30_000, 300_000, below=3_000_000))
def test_a_cut_connection_is_never_a_short_stream(sshd: Sshd, new_host: NewHost, count: int) -> None:
    with relay(sshd.port, count) as cutting:
        host = new_host(port=cutting.port)
        with pytest.raises(UnreachableError):
            host.run(["sh", "-c", "head -c 3000000 /dev/zero"])


@pytest.mark.parametrize("count", cuts(30_000, 100_000, below=150_000))
def test_a_cut_connection_is_never_a_short_scan(sshd: Sshd, new_host: NewHost, tmp_path: Path, count: int) -> None:
    for number in range(1_500):
        (tmp_path / f"{number:0100}").touch()
    with relay(sshd.port, count) as cutting:
        host = new_host(port=cutting.port)
        with pytest.raises(UnreachableError):
            list(host.scan(os.fsencode(tmp_path)))


def test_a_killed_sshd_ends_everything_under_way(sshd: Sshd, new_host: NewHost, tmp_path: Path) -> None:
    host = new_host()
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


def test_a_restore_cut_in_the_middle(sshd: Sshd, new_host: NewHost, tmp_path: Path) -> None:
    host = new_host()
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


def test_more_commands_at_once_than_sshd_allows_sessions(new_host: NewHost) -> None:
    """MariaDB needs one running dump per database, and sshd allows 10 sessions per connection (MaxSessions)."""
    host = new_host()
    with ExitStack() as stack:
        running = [stack.enter_context(host.start(["cat"])) for _ in range(25)]
        for number, process in enumerate(running):
            process.stdin.write(b"%d" % number)
        assert [process.finish().returncode for process in running] == [0] * 25
    host.close()


def test_there_is_an_end_to_the_connections(new_ssh_host: NewHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paramiko_transport, "MAX_CONNECTIONS", 1)
    host = new_ssh_host()
    with ExitStack() as stack, pytest.raises(UnreachableError, match="opens no further channel") as caught:
        for _ in range(25):
            stack.enter_context(host.start(["cat"]))
    assert "MaxSessions" in caught.value.next_step
    host.close()


def test_a_command_that_ends_while_keys_are_exchanged_stops_nothing(sshd: Sshd, new_ssh_host: NewHost) -> None:
    """The server's close is on its way to us while our first word of the exchange is on its way to the server."""
    with relay(sshd.port) as way:
        host = new_ssh_host(port=way.port)
        with host.start(["sh", "-c", "echo $$; exec sleep 1000"]) as process:
            pid = int(process.stdout.read(100))
            (connection,) = host.transport._connected()
            way.flowing.clear()
            connection._send_kex_init()
            os.kill(pid, signal.SIGKILL)
            assert process.stdout.read(100) == b""  # the end of the channel has come
            channel = process._channel
            wait_until(lambda: channel.closed, "the close")
            begun = time.monotonic()
            way.flowing.set()
            assert process.finish(timeout=60).returncode == 128 + signal.SIGKILL
        assert host.run(["true"]).returncode == 0
        assert time.monotonic() - begun < 25  # paramiko would wait for 30 s, and then lose the connection
