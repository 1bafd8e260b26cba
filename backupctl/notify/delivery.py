"""The three ways to tell: mail (SMTP), webhook (HTTP POST), heartbeat (HTTP GET). Verified TLS, time limits,
no redirects, no proxies.

Every failure is a UserError that repeats neither the address nor what the other side said: both may hold secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import smtplib
import socket
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from urllib.parse import urlsplit

from backupctl.config.channels import AppriseOptions, EmailOptions, HeartbeatOptions, WebhookOptions, check_url
from backupctl.errors import ConfigError, UnreachableError, UserError
from backupctl.hosts.secret import SecretRef

TIMEOUT_SECONDS = 20
SIGNATURE = "X-Backupctl-Signature"  # sha256=HEX, HMAC-SHA256 of the body

Secrets = Callable[[SecretRef], bytes]


def send_mail(options: EmailOptions, subject: str, text: str, at: datetime, run: str, secrets: Secrets) -> None:
    """Raises UserError unless the server took it for every receiver."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = options.sender, ", ".join(options.to), subject
    message["Date"], message["Auto-Submitted"] = format_datetime(at), "auto-generated"
    message["Message-ID"] = make_msgid(run, domain=options.sender.rpartition("@")[2])
    message.set_content(text)
    password = _password(options, secrets)
    where = f"mail server {options.host}:{options.port}"
    context = ssl.create_default_context()
    try:
        with _connect(options, context) as server:
            if options.tls == "starttls":
                server.starttls(context=context)
            if options.user is not None:
                server.login(options.user, password)
            refused = server.send_message(message)
    except smtplib.SMTPAuthenticationError:
        raise UserError(f"{where} refused the login", next_step="check user and password of the channel") from None
    except smtplib.SMTPResponseException as error:
        raise UserError(f"{where} answered {error.smtp_code}", next_step="look into the mail server's log") from None
    except smtplib.SMTPServerDisconnected as error:  # smtplib hides behind it why a read failed
        why = _reason(error.__context__) if isinstance(error.__context__, OSError) else "it hung up"
        raise UnreachableError(f"{where} cannot be talked to: {why}") from None
    except smtplib.SMTPException as error:
        raise UserError(f"{where} did not take the mail: {_kind(error)}") from None
    except OSError as error:
        raise UnreachableError(f"{where} cannot be reached: {_reason(error)}") from None
    if refused:
        raise UserError(f"{where} refused {len(refused)} of {len(options.to)} receivers")


def _password(options: EmailOptions, secrets: Secrets) -> str:
    if options.password is None:
        return ""
    try:
        return secrets(options.password).decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"the mail password in {options.password} is no ASCII text") from None


def _connect(options: EmailOptions, context: ssl.SSLContext) -> smtplib.SMTP:
    if options.tls == "tls":
        return smtplib.SMTP_SSL(options.host, options.port, timeout=TIMEOUT_SECONDS, context=context)
    return smtplib.SMTP(options.host, options.port, timeout=TIMEOUT_SECONDS)


def post(options: WebhookOptions, document: Mapping[str, object], secrets: Secrets) -> None:
    """JSON; signed when the channel has a secret. Raises UserError unless the answer is 2xx."""
    data = json.dumps(document, sort_keys=True, ensure_ascii=False).encode("utf-8")
    headers = {"Content-Type": "application/json"}
    if options.secret is not None:
        headers[SIGNATURE] = "sha256=" + hmac.new(secrets(options.secret), data, hashlib.sha256).hexdigest()
    _request("POST", _address(options.url, secrets), data, headers, "the webhook")


def fetch(options: HeartbeatOptions, secrets: Secrets) -> None:
    """Raises UserError unless the answer is 2xx."""
    _request("GET", _address(options.url, secrets), None, {}, "the heartbeat's address")


def send_apprise(options: AppriseOptions, subject: str, text: str, secrets: Secrets) -> None:
    """Raises UserError unless every service behind the address took it; ConfigError without apprise. What apprise itself
    would log repeats the address, and is not logged."""
    try:
        import apprise
    except ImportError:
        raise ConfigError("apprise is not installed", next_step="pip install 'backupctl[notify]'") from None
    log = logging.getLogger("apprise")
    before, log.disabled = log.disabled, True
    try:
        service = apprise.Apprise()
        try:
            known = service.add(secrets(options.url).decode("utf-8").strip())
        except UnicodeDecodeError:
            known = False
        if not known:
            raise ConfigError(
                f"the address in {options.url} is none that apprise knows", next_step="correct the secret"
            )
        if not service.notify(body=text, title=subject):
            raise UserError("apprise could not deliver it", next_step="try the address with apprise's own command")
    finally:
        log.disabled = before


def _address(url: str | SecretRef, secrets: Secrets) -> str:
    if isinstance(url, str):
        return url
    try:
        return check_url(secrets(url).decode("utf-8"))
    except ValueError as error:  # also no UTF-8
        said = "is no text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(f"the address in {url} {said}", next_step="correct the secret") from None


def _request(method: str, address: str, data: bytes | None, headers: Mapping[str, str], what: str) -> None:
    url = urlsplit(address)
    assert url.hostname is not None
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=TIMEOUT_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, target, body=data, headers={"User-Agent": "backupctl", **headers})
        status = connection.getresponse().status
    except OSError as error:
        raise UnreachableError(f"{what} cannot be reached: {_reason(error)}") from None
    except (http.client.HTTPException, ValueError) as error:
        raise UserError(f"{what} did not answer as a web server does: {_kind(error)}") from None
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise UserError(f"{what} answered {status}", next_step="check the address of the channel")


def _kind(error: Exception) -> str:
    return type(error).__name__


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate cannot be verified"
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS} seconds"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    return error.strerror or _kind(error)
