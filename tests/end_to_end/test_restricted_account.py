"""A host that is read with a restricted account, set up from what `host account` writes."""

from __future__ import annotations

import shlex

import pytest

from backupctl.hosts.account import WRAPPER
from tests.end_to_end.site import Site
from tests.servers.databases import unprivileged_prefix
from tests.servers.sshd import Sshd, make_key

pytestmark = pytest.mark.servers


def test_a_job_runs_with_what_host_account_writes(open_site: Site, sshd: Sshd) -> None:
    site, key = open_site, open_site.root / "reader_key"
    make_key(key)
    site.sources = {
        "shop": f"{{sqlite: {{host: web1, path: {site.root}/input/shop.db}}}}",
        "www": f"{{files: {{host: web1, paths: [{site.root}/input/www]}}}}",
    }
    site.configure()
    connection = f"address: 127.0.0.1, port: {sshd.port}, user: {sshd.user}, key: {{file: reader_key}}"
    connection += f", host_key: '{sshd.fingerprint()}', account: {{from: [127.0.0.1]}}"
    main = site.root / "backupctl.yaml"
    main.write_text(main.read_text().replace("hosts:\n", f"hosts:\n  web1: {{ssh: {{{connection}}}}}\n"))
    site.prepare()
    said = site.run("host", "account", "web1", "--into", f"{site.root}/account", "--json")
    files = {line["path"]: line for line in said.lines if line["type"] == "file"}
    assert [(path, one["mode"]) for path, one in files.items()] == [
        (WRAPPER, "0755"),
        (f"/home/{sshd.user}/.ssh/authorized_keys", "0644"),
    ]
    installed = site.root / "account" / WRAPPER.lstrip("/")
    assert installed.stat().st_mode & 0o777 == 0o755
    for directory in installed.relative_to(site.root).parents:
        (site.root / directory).chmod(0o755)
    # the tests' sshd logs in whoever runs them: root becomes somebody else on the way to the wrapper
    command = shlex.join([*unprivileged_prefix(), str(installed)])
    keys = sshd.directory / "authorized_keys"
    line = files[f"/home/{sshd.user}/.ssh/authorized_keys"]["content"].replace(WRAPPER, command)
    keys.write_text(keys.read_text() + line)
    assert "Python" in site.run("host", "check", "web1").out
    finished = site.run("run", "--json").line("finished")
    assert (finished["state"], finished["files"]) == ("complete", 5)
    assert "refused" in site.run("restore", "--into", f"web1:{site.root}/back", expect=None).err
    assert site.run("host", "account", "staging", expect=2).err
