"""A restricted account: sources are read through the wrapper as without it, and its key is good for nothing else."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from paramiko.ssh_exception import SSHException
from pydantic import BaseModel

from backupctl.clock import SystemClock
from backupctl.errors import CouldNotRunError, UsageError, UserError
from backupctl.hosts import account, agent, far, supervisor, wrapper
from backupctl.hosts.account import Rules
from backupctl.hosts.local import LocalHost
from backupctl.hosts.process import supervised
from backupctl.hosts.protocol import Completed
from backupctl.hosts.ssh import SshHost
from backupctl.hosts.transport import Login
from backupctl.sources import digest_program, tee_program
from backupctl.sources.mariadb_family import MARIADB
from backupctl.sources.postgresql_client import DUMP_OPTIONS
from backupctl.sources.reading_rules import rules
from backupctl.sources.registry import MODULES, SOURCE_KINDS, make_source
from backupctl.sources.software_inventory import gather
from backupctl.sources.streams import program_text
from tests.servers.databases import MariadbServer, PostgresServer, private_directory, unprivileged_prefix
from tests.servers.plugin_sshd import ssh_options
from tests.servers.redis import RedisServer
from tests.servers.sshd import Sshd, make_key
from tests.soak import rounds


@dataclass
class Account:
    """The account on the private sshd. Tests that run as root become somebody else on the way to the wrapper."""

    directory: Path
    sshd: Sshd
    options: dict[str, tuple[str, BaseModel]]

    @property
    def key(self) -> Path:
        return self.directory / "reader_key"

    def install(self, *, text: str | None = None, **changes: object) -> None:
        found: Rules = Rules()
        for kind, options in self.options.values():
            found |= rules(kind, options)
        path = self.directory / "wrapper"
        path.write_text(text or account.wrapper_text(found))
        path.chmod(0o755)
        line = account.authorized_key(self.key.with_suffix(".pub").read_text().strip(), addresses=["127.0.0.1"])
        command = shlex.join([*unprivileged_prefix(), str(path)])
        keys = self.sshd.directory / "authorized_keys"
        others = [one for one in keys.read_text().splitlines() if str(self.directory) not in one]
        keys.write_text("\n".join([*others, line.replace(account.WRAPPER, command)]))

    def host(self) -> SshHost:
        return SshHost("web1", ssh_options(self.sshd), Login(self.key.read_bytes()))

    def ssh(
        self, *command: str, options: tuple[str, ...] = (), stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """The stolen key with a plain client."""
        fixed = ["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes"]
        fixed += ["-o", f"UserKnownHostsFile={self.directory}/known", "-o", "LogLevel=ERROR", "-i", str(self.key)]
        where = ["-p", str(self.sshd.port), f"{self.sshd.user}@{self.sshd.address}"]
        return subprocess.run(["ssh", *fixed, *options, *where, *command], input=stdin, capture_output=True, timeout=60)

    def attack(self, argv: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """What our own client would send, whatever the command."""
        command = ["python3", "-I", "-S", "-c", inspect.getsource(supervisor), *supervised(argv, {}, watch=1)]
        return self.ssh("exec " + shlex.join(command), stdin=stdin)


@pytest.fixture(scope="module")
def reader(
    sshd: Sshd, postgres_server: PostgresServer, mariadb_server: MariadbServer, redis_server: RedisServer
) -> Iterator[Account]:
    directory = private_directory()
    directory.chmod(0o755)
    make_key(directory / "reader_key")
    (directory / "www").mkdir()
    (directory / "www" / "page").write_bytes(b"hello\xff")
    (directory / "www" / "out").symlink_to(directory)
    (directory / "other").write_text("not ours")
    with sqlite3.connect(directory / "shop.db") as database:
        database.execute("create table orders as select 1 as id, 'x' as customer")
    database.close()
    postgres_server.sql("CREATE DATABASE narrow;")
    postgres_server.sql(
        "create table notes as select n as id, 'note ' || n as t from generate_series(1, 500) n", "narrow"
    )
    mariadb_server.sql("CREATE DATABASE narrow; CREATE TABLE narrow.notes (id INT PRIMARY KEY);")
    mariadb_server.sql("INSERT INTO notes SELECT seq FROM seq_1_to_500;", "narrow")
    redis_server.commands("SET greeting hello")
    postgres = {"conninfo": postgres_server.conninfo, "databases": ["narrow"]}
    given = {
        "www": ("files", {"paths": [f"{directory}/www"]}),
        "shop": ("sqlite", {"path": f"{directory}/shop.db"}),
        "dump": ("postgresql", postgres),
        "ordered": ("postgresql", {**postgres, "method": "ordered"}),
        "maria": ("mariadb", {"socket": str(mariadb_server.socket), "user": "root", "databases": ["narrow"]}),
        "cache": ("redis", {"socket": redis_server.socket}),
    }
    made = Account(
        directory,
        sshd,
        {name: (kind, SOURCE_KINDS[kind][0].model_validate(one)) for name, (kind, one) in given.items()},
    )
    made.install()
    yield made
    postgres_server.sql("DROP DATABASE narrow;")
    mariadb_server.sql("DROP DATABASE narrow;")
    shutil.rmtree(directory)


@pytest.mark.parametrize("name", ["www", "shop", "ordered", "maria", "cache", *["dump"] * rounds(0, 1)])
def test_a_source_is_read_to_its_end(reader: Account, name: str) -> None:
    kind, options = reader.options[name]
    host = reader.host()
    source = make_source(name, kind, options, secrets=lambda _: b"unused")
    read, seen = {}, set()
    with source.open(host, SystemClock()) as session:
        for entry in session.entries():
            assert not entry.error, entry.error
            seen.add(entry.path)
            if entry.open is not None:
                with closing(entry.open()) as stream:
                    read[entry.path] = b"".join(iter(partial(stream.read, 1 << 20), b""))
        fingerprint = session.fingerprint()
    assert fingerprint["kind"] == kind
    assert read
    assert all(read.values())
    if name == "www":
        assert b"hello\xff" in read.values()
        assert os.fsencode(reader.directory).lstrip(b"/") in seen  # directories above come with their own metadata
    host.close()


def refused(done: subprocess.CompletedProcess[bytes], why: str = "") -> bool:
    return done.returncode == wrapper.REFUSED and f"{wrapper.SIGN}: refused: {why}".encode() in done.stderr


def test_the_stolen_key_opens_no_shell_and_no_file_transfer(reader: Account) -> None:
    before = sorted(os.listdir(reader.directory))
    for command in ("cat /etc/shadow", "sh", "exec python3 -I -S -c 'print(1)' 1", "rm -rf www", ""):
        assert refused(reader.ssh(command)), command
    assert refused(reader.ssh("cat > new", stdin=b"written"))
    terminal = reader.ssh("true", options=("-tt",))
    assert terminal.returncode != 0
    assert b"PTY allocation request failed" in terminal.stderr
    assert reader.ssh("sftp", options=("-s",)).returncode != 0  # no subsystem, or the wrapper in its place
    assert sorted(os.listdir(reader.directory)) == sorted({*before, "known"})


def test_the_stolen_key_forwards_nothing(reader: Account, postgres_server: PostgresServer) -> None:
    """Over a connection of its own: the client asks for the forwarding, and the server has to answer."""
    host = reader.host()
    with pytest.raises(UserError, match="cannot reach"):
        host.transport.tunnel("inner", "127.0.0.1", postgres_server.port)
    with pytest.raises(SSHException):
        host.transport._connected()[0].request_port_forward("127.0.0.1", 0)
    host.close()


@pytest.mark.parametrize(
    "argv",
    [
        ["cat", "/etc/shadow"],
        ["python3", "-c", "print(open('/etc/passwd').read())"],
        ["pg_dump", "-f", "/tmp/stolen", "-d", "dbname=narrow"],
        ["psql", "-X", "-c", "drop database narrow"],
        ["psql", "--version", "-c", "select 1"],
    ],
)
def test_the_stolen_key_runs_no_other_command(reader: Account, argv: list[str]) -> None:
    assert refused(reader.attack(argv), "no rule allows this command")


def test_the_stolen_key_sets_no_variable_that_loads_code(reader: Account) -> None:
    words = supervised(["psql", "--version"], {"LD_PRELOAD": "/tmp/evil.so"}, watch=1)
    command = ["python3", "-I", "-S", "-c", inspect.getsource(supervisor), *words]
    assert refused(reader.ssh("exec " + shlex.join(command)), "no rule allows the variable LD_PRELOAD")


def test_a_client_that_is_allowed_starts_no_shell_and_writes_no_file(
    reader: Account, postgres_server: PostgresServer, mariadb_server: MariadbServer
) -> None:
    """Scripts of psql and mariadb can do both. Nobody may write into this directory but the account itself."""
    free = private_directory()
    free.chmod(0o777)
    psql = [str(postgres_server.programs / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
    psql += ["--no-password", "-d", f"{postgres_server.conninfo} dbname='narrow'"]
    script = f"select 'before';\n\\! touch {free}/shell\n\\o | touch {free}/pipe\nselect 1;\n\\o\nselect 'after';\n"
    done = reader.attack(psql, script.encode())
    assert done.stdout.split() == [b"before"]  # and the pipe is an error that ends the script
    assert b"Cannot allocate memory" in done.stderr or b"unavailable" in done.stderr, done.stderr
    done = reader.attack(psql, f"\\o {free}/written\nselect repeat('x', 100000);\n\\o\n".encode())
    assert not (free / "written").exists() or (free / "written").stat().st_size == 0
    with closing(reader.host()) as host, host.private_file(b"[client]\n") as path:
        options = [
            *MARIADB.over_socket(mariadb_server.socket),
            "--user=root",
            "--batch",
            "--raw",
            "--quick",
            "--unbuffered",
        ]
        options += ["--skip-column-names", "--max-allowed-packet=1G", "--default-character-set=utf8mb4"]
        maria = ["mariadb", f"--defaults-extra-file={path}", *options]
        assert reader.attack(maria, b"select 'before';\n").stdout == b"before\n"
        reader.attack(maria, f"system touch {free}/system\n".encode())
        reader.attack(maria, f"tee {free}/tee\nselect repeat('x', 100000);\n".encode())
    assert [one.name for one in free.iterdir() if one.stat().st_size or one.name not in ("written", "tee")] == []
    shutil.rmtree(free)


def test_a_program_of_ours_starts_only_what_the_rules_allow(reader: Account) -> None:
    for program, request in (
        (tee_program, {"dump": ["cat", "/etc/passwd"], "read": ["cat"]}),
        (digest_program, {"argv": ["sh", "-c", "id >&2"], "script": "", "mark": "x"}),
    ):
        done = reader.attack(["python3", "-c", program_text(program)], json.dumps(request).encode())
        assert refused(done, "no rule allows this command"), done
        assert b"uid=" not in done.stderr


def test_the_stolen_key_sees_no_other_files(reader: Account) -> None:
    www = os.fsencode(reader.directory / "www")
    with closing(reader.host()) as host:
        for path in (b"/etc/shadow", www + b"/../other", www + b"/out/other", os.fsencode(reader.directory / "other")):
            with pytest.raises(PermissionError, match="refused"):
                host.open_read(path)
        for look in (
            lambda: host.list_directory(b"/root"),
            lambda: host.stat(b"/etc/shadow"),
            lambda: list(host.scan(b"/")),
            lambda: list(host.scan(www + b"/out")),
        ):
            with pytest.raises(PermissionError, match="refused"):
                look()
        for way in (b"/out/..", b"/out/other"):  # `out` is a link to what is not ours
            with suppress(OSError):
                assert [info.kind for info in host.scan(www, only=[www + way])] == ["dir", "symlink"]
        assert host.open_read(www + b"/page").read() == b"hello\xff"


def test_the_stolen_key_writes_nothing_through_the_agent(reader: Account) -> None:
    www = os.fsencode(reader.directory / "www")
    with closing(reader.host()) as host:
        for write in (
            lambda: host.open_write(www + b"/new"),
            lambda: host.make_directory(www + b"/new"),
            lambda: host.remove_tree(www + b"/page"),
            lambda: host.private_file(b"[client]\nplugin-dir=/tmp\n").__enter__(),
        ):
            with pytest.raises(PermissionError, match="refused"):
                write()
        with pytest.raises(UserError, match="refused"), host.placer(www):
            pass
    assert sorted(os.listdir(www)) == [b"out", b"page"]


def test_every_request_of_the_agent_is_known_to_read_or_is_refused() -> None:
    requests = {name[3:] for name in vars(agent.Agent) if name.startswith("do_")}
    assert set(wrapper.READ + wrapper.LOOK) < requests
    writing = {"create", "append", "finish", "make_directory", "remove_tree", "placer", "place", "write_at"}
    assert requests - set(wrapper.READ + wrapper.LOOK) == writing | {"end_write", "end_placer"}


def test_a_refusal_is_in_the_system_log(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, str]] = []
    monkeypatch.setattr(wrapper.syslog, "openlog", lambda *_: None)
    monkeypatch.setattr(wrapper.syslog, "syslog", lambda level, text: said.append((level, text)))
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 4711 192.0.2.1 22")
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", "cat /etc/shadow\nand a second line")
    with pytest.raises(SystemExit) as ended:
        wrapper.main({}, [])
    assert ended.value.code == wrapper.REFUSED
    ((level, text),) = said
    assert level == wrapper.syslog.LOG_WARNING
    assert "from 192.0.2.7" in text
    assert "cat /etc/shadow\\nand" in text


def test_another_version_is_told_from_a_missing_python(reader: Account) -> None:
    reader.install(text=account.wrapper_text(Rules()).replace(str(len(far.program())), "17"))
    try:
        with closing(reader.host()) as host, pytest.raises(CouldNotRunError, match="another version") as caught:
            host.facts()
        assert "backupctl host account web1" in caught.value.next_step
    finally:
        reader.install()


def test_every_kind_of_source_has_rules_or_is_refused() -> None:
    minimal = {
        "files": {
            "paths": ["/srv/www"],
            "snapshot": {"of": "/srv", "at": "/snap", "create": ["make", "it"], "remove": ["remove", "it"]},
        },
        "sqlite": {"paths": ["/srv/a.db", "/srv/b.db"], "together": True},
        "software": {"trees": ["/etc"]},
    }
    for kind in MODULES:
        made = rules(kind, SOURCE_KINDS[kind][0].model_validate(minimal.get(kind, {})))
        assert made.commands
        for rule in (*made.commands, *made.queries, *made.private):
            re.compile(rule)
        if kind == "files":  # the snapshot is read, and the directories themselves are not
            assert (made.paths, made.queries) == (("/snap/www",), (r"make\0it", r"remove\0it"))
    for kind, method in (("postgresql", "physical"), ("mariadb", "physical"), ("mariadb", "binlog")):
        with pytest.raises(UsageError, match="more of its host"):
            rules(kind, SOURCE_KINDS[kind][0].model_validate({"method": method}))


def test_the_rules_of_postgresql_name_the_databases() -> None:
    options = {"conninfo": "port=5432 user=backup", "databases": ["site", "it's"]}
    made = rules("postgresql", SOURCE_KINDS["postgresql"][0].model_validate(options))

    def allowed(program: str, *words: str) -> bool:
        return any(re.fullmatch(rule, "\0".join([program, *words])) for rule in made.queries + made.commands)

    dump = (*DUMP_OPTIONS, "--snapshot=00000003-0000001B-1", "-d")
    site = "port=5432 user=backup dbname='site'"
    assert allowed("/usr/lib/postgresql/15/bin/pg_dump", *dump, site)
    assert allowed("pg_dump", *dump, r"port=5432 user=backup dbname='it\'s'")
    assert not allowed("pg_dump", *dump, "port=5432 user=backup dbname='payroll'")
    assert not allowed("pg_dump", *dump, "port=5432 user=postgres dbname='site'")
    assert not allowed("pg_dump", *dump, site, "-f", "/tmp/x")
    assert not allowed("/tmp/pg_dump", *dump, site)
    assert not allowed("pg_dump", *dump, site + " host=elsewhere")


def test_software_is_asked_with_queries_of_the_rules() -> None:
    """Every command that the inventory runs here."""
    asked: list[str] = []

    class Noting(LocalHost):
        def run(self, argv: Sequence[str], **_: Any) -> Completed:
            asked.append("\0".join(argv))
            answer = b"15.1" if "SHOW server_version" in argv else b"one\n" if "psql" in argv else b""
            return Completed(tuple(argv), 0 if "psql" in argv else 1, answer, "")

    gather(Noting())
    made = rules("software", SOURCE_KINDS["software"][0].model_validate({}))
    left = [one for one in asked if not any(re.fullmatch(rule, one) for rule in made.queries)]
    assert len(asked) > 12
    assert left == []


def test_a_host_that_others_are_reached_through_forwards_to_those_alone() -> None:
    line = account.authorized_key("ssh-ed25519 AAAA", addresses=["192.0.2.0/24"], forwards=["db1.internal:22"])
    assert line.startswith(f'restrict,command="{account.WRAPPER}",from="192.0.2.0/24",port-forwarding,')
    assert 'permitopen="db1.internal:22"' in line
    assert "port-forwarding" not in account.authorized_key("ssh-ed25519 AAAA")


def test_root_reads_through_one_rule_of_sudo(tmp_path: Path) -> None:
    """With a `sudo` of ours in front: what it is asked to start is the rule, word for word."""
    path = tmp_path / "wrapper"
    path.write_text(account.wrapper_text(Rules(paths=(str(tmp_path),)), as_root=True))
    path.chmod(0o755)
    (tmp_path / "sudo").write_text('#!/bin/sh\nprintf "%s " "$@" > "${0%/*}/asked"\nshift\nexec "$@"\n')
    (tmp_path / "sudo").chmod(0o755)
    start = far.program()
    asked = "exec " + shlex.join(["python3", "-I", "-S", "-c", far.START, str(len(start))])
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SSH_ORIGINAL_COMMAND": asked}
    frame = agent.pack({"do": "stat", "path": str(tmp_path)})
    done = subprocess.run([path], input=start + frame, env=environment, capture_output=True, check=True, timeout=60)
    assert done.stdout.startswith(agent.GREETING)
    assert str(tmp_path).encode() in done.stdout
    assert (tmp_path / "asked").read_text() == f"-n {path} agent "
    assert account.sudoers("reader").splitlines()[-1] == f"reader ALL=(root) NOPASSWD: {account.WRAPPER} agent"
