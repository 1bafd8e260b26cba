"""What S3 and the road to it can answer, classified once."""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from backupctl.errors import (
    Denied,
    Full,
    LoginRefused,
    NotFound,
    StorageError,
    StoreUnreachableError,
    Transient,
    UserError,
)

LOGIN = {
    "InvalidAccessKeyId": "the server does not know this access key",
    "SignatureDoesNotMatch": "the secret key does not belong to this access key",
    "UserSuspended": "the account is suspended",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "AccountProblem": "there is a problem with the account",
}
FULL = {
    "QuotaExceeded",
    "InsufficientStorage",
    "ServiceQuotaExceeded",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
}
BROKEN_OFF = ("EOF", "RESET", "TIMED OUT")  # a TLS failure that is the network's, not the certificate's
REDIRECT = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
TRANSIENT = {
    "BadDigest",  # damaged on the way: what we sent carries its checksum
    "XAmzContentSHA256Mismatch",
    "IncompleteBody",
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "ConditionalRequestConflict",
    "OperationAborted",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
}


def error_code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def http_status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def classify(error: Exception, what: str, *, name: str, location: str, bucket: str) -> UserError:
    """`what` is like "write data/ab/…". The result names the store, the object and the next step."""
    start = f"{location}: cannot {what}"
    if isinstance(error, ClientError):
        return _answered(error, start, name=name, location=location, bucket=bucket)
    if isinstance(error, SSLError) and not any(word in str(error).upper() for word in BROKEN_OFF):
        return StoreUnreachableError(
            f"{start}: the server's certificate cannot be verified: {_short(error)}",
            next_step="set `ca_bundle` to the PEM file of the authority that signed it; the host in `endpoint` must be "
            "the one that the certificate names",
        )
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        next_step = "set `credentials` of this store"
        return Denied(f"{start}: no credentials given or found", name=name, location=location, next_step=next_step)
    if isinstance(error, HTTPClientError | ConnectionError | IncompleteReadError | ResponseParserError | OSError):
        next_step = "check the endpoint, the network and that the server runs; then run again"
        return Transient(f"{start}: {_short(error)}", name=name, location=location, next_step=next_step)
    return StorageError(f"{start}: {_short(error)}", name=name, location=location, next_step="check the `s3` options")


def _answered(error: ClientError, start: str, *, name: str, location: str, bucket: str) -> UserError:
    code, status = error_code(error), http_status(error)
    said = error.response.get("Error", {}).get("Message") or ""
    answer = f"HTTP {status}" + (f" {code}" if code and code != str(status) else "") + (f": {said}" if said else "")
    if code == "NoSuchBucket":
        next_step = f"create the bucket {bucket!r} or correct `bucket` and `endpoint`"
        return StoreUnreachableError(f"{start}: the bucket {bucket!r} does not exist", next_step=next_step)
    if code in FULL or status == 507:
        next_step = "raise the quota or free space; what is stored is unharmed; then run again"
        return Full(f"{start}: {answer}", name=name, location=location, next_step=next_step)
    if code in LOGIN:
        next_step = "correct the secret that `credentials` refers to"
        return LoginRefused(f"{start}: {LOGIN[code]} ({code})", name=name, location=location, next_step=next_step)
    if code in ("RequestTimeTooSkewed", "RequestExpired"):
        next_step = "set this machine's clock (`timedatectl`)"
        return Denied(f"{start}: our clock and the server's differ", name=name, location=location, next_step=next_step)
    if code in REDIRECT or status == 301:
        next_step = "correct `region` and `endpoint`"
        return StorageError(
            f"{start}: the bucket lives elsewhere ({answer})", name=name, location=location, next_step=next_step
        )
    if status in (401, 403):
        next_step = "let the bucket's policy allow it, or use other `credentials`"
        return Denied(f"{start}: {answer}", name=name, location=location, next_step=next_step)
    if status == 404:
        return NotFound(f"{location}: {name} does not exist", name=name, location=location)
    if code in TRANSIENT or status == 429 or (status >= 500 and status != 501):
        return Transient(f"{start}: {answer}", name=name, location=location)
    return StorageError(f"{start}: {answer}", name=name, location=location, next_step="look into the server's log")


def _short(error: Exception) -> str:
    """botocore's messages are sentences; its own word for an empty one is the class name."""
    return " ".join(str(error).split()) or type(error).__name__


#: what a call into boto3 can raise that is no bug of ours
ERRORS = (ClientError, BotoCoreError, ResponseParserError, OSError)
