"""An authority, and what it has signed, for servers that speak TLS in tests."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)


@contextmanager
def certificates(name: str) -> Iterator[Path]:
    """A directory that anybody may read: `ca.pem`; `server.pem` for that host name, and `own.pem` for a client, with their
    `.key`; `other.pem`, an authority that signed neither."""
    directory = Path(tempfile.mkdtemp(prefix="bctl-tls-", dir="/tmp"))
    directory.chmod(0o755)
    make = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for one in ("ca", "other"):
        _openssl(directory, "req", "-x509", *make, "-keyout", f"{one}.key", "-out", f"{one}.pem", "-subj", f"/CN={one}")
    for one, extension in (("server", f"subjectAltName=DNS:{name}"), ("own", "keyUsage=digitalSignature")):
        (directory / "extension").write_text(extension)
        _openssl(directory, "req", *make, "-keyout", f"{one}.key", "-out", f"{one}.csr", "-subj", f"/CN={one}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extension", "-days", "2"]
        _openssl(directory, "x509", "-req", "-in", f"{one}.csr", "-out", f"{one}.pem", *signed)
    for path in directory.iterdir():
        path.chmod(0o644)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
