"""A read-only status page and its JSON, served from the catalog: `backupctl serve --listen 127.0.0.1:8642`.

It links nothing, changes nothing and runs no script. It has no login, so it binds to loopback only, and answers only to
loopback names (a page elsewhere cannot reach it by renaming its own host to 127.0.0.1). Put a proxy with authentication
before it to show it to others; the proxy speaks to it as `Host: 127.0.0.1`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from jinja2 import Environment, FileSystemLoader

from backupctl import __version__
from backupctl.errors import UsageError
from backupctl.evidence.document import duration
from backupctl.operations.context import Context
from backupctl.scheduling.metrics import CONTENT_TYPE, exposition
from backupctl.scheduling.standing import standing
from backupctl.web.overview import overview, shown

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def application(context: Context) -> FastAPI:
    app = FastAPI(title="backupctl", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    zone = context.settings.defaults.timezone
    templates.filters["local"] = lambda instant: shown(instant, zone)
    templates.filters["duration"] = duration
    templates.filters["short"] = lambda text: re.sub(r"\b([0-9a-f]{12})[0-9a-f]{8,}\b", r"\1…", text)

    @app.middleware("http")
    async def guarded(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        host = request.url.hostname or ""
        if not _is_loopback(host):
            return PlainTextResponse("this page answers to loopback names only\n", status_code=421, headers=HEADERS)
        response = await proceed(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/api/status")
    def status() -> dict[str, Any]:
        return overview(context) | {"version": __version__}

    @app.get("/metrics")
    def metrics() -> Response:
        """For Prometheus, from the catalog as everything here: what is in the repositories, `status --textfile` knows."""
        found = standing(context, list(context.settings.jobs.values()), ask=False)
        return Response(exposition(found), media_type=CONTENT_TYPE)

    @app.get("/healthz")
    def health() -> Response:
        """200 while the catalog answers."""
        context.catalog.runs(limit=1)
        return PlainTextResponse("ok\n")

    @app.get("/", response_class=HTMLResponse)
    def page() -> HTMLResponse:
        return HTMLResponse(templates.get_template("status.html.j2").render(version=__version__, **overview(context)))

    return app


class StatusServer:
    """Serves `application` in a thread of its own until `stop`. The port is taken when the object is made, so that a busy
    one is told before anything else starts."""

    def __init__(self, context: Context, listen: str) -> None:
        address, port = _parsed(listen)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((address, port))
            self._socket.listen()  # who comes before the thread is up waits
        except OSError as error:
            self._socket.close()
            raise UsageError(
                f"the status page cannot listen on {listen}: {error.strerror}",
                next_step="choose another port, or stop what uses this one",
            ) from None
        shown_address = f"[{address}]" if ":" in address else address
        self.url = f"http://{shown_address}:{self._socket.getsockname()[1]}/"
        config = uvicorn.Config(application(context), log_level="warning", access_log=False, server_header=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="status page", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._socket.close()


def _parsed(listen: str) -> tuple[str, int]:
    """Raises UsageError for anything but a loopback ADDRESS:PORT."""
    address, _, port = listen.rpartition(":")
    address = "127.0.0.1" if address == "localhost" else address.strip("[]")
    example = "for example --listen 127.0.0.1:8642"
    try:
        ipaddress.ip_address(address)
        number = int(port)
    except ValueError:
        raise UsageError(f"{listen!r} is no ADDRESS:PORT", next_step=example) from None
    if not 0 <= number <= 65535:
        raise UsageError(f"there is no port {number}", next_step=example)
    if not _is_loopback(address):
        raise UsageError(
            f"the status page has no login and does not listen on {address}",
            next_step="listen on 127.0.0.1 and put a proxy with authentication before it",
        )
    return address, number


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"
