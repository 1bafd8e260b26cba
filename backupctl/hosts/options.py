"""What configuration says about a host: `{local: {}}` or `{ssh: {…}}`, and what it may be used for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupctl.hosts.secret import SecretRef
from backupctl.hosts.sizes import Size

Text = Annotated[str, Field(min_length=1)]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
"""What a worker of a fleet must have: the name of a network, of a machine, of anything."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class LocalOptions(_Options):
    """This machine."""


class AccountOptions(_Options):
    """How `backupctl host account` sets up the restricted account that the host is read with."""

    addresses: list[Text] = Field(
        default_factory=list,
        alias="from",
        description="addresses or networks that the key may be used from, as `from=` of authorized_keys takes them",
    )
    as_root: bool = Field(
        default=False,
        description="files are read by root, through one rule of sudo; commands still run as the account itself",
    )


class SshOptions(_Options):
    """A machine reached by SSH, without installing anything on it. It needs sshd and python3 (3.6 or newer)."""

    address: Text = Field(description="host name or IP address")
    port: int = Field(default=22, ge=1, le=65535)
    user: Text = Field(description="whom to log in as")
    host_key: str = Field(
        default="",
        pattern=r"^(SHA256:[A-Za-z0-9+/]{43}=?)?$",
        description="fingerprint of the machine's key, as `ssh-keygen -lf` prints it; without one, connecting is "
        "refused and the message shows the key that was offered",
    )
    key: SecretRef | None = Field(
        default=None,
        description="private key to log in with, in OpenSSH or PEM form, without a passphrase; without one, the keys of the "
        "ssh-agent whose socket SSH_AUTH_SOCK names",
    )
    certificate: SecretRef | None = Field(
        default=None, description="OpenSSH user certificate of `key`, as `ssh-keygen -s` writes it"
    )
    jump: Text | None = Field(default=None, description="name of another SSH host to go through")
    transport: Literal["paramiko", "openssh"] = Field(
        default="paramiko",
        description="`openssh` runs the program `ssh` of this machine instead of the library: for keys on a security token, "
        "Kerberos, and what `ssh_config` can say",
    )
    ssh_config: Path | None = Field(
        default=None,
        description="file that `ssh` reads, with `transport: openssh`; without it none, not even the user's",
    )
    account: AccountOptions = Field(default=AccountOptions(), description="the restricted account, when it is one")

    @model_validator(mode="after")
    def _belonging_together(self) -> SshOptions:
        if self.certificate is not None and self.key is None:
            raise ValueError("`certificate` belongs to a `key`")
        if self.ssh_config is not None and self.transport != "openssh":
            raise ValueError("only `transport: openssh` reads an `ssh_config`")
        return self


class HostOptions(_Options):
    local: LocalOptions | None = None
    ssh: SshOptions | None = None
    role: Literal["source", "staging"] = Field(default="source", description="`staging`: drills may restore here")
    scratch: Text | None = Field(default=None, description="directory on the host where drills may restore")
    max_disk: Size | None = Field(default=None, description="most bytes that drills may use there, e.g. 200GiB")
    same_machine: bool = Field(
        default=False,
        description="This staging host is a machine that is backed up, or the one that runs backupctl, on purpose. "
        "Otherwise drills refuse it. Not needed for `local: {}`.",
    )
    isolated: bool = Field(
        default=False,
        description="This staging host must not be able to connect to any other SSH host of the configuration, nor to the server "
        "of a database source, the store of a repository, or the catalog's. Each drill tries, before it writes anything, and "
        "refuses when a connection comes through.",
    )
    scale: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="How fast this staging host is against the machine of a real recovery, 0.5: half as fast. For the "
        "estimate in reports only; what was measured stays as it is.",
    )
    concurrency: int | None = Field(
        default=None, ge=1, le=10_000, description="how many scheduled runs may use it at once"
    )
    needs: list[Tag] = Field(default_factory=list, description="tags that a fleet's worker must have to reach it")

    @model_validator(mode="after")
    def _one_kind(self) -> HostOptions:
        if (self.local is None) == (self.ssh is None):
            raise ValueError("a host is either `local: {}` or `ssh: {…}`")
        if self.role == "staging" and self.scratch is None:
            raise ValueError("a staging host needs `scratch`, the directory where drills may restore")
        if self.isolated and (self.role != "staging" or self.ssh is None):
            raise ValueError("`isolated` is for a staging host by SSH: this machine has to reach the others")
        if self.ssh and self.scratch and not self.scratch.startswith("/"):
            raise ValueError("`scratch` of an SSH host is an absolute path on that host")
        return self
