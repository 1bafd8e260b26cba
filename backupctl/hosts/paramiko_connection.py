"""Connecting and logging in: pinned host keys, one private key, jump hosts. paramiko, kept to its public surface, but for
what `Connection` puts right.

Measured choices: AES-GCM first (twice as fast as the default order), TCP_NODELAY (five times on request and
response). A dead peer is noticed within about a minute: keep-alives are sent every 15 s, and the kernel gives up on
bytes that stay unacknowledged for 60 s.
"""

from __future__ import annotations

import io
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import paramiko
from paramiko.ssh_exception import AuthenticationException, IncompatiblePeer, PasswordRequiredException, SSHException

from backupctl.errors import UnreachableError, UserError, WrongKeyError
from backupctl.hosts.options import SshOptions
from backupctl.hosts.transport import CONNECT_SECONDS, KEEPALIVE_SECONDS, Login, wrong_host_key

DEAD_MILLISECONDS = 60_000
REKEY_BYTES = 1 << 36  # what one key may carry, as OpenSSH has it for AES (RFC 4344, 3.2); paramiko stops each 512 MiB
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr", "aes192-ctr", "aes128-ctr")
ASK_AGENT = "see what it holds: `ssh-add -l` with the SSH_AUTH_SOCK that backupctl has; or give `key`"
HOST_KEY_TYPES = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)

# it logs tracebacks of what our own errors already say in one line
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

OpenSocket = Callable[[], "socket.socket | paramiko.Channel"]


# not in the types of paramiko: what `Connection` goes round
_send: Callable[[paramiko.Transport, paramiko.Message], None] = vars(paramiko.Transport)["_send_user_message"]
_exchanged: Callable[[paramiko.Transport, paramiko.Message], None] = vars(paramiko.Transport)["_parse_newkeys"]


class Connection(paramiko.Transport):
    """paramiko answers the closing of a channel in the thread that also exchanges keys. In the middle of an exchange that thread
    would wait for itself, for 30 s, and then give up the connection. Here the answer waits, and the thread does not."""

    def __init__(self, sock: socket.socket | paramiko.Channel) -> None:
        self._answers: list[paramiko.Message] = []
        super().__init__(sock)

    def _send_user_message(self, data: paramiko.Message) -> None:
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._answers.append(data)
        else:
            _send(self, data)

    def _parse_newkeys(self, m: paramiko.Message) -> None:
        _exchanged(self, m)
        answers, self._answers = self._answers, []
        for answer in answers:
            _send(self, answer)


def tcp_socket(name: str, options: SshOptions) -> socket.socket:
    try:
        sock = socket.create_connection((options.address, options.port), timeout=CONNECT_SECONDS)
    except OSError as error:
        raise UnreachableError(
            f"host {name}: cannot connect to {options.address} port {options.port}: {error.strerror or error}",
            next_step="check address and port, the network, and that sshd runs there",
        ) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_MILLISECONDS)
    return sock


def connect(name: str, options: SshOptions, login: Login, open_socket: OpenSocket) -> paramiko.Transport:
    """A logged-in transport. Raises UnreachableError, also for a host key that is not the pinned one, and
    WrongKeyError when the login is refused."""
    keys = login_keys(name, options, login)
    transport = _handshake(name, options, open_socket)
    try:
        _authenticate(transport, options.user, keys)
    except AuthenticationException as error:
        transport.close()
        ours = ", ".join(key.fingerprint for key in keys)
        public = f"{keys[0].get_name()} {keys[0].get_base64()}"
        raise WrongKeyError(
            f"host {name}: login as {options.user} refused ({str(error).rstrip('.')}); our key is {ours}",
            next_step=f"on that host, add this line to ~{options.user}/.ssh/authorized_keys: {public}",
        ) from error
    except (SSHException, OSError, EOFError) as error:
        transport.close()
        raise _failed(name, error) from error
    transport.set_keepalive(KEEPALIVE_SECONDS)
    return transport


def _authenticate(transport: paramiko.Transport, user: str, keys: Sequence[paramiko.PKey]) -> None:
    """With the first key that is accepted. Raises AuthenticationException."""
    for number, key in enumerate(keys, start=1):
        try:
            transport.auth_publickey(user, key)
            break
        except AuthenticationException:
            if number == len(keys):
                raise
    if not transport.is_authenticated():
        raise AuthenticationException("the host asks for more than a key")


def login_keys(name: str, options: SshOptions, login: Login) -> Sequence[paramiko.PKey]:
    """Our key with its certificate, or those of the ssh-agent. Raises UserError when there is none."""
    if login.key:
        key = load_key(name, options, login.key)
        if login.certificate:
            try:
                key.load_certificate(login.certificate.decode("ascii").strip())
            except (SSHException, ValueError, IndexError) as error:
                raise UserError(
                    f"host {name}: {options.certificate} is not a user certificate of its key: {error}",
                    next_step="make one: `ssh-keygen -s CA_KEY -I backupctl -n USER KEY.pub`",
                ) from None
        return [key]
    try:
        found = paramiko.Agent().get_keys()
    except SSHException as error:
        raise UserError(f"host {name}: the ssh-agent gives no keys: {error}", next_step=ASK_AGENT) from error
    if not found:
        raise UserError(f"host {name}: no ssh-agent answers, or it holds no key", next_step=ASK_AGENT)
    return found


def _handshake(name: str, options: SshOptions, open_socket: OpenSocket) -> paramiko.Transport:
    """Try each type of host key until the pinned one is shown: a machine has several, and shows only one at a time."""
    offered: list[str] = []
    for types in HOST_KEY_TYPES:
        transport = Connection(open_socket())
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = CONNECT_SECONDS
        transport.packetizer.REKEY_BYTES = REKEY_BYTES
        security = transport.get_security_options()
        security.ciphers = list(CIPHERS)
        security.key_types = list(types)
        try:
            transport.start_client(timeout=CONNECT_SECONDS)
            shown = transport.get_remote_server_key()
        except IncompatiblePeer:
            transport.close()
            continue  # it has no key of this type; with none at all, the message below says so
        except (SSHException, OSError, EOFError) as error:
            transport.close()
            raise _failed(name, error) from error
        if shown.fingerprint == options.host_key.rstrip("="):
            return transport
        transport.close()
        offered.append(f"{shown.fingerprint} ({shown.get_name()})")
    raise wrong_host_key(name, f"{options.address} port {options.port}", options.host_key, offered)


def load_key(name: str, options: SshOptions, key: bytes) -> paramiko.PKey:
    where = f"host {name}: the private key from {options.key}"
    text = key.decode("utf-8", "replace")
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        with suppress(SSHException, ValueError, IndexError):  # not a key of this kind; the message below is for all
            try:
                return kind.from_private_key(io.StringIO(text))
            except PasswordRequiredException:
                raise UserError(
                    f"{where} has a passphrase, which nobody can type at night",
                    next_step="make a key without one: `ssh-keygen -t ed25519 -N '' -f FILE`",
                ) from None
    raise UserError(
        f"{where} is not an Ed25519, ECDSA or RSA private key",
        next_step="make one: `ssh-keygen -t ed25519 -N '' -f FILE`; keys on a security token need `transport: openssh`",
    )


def _failed(name: str, error: Exception) -> UnreachableError:
    return UnreachableError(
        f"host {name}: SSH connection failed: {error or type(error).__name__}",
        next_step="try it by hand with `ssh -v`, then run the command again",
    )
