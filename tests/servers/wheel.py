"""backupctl as a wheel, put together without a build backend, which would have to be downloaded."""

from __future__ import annotations

import zipfile
from pathlib import Path

import backupctl

PACKAGE = Path(backupctl.__file__).parent


def make_wheel(directory: Path, version: str = backupctl.__version__) -> Path:
    """`version` is what it says of itself, also in the program that far machines run; the rest is as it lies here."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"backupctl-{version}-py3-none-any.whl"
    facts = f"backupctl-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in sorted(PACKAGE.rglob("*")):
            if not file.is_file() or "__pycache__" in file.parts:
                continue
            name, content = str(file.relative_to(PACKAGE.parent)), file.read_bytes()
            if name == "backupctl/__init__.py":
                content = content.replace(backupctl.__version__.encode(), version.encode())
            if name == "backupctl/hosts/agent.py":
                content += f"\nVERSION = {version!r}\n".encode()
            wheel.writestr(name, content)
        wheel.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: backupctl\nVersion: {version}\n")
        wheel.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{facts}/entry_points.txt", "[console_scripts]\nbackupctl = backupctl.cli.main:main\n")
        names = [*wheel.namelist(), f"{facts}/RECORD"]
        wheel.writestr(f"{facts}/RECORD", "".join(f"{name},,\n" for name in names))
    return path
