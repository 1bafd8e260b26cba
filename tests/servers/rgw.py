"""A throw-away Ceph RGW: a real S3 server (Debian: radosgw ceph-mon ceph-osd ceph-common) on 127.0.0.1.

    with Rgw(directory) as server: server.http, server.https, server.ca, server.admin, server.add_user("agent")

Needs no root. One mon, one OSD with its data in memory, one radosgw; they are stopped by pid, and the daemons of a run
that was interrupted are stopped by the next one (`stop_leftovers`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

PROGRAMS = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin", "rados", "monmaptool", "openssl")
DAEMONS = ("client.rgw", "osd.0", "mon.a")  # in the order of stopping: an OSD without its mon hangs
DATA_POOL = "default.rgw.buckets.data"

CONF = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}/0]
mon initial members = a
ms bind msgr1 = false
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind port min = {osd_low}
ms bind port max = {osd_high}
# radosgw asks the mon for "secure" by default, which auth=none cannot do: it would hang for 300 s
ms mon client mode = crc
auth cluster required = none
auth service required = none
auth client required = none
run dir = {directory}/run
admin socket = {directory}/run/$name.asok
pid file = {directory}/run/$name.pid
log file = {directory}/log/$name.log
crash dir = {directory}/log
keyring = {directory}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
[mon]
mon data = {directory}/mon
mon cluster log file = {directory}/log/cluster.log
mon data avail warn = 2
mon data avail crit = 1
paxos propose interval = 0.05
paxos min wait = 0.02
[osd]
osd data = {directory}/osd
osd objectstore = memstore
osd memory target = 939524096
osd op num shards = 2
osd op num threads per shard = 1
memstore device bytes = 4294967296
[client.rgw]
rgw data = {directory}/rgw
# without tcp_nodelay every small GET waits 40 ms for a delayed ACK
rgw frontends = {frontends}
rgw override bucket index max shards = 1
rgw dynamic resharding = false
rgw thread pool size = 64
# deleted data would otherwise stay in memory for two hours
rgw gc obj min wait = 5
rgw gc processor period = 10
rgw gc processor max time = 10
"""


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


class Rgw:
    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.environment = {**os.environ, "CEPH_CONF": str(self.directory / "ceph.conf"), "CEPH_ARGS": ""}
        self.admin = (f"ADMIN{secrets.token_hex(8).upper()}", secrets.token_hex(20))
        self.ca = self.directory / "ca.pem"
        self.http = self.https = ""

    def start(self) -> Rgw:
        for name in ("mon", "osd", "run", "log", "rgw"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "keyring").touch()
        _make_certificates(self.directory)
        osd_uuid, (mon, http, https) = str(uuid.uuid4()), _free_ports(3)
        osd_low = 20000 + secrets.randbelow(300) * 40  # the OSD wants a range; it takes what is free in there
        values = {"fsid": uuid.uuid4(), "mon": mon, "directory": self.directory}
        frontends = (
            f"beast endpoint=127.0.0.1:{http} ssl_endpoint=127.0.0.1:{https} "
            f"ssl_certificate={self.directory}/server.pem tcp_nodelay=1"
        )
        conf = CONF.format(**values, frontends=frontends, osd_low=osd_low, osd_high=osd_low + 39)
        (self.directory / "ceph.conf").write_text(conf)
        self.http, self.https = f"http://127.0.0.1:{http}", f"https://localhost:{https}"
        monmap = str(self.directory / "monmap")
        address = f"[v2:127.0.0.1:{mon}/0]"
        try:
            self.run("monmaptool", "--create", "--fsid", str(values["fsid"]), "--addv", "a", address, monmap)
            self.run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
            self.run("ceph-mon", "-i", "a")
            self.run("ceph", "osd", "new", osd_uuid, "0")
            self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid)
            self.run("ceph-osd", "-i", "0")
            self.add_user("admin", *self.admin)
            self.run("radosgw", "-n", "client.rgw")
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        stop_daemons(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Rgw:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def run(self, *argv: str, stdin: bytes | None = None) -> bytes:
        done = subprocess.run(argv, env=self.environment, input=stdin, capture_output=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv[:3])} … ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
        return done.stdout

    def add_user(self, uid: str, access: str = "", secret: str = "") -> tuple[str, str]:
        access = access or f"{uid.upper()[:8]}{secrets.token_hex(6).upper()}"
        secret = secret or secrets.token_hex(20)
        names = [f"--uid={uid}", f"--display-name={uid}", f"--access-key={access}", f"--secret-key={secret}"]
        self.run("radosgw-admin", "user", "create", *names)
        return access, secret

    def suspend_user(self, uid: str) -> None:
        self.run("radosgw-admin", "user", "suspend", f"--uid={uid}")

    def limit_bucket(self, bucket: str, max_objects: int) -> None:
        """A quota on one bucket. It is in force at once for this server."""
        self.run(
            "radosgw-admin",
            "quota",
            "set",
            "--quota-scope=bucket",
            f"--bucket={bucket}",
            f"--max-objects={max_objects}",
        )
        self.run("radosgw-admin", "quota", "enable", "--quota-scope=bucket", f"--bucket={bucket}")

    def pid(self, daemon: str = "client.rgw") -> int:
        return int((self.directory / "run" / f"{daemon}.pid").read_text())

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """The server accepts connections and never answers."""
        os.kill(self.pid(), signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid(), signal.SIGCONT)

    # damage behind S3's back

    def flip_byte(self, bucket: str, key: str, offset: int = 0) -> None:
        """Bit rot: S3 goes on answering 200 with the old ETag, and other bytes."""
        raw = self._raw(bucket, key)
        data = bytearray(self.run("rados", "-p", DATA_POOL, "get", raw, "-"))
        data[offset] ^= 1
        self.run("rados", "-p", DATA_POOL, "put", raw, "-", stdin=bytes(data))

    def lose(self, bucket: str, key: str) -> None:
        """The object is gone although the bucket still lists it."""
        self.run("rados", "-p", DATA_POOL, "rm", self._raw(bucket, key))

    def _raw(self, bucket: str, key: str) -> str:
        stats = json.loads(self.run("radosgw-admin", "bucket", "stats", f"--bucket={bucket}"))
        return f"{stats['marker']}_{key}"

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.http, timeout=5).read()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    log = (self.directory / "log" / "client.rgw.log").read_text(errors="replace")
                    raise RuntimeError(f"radosgw does not answer: {log[-2000:]}") from error
                time.sleep(0.02)


def stop_daemons(directory: Path) -> None:
    """Kill the daemons that belong to `directory`, and only those, and wait until they are gone."""
    pids = []
    for daemon in DAEMONS:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((directory / "run" / f"{daemon}.pid").read_text())
            if str(directory) in Path(f"/proc/{pid}/environ").read_text(errors="replace"):  # not a recycled pid
                os.kill(pid, signal.SIGKILL)
                pids.append(pid)
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)


def new_directory() -> Path:
    """A directory for one server, remembered for `stop_leftovers` together with the process that owns it."""
    directory = Path(tempfile.mkdtemp(prefix=f"backupctl-rgw-{os.getuid()}-"))  # short: socket names have 107 bytes
    (directory / "owner.json").write_text(json.dumps({"pid": os.getpid(), "started": _started(os.getpid())}))
    return directory / "ceph"


def stop_leftovers() -> None:
    """Stop servers whose test run was killed before it could."""
    for parent in Path(tempfile.gettempdir()).glob(f"backupctl-rgw-{os.getuid()}-*"):
        with contextlib.suppress(FileNotFoundError, ValueError):
            owner = json.loads((parent / "owner.json").read_text())
            if _started(owner["pid"]) != owner["started"]:
                stop_daemons(parent / "ceph")
                shutil.rmtree(parent, ignore_errors=True)


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty when there is none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _make_certificates(directory: Path) -> None:
    """A CA and a leaf signed by it: some clients refuse a self-signed leaf."""

    def openssl(*argv: str) -> None:
        subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=directory, timeout=60)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    usage = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    subject = ["-subj", "/CN=backupctl test CA"]
    openssl("req", "-x509", *key, "-days", "30", *subject, "-keyout", "ca.key", "-out", "ca.pem", *usage)
    openssl("req", *key, "-subj", "/CN=localhost", "-keyout", "leaf.key", "-out", "leaf.csr")
    (directory / "extensions").write_text(
        "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    openssl("x509", "-req", "-in", "leaf.csr", *signer, "-days", "30", "-extfile", "extensions", "-out", "leaf.pem")
    (directory / "server.pem").write_text((directory / "leaf.pem").read_text() + (directory / "leaf.key").read_text())
    for name in ("server.pem", "leaf.key", "ca.key"):
        (directory / name).chmod(0o600)
