"""What every host promises, tried on this machine and over a real sshd on loopback, by either transport."""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backupctl.errors import UserError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.process import TimedOutError, register_secret
from backupctl.hosts.protocol import FileInfo, Host, Placer, PlacingError
from backupctl.hosts.ssh import SshHost
from backupctl.hosts.transport import Login
from tests.servers.plugin_sshd import ssh_options
from tests.servers.sshd import Sshd

ROOT = os.geteuid() == 0
NASTY = b"a \n'\"$(touch x)`;|&*\\ \xff\xfe\xe5\x8f\xb0"


@pytest.fixture(scope="module", params=["local", "paramiko", "openssh"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    if request.param == "local":
        yield LocalHost("here")
        return
    server: Sshd = request.getfixturevalue("sshd")
    far = SshHost("web1", ssh_options(server, transport=request.param), Login(server.login_key.read_bytes()))
    yield far
    far.close()


@pytest.fixture
def here(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path)


def nasty_tree(root: bytes) -> None:
    os.mkdir(root)
    os.mkdir(root + b"/" + NASTY)
    for name in (NASTY, b"plain", b"-rf", b" ", b"\xff"):
        with open(root + b"/" + NASTY + b"/" + name, "wb") as stream:
            stream.write(name * 3)
    with open(root + b"/sparse", "wb") as stream:
        stream.seek(40 << 20)
        stream.write(b"end")
    os.link(root + b"/sparse", root + b"/sparse too")
    os.symlink(b"/etc/passwd", root + b"/to passwd")
    os.symlink(b"nowhere \xff", root + b"/dangling")
    os.mkfifo(root + b"/fifo", 0o640)
    os.setxattr(root + b"/sparse", b"user.\xe5\x8f\xb0", b"\0\xff\n")
    acl = bytes.fromhex("0200000001000700ffffffff020007000c00000004000400ffffffff10000700ffffffff20000400ffffffff")
    os.setxattr(root + b"/" + NASTY, b"system.posix_acl_access", acl)
    os.chmod(root + b"/" + NASTY + b"/plain", 0o6751)
    os.mkdir(root + b"/sticky")
    os.chmod(root + b"/sticky", 0o1777)
    if ROOT:
        os.chown(root + b"/" + NASTY + b"/plain", 12345, 54321)
        os.chmod(root + b"/" + NASTY + b"/plain", 0o6751)
        os.mknod(root + b"/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.utime(root + b"/sparse", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root + b"/dangling", ns=(1, 987_654_321), follow_symlinks=False)


# commands


def test_arguments_arrive_literally(host: Host) -> None:
    words = [
        "a b",
        "it's",
        '"',
        "new\nline",
        "$(touch /tmp/x)",
        "`id`",
        "*",
        "\\",
        "",
        "-n",
        "台",
        os.fsdecode(b"\xff"),
    ]
    done = host.run(["printf", "%s\\0", *words])
    assert done.returncode == 0
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


def test_the_environment_is_minimal_and_exact(host: Host) -> None:
    value = "two words\n$HOME 'quoted' 台"
    done = host.run(["env", "-0"], env={"GIVEN": value})
    found = dict(pair.split("=", 1) for pair in done.stdout.decode().split("\0") if pair)
    assert found.pop("GIVEN") == value
    assert (found["LC_ALL"], found["TZ"]) == ("C.UTF-8", "UTC")
    assert set(found) == {"PATH", "HOME", "LC_ALL", "TZ"}
    assert {"/usr/sbin", "/usr/bin"} <= set(found["PATH"].split(":"))


def test_exit_status_and_stderr(host: Host) -> None:
    done = host.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", "err\n")
    assert host.run(["sh", "-c", "kill -TERM $$"]).returncode == 128 + 15
    assert host.run(["no-such-program"]).returncode == 127
    with pytest.raises(UserError, match=r"exit status 3.*\n?.*the reason"):
        host.run(["sh", "-c", "echo the reason >&2; exit 3"], check=True)


def test_standard_input_comes_and_ends(host: Host) -> None:
    data = random.Random(1).randbytes(3_000_000)
    assert host.run(["cat"], stdin=data).stdout == data
    assert host.run(["cat"]).stdout == b""
    assert host.run(["true"], stdin=data).returncode == 0  # who does not read is not punished


def test_both_streams_at_once_do_not_block(host: Host) -> None:
    script = (
        "for i in 1 2 3; do head -c 1000000 /dev/zero; head -c 1000000 /dev/zero | tr '\\0' e >&2; done; echo last >&2"
    )
    done = host.run(["sh", "-c", script])
    assert len(done.stdout) == 3_000_000
    assert len(done.stderr) == 65536
    assert done.stderr.endswith("last\n")


def test_a_command_that_hangs_is_killed_with_its_children(host: Host, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $! > {pids}; echo $$ >> {pids}; echo started >&2; wait"
    begin = time.monotonic()
    with pytest.raises(TimedOutError, match="did not end within 1 s"):
        host.run(["sh", "-c", script], timeout=1)
    assert time.monotonic() - begin < 30
    await_gone([int(pid) for pid in pids.read_text().split()])


def test_leaving_the_context_kills(host: Host, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with host.start(["sh", "-c", f"echo $$ > {pids}; echo ready; sleep 1000"]) as process:
        assert process.stdout.read(100) == b"ready\n"
    await_gone([int(pids.read_text())])


def await_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {pids}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_conversation(host: Host) -> None:
    with host.start(["sh", "-c", "read a; echo got $a; read b; echo got $b; exit 4"]) as process:
        process.stdin.write(b"one\n")
        assert process.stdout.read(100) == b"got one\n"
        process.stdin.write(b"two\n")
        assert process.stdout.read(100) == b"got two\n"
        assert process.stdout.read(100) == b""
        assert process.finish(timeout=60).returncode == 4


def test_secrets_never_come_back(host: Host) -> None:
    register_secret("s3cr3t-value")
    done = host.run(["sh", "-c", "echo password s3cr3t-value refused >&2; exit 1"])
    assert done.stderr == "password *** refused\n"
    with pytest.raises(UserError) as caught:
        host.run(["sh", "-c", "echo s3cr3t-value >&2; exit 1", "s3cr3t-value"], check=True)
    assert "s3cr3t-value" not in str(caught.value)


def test_private_files_are_private_and_go_away(host: Host) -> None:
    with host.private_file(b"hush\0\xff") as path:
        status = os.stat(path)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        assert host.run(["cat", path]).stdout == b"hush\0\xff"
    assert not os.path.exists(os.path.dirname(path))


def test_facts(host: Host) -> None:
    facts = host.facts()
    assert facts.hostname == os.uname().nodename
    assert facts.uid == os.geteuid()
    far = host.run([host.python, "-c", "import platform; print(platform.python_version())"])
    assert facts == replace(LocalHost().facts(), python=far.stdout.decode().strip())


# reading


def test_a_scan_sees_everything_in_order(host: Host, here: bytes) -> None:
    root = here + b"/tree"
    nasty_tree(root)
    seen = list(host.scan(root))
    by_name = {info.path[len(root) + 1 :]: info for info in seen}
    paths = [info.path.split(b"/") for info in seen]
    assert paths == sorted(paths)
    assert not any(info.error for info in seen)
    assert by_name[b""].kind == "dir"
    assert by_name[b"sparse"].size == (40 << 20) + 3
    assert by_name[b"sparse"].mtime_ns == 1_234_567_890_123_456_789
    assert by_name[b"sparse"].links == 2
    assert by_name[b"sparse"].inode == by_name[b"sparse too"].inode
    assert (b"user.\xe5\x8f\xb0", b"\0\xff\n") in by_name[b"sparse"].xattrs
    assert [name for name, _ in by_name[NASTY].xattrs] == [b"system.posix_acl_access"]
    assert by_name[b"dangling"].linktarget == b"nowhere \xff"
    assert by_name[b"dangling"].mtime_ns == 987_654_321
    assert by_name[b"fifo"].kind == "fifo"
    assert by_name[b"sticky"].mode == 0o1777
    assert by_name[NASTY + b"/plain"].mode == 0o6751
    if ROOT:
        assert (by_name[NASTY + b"/plain"].uid, by_name[NASTY + b"/plain"].gid) == (12345, 54321)
        assert (by_name[b"null"].kind, by_name[b"null"].device) == ("chardev", os.makedev(1, 3))
    assert seen == list(LocalHost().scan(root))


def test_many_entries_while_reading_others(host: Host, tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number:04}").write_bytes(b"%d" % number)
    contents = []
    for info in host.scan(os.fsencode(tmp_path)):
        if info.kind == "file":
            with host.open_read(info.path) as stream:
                contents.append(stream.read())
                assert not stream.changed()
    assert contents == [b"%d" % number for number in range(1000)]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.tmp", {b"a", b"a/b", b"a/b/keep"}),
        ("b", {b"a", b"x.tmp"}),
        ("ROOT/a/*", {b"a", b"x.tmp"}),
        ("ROOT/*/keep", {b"a", b"a/b", b"a/b/keep", b"a/b/y.tmp", b"x.tmp"}),
        ("ROOT/**/keep", {b"a", b"a/b", b"a/b/y.tmp", b"x.tmp"}),
        ("**/b/", {b"a", b"x.tmp"}),
        ("[xy].t?p", {b"a", b"a/b", b"a/b/keep"}),
    ],
)
def test_exclude(host: Host, tmp_path: Path, pattern: str, left: set[bytes]) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/keep", "a/b/y.tmp", "x.tmp"):
        (tmp_path / name).touch()
    root = os.fsencode(tmp_path)
    seen = host.scan(root, exclude=[pattern.replace("ROOT", str(tmp_path))])
    assert {info.path[len(root) + 1 :] for info in seen} == left | {b""}


def test_a_scan_of_some_directories_only(host: Host, tmp_path: Path) -> None:
    for name in ("a/b/deep", "a/c", "d", "out"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    root = os.fsencode(tmp_path)
    only = [root + b"/" + name for name in (b"d", b"a/b", b"a/gone", b"link/x", b"left/out")]
    seen = host.scan(root, exclude=["left"], only=only)
    names = [info.path[len(root) + 1 :] for info in seen if not info.error]
    assert names == [b"", b"a", b"a/b", b"a/b/deep", b"a/b/deep/file", b"d", b"d/file", b"link"]
    assert list(host.scan(root, only=[root, only[0]])) == list(host.scan(root))
    for outside in (b"/etc", root + b"/../out", root + b"2"):
        with pytest.raises(OSError, match="not below"):
            list(host.scan(root, only=[outside]))


def test_what_is_missing_or_wrong_raises_what_it_would_here(host: Host, here: bytes, tmp_path: Path) -> None:
    missing = here + b"/missing"
    (only,) = host.scan(missing)
    assert (only.path, bool(only.error)) == (missing, True)
    assert host.stat(missing) is None
    os.mkfifo(here + b"/fifo")
    os.symlink(here + b"/file", here + b"/link")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        host.open_read(missing)
    with pytest.raises(FileNotFoundError):
        host.list_directory(missing)
    with pytest.raises(FileExistsError):
        host.open_write(here + b"/file")
    for wrong in (b"/fifo", b"/link", b""):
        with pytest.raises(OSError, match=r"not a regular file|symbolic links|directory"):
            host.open_read(here + wrong)
    with pytest.raises(OSError, match="absolute"):
        host.open_read(b"file")


def test_a_change_while_reading_is_noticed(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"x" * 10_000_000)
    with host.open_read(os.fsencode(path)) as stream:
        stream.read(10)
        assert not stream.changed()
    with host.open_read(os.fsencode(path)) as stream:
        stream.read(10)
        with path.open("ab") as more:
            more.write(b"more")
        while stream.read(1 << 20):
            pass
        assert stream.changed()


def test_a_large_file_both_ways(host: Host, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(64 << 20)
    path, back = os.fsencode(tmp_path / "big"), tmp_path / "back"
    sink = host.open_write(path, mode=0o640)
    for start in range(0, len(data), 3_000_000):
        sink.write(data[start : start + 3_000_000])
    sink.close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    with host.open_read(path) as stream, back.open("wb") as out:
        while part := stream.read(1_000_000):
            out.write(part)
        assert not stream.changed()
    assert back.read_bytes() == data == Path(os.fsdecode(path)).read_bytes()


# directories


def test_directories(host: Host, here: bytes) -> None:
    deep = here + b"/a/\xff/c"
    host.make_directory(deep, mode=0o711)
    host.make_directory(deep)
    assert stat.S_IMODE(os.stat(deep).st_mode) == 0o711
    assert host.list_directory(here + b"/a") == [b"\xff"]
    assert host.free_bytes(deep) > 0
    nasty_tree(deep + b"/tree")
    os.symlink(here, deep + b"/up")
    os.chmod(deep + b"/tree/" + NASTY, 0)
    host.remove_tree(here + b"/a")
    host.remove_tree(here + b"/a")
    assert os.listdir(here) == []


def test_a_tree_deeper_than_a_path_may_be_long(host: Host, here: bytes) -> None:
    name, depth = b"d" * 200, 40
    fd = os.open(here, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    seen = list(host.scan(here))
    assert len(seen) == depth + 1
    assert not any(info.error for info in seen)
    host.remove_tree(here + b"/" + name)
    assert host.list_directory(here) == []


# placing


def copy_tree(source: Host, root: bytes, host: Host, target: bytes) -> list[str]:
    """What a restore does, with nothing in between."""
    seen: dict[int, bytes] = {}
    infos: list[tuple[bytes, FileInfo]] = []
    with host.placer(target) as placer:
        for info in source.scan(root):
            path = info.path[len(root) + 1 :]
            infos.append((path, info))
            if info.kind == "dir":
                placer.directory(path)
            elif info.kind == "symlink":
                placer.symlink(path, info.linktarget)
            elif info.kind != "file":
                placer.special(path, info)
            elif info.inode in seen:
                placer.hardlink(path, seen[info.inode])
            else:
                seen[info.inode] = path
                writer = placer.file(path, info.size)
                with source.open_read(info.path) as stream:
                    offset = 0
                    while data := stream.read(5_000_000):
                        writer.write_at(offset, data)
                        offset += len(data)
                writer.close()
        for path, info in reversed(infos):
            placer.metadata(path, info)
        return placer.flush()


def test_a_placed_tree_equals_the_original(host: Host, here: bytes) -> None:
    source, target = here + b"/tree", here + b"/copy"
    nasty_tree(source)
    os.mkdir(target)
    warnings = copy_tree(LocalHost(), source, host, target)
    assert warnings == []

    def shape(root: bytes) -> list[tuple[object, ...]]:
        return [
            (
                i.path[len(root) :],
                i.kind,
                i.mode,
                i.uid,
                i.gid,
                i.size,
                i.mtime_ns,
                i.links,
                i.device,
                i.linktarget,
                *i.xattrs,
            )
            for i in LocalHost().scan(root)
        ]

    assert shape(target) == shape(source)
    assert os.stat(target + b"/sparse").st_blocks * 512 < 1 << 20
    with open(target + b"/sparse", "rb") as stream:
        assert stream.read().strip(b"\0") == b"end"
    with open(target + b"/" + NASTY + b"/" + NASTY, "rb") as stream:
        assert stream.read() == NASTY * 3


@pytest.mark.skipif(ROOT, reason="root may set everything")
def test_what_could_not_be_set_is_said(host: Host, here: bytes) -> None:
    info = setuid_root(host, here)
    with host.placer(here) as placer:
        place_file(placer, b"tool")
        placer.metadata(b"tool", info)
        placer.special(b"null", FileInfo(b"", "chardev", device=os.makedev(1, 3)))
        placer.metadata(b"null", FileInfo(b"", "chardev", device=os.makedev(1, 3)))
        lines = placer.flush()
    assert [line.split(":")[0] for line in lines] == ["tool", "tool", "null"]
    assert "owner 0:0 not set" in lines[0]
    assert "setuid and setgid left out" in lines[1]
    assert "a chardev needs root" in lines[2]
    assert stat.S_IMODE(os.stat(here + b"/tool").st_mode) == 0o755


def setuid_root(host: Host, here: bytes) -> FileInfo:
    info = host.stat(here)
    assert info is not None
    return replace(info, kind="file", uid=0, gid=0, mode=0o4755, xattrs=())


def test_placing_removes_whatever_is_there(host: Host, here: bytes) -> None:
    root, outside = here + b"/root", here + b"/outside"
    os.makedirs(root + b"/a/b/c")
    os.mkdir(outside)
    for path in (root + b"/a/b/c/f", root + b"/f", outside + b"/victim"):
        with open(path, "wb"):
            pass
    os.chmod(root + b"/a/b/c", 0)
    os.symlink(outside, root + b"/door")
    with host.placer(root) as placer:
        place_file(placer, b"a/b/new")
        for path in (b"a/b", b"f", b"door", b"nothing"):
            placer.remove(path)
        place_file(placer, b"a/b/again")
        placer.flush()
        for path in (b"", b"../outside/victim"):
            with pytest.raises(UserError, match="cannot restore"):
                placer.remove(path)
                placer.flush()
    assert os.listdir(root + b"/a/b") == [b"again"]
    assert sorted(os.listdir(root)) == [b"a"]
    assert os.listdir(outside) == [b"victim"]


def test_placing_never_leaves_the_root(host: Host, here: bytes) -> None:
    root, outside = here + b"/root", here + b"/outside"
    os.mkdir(root)
    os.mkdir(outside)
    with open(outside + b"/victim", "wb") as stream:
        stream.write(b"untouched")
    os.chmod(outside + b"/victim", 0o604)
    info = host.stat(root)
    assert info is not None
    with host.placer(root) as placer:
        placer.symlink(b"door", outside)
        placer.symlink(b"victim", outside + b"/victim")
        placer.flush()
        for path in (b"door/new", b"../outside/new", b"door/../../outside/new", outside + b"/new", b"a\0b"):
            with pytest.raises(UserError, match="cannot restore"):
                place_file(placer, path)
                placer.flush()
            with pytest.raises(UserError, match="cannot restore"):
                placer.hardlink(b"stolen", path)
                placer.flush()
        place_file(placer, b"victim")  # replaces the link itself
        placer.flush()
        with pytest.raises(UserError, match="cannot restore"):
            placer.metadata(b"door", info)  # a link now, a directory when it was saved
            placer.flush()
    assert os.listdir(outside) == [b"victim"]
    with open(outside + b"/victim", "rb") as stream:
        assert stream.read() == b"untouched"
    with open(root + b"/victim", "rb") as stream:
        assert stream.read() == b"new"


def place_file(placer: Placer, path: bytes) -> None:
    writer = placer.file(path, 3)
    writer.write_at(0, b"new")
    writer.close()


def test_a_file_can_be_taken_back(host: Host, here: bytes) -> None:
    with host.placer(here) as placer:
        writer = placer.file(b"dir/bad", 10)
        writer.write_at(0, b"half")
        writer.discard()
        placer.flush()
    assert os.listdir(here + b"/dir") == []


def test_a_file_that_cannot_have_its_size_is_not_left_behind(host: Host, here: bytes) -> None:
    with host.placer(here) as placer, pytest.raises(PlacingError) as caught:
        placer.file(b"huge", (1 << 63) - 1)
        placer.flush()
    assert caught.value.path == b"huge"
    assert os.listdir(here) == []


def test_an_object_in_the_way_of_a_directory_is_named(host: Host, here: bytes) -> None:
    with open(here + b"/taken", "wb"):
        pass
    os.mkdir(here + b"/full")
    with host.placer(here) as placer, pytest.raises(UserError, match="taken"):
        placer.directory(b"taken")
        placer.flush()
    with host.placer(here) as placer, pytest.raises(UserError, match="full"):
        place_file(placer, b"full")
        placer.flush()


def test_removing_the_root_directory_is_refused(host: Host) -> None:
    for path in (b"/", b"//", b"/tmp/.."):
        with pytest.raises(OSError, match="refusing"):
            host.remove_tree(path)
