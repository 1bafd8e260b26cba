"""A read-only status page and its JSON, served from the catalog: `backupctl serve --listen 127.0.0.1:8642`.

It shows what runs, checks and drills said of themselves and links nothing, changes nothing, reads no repository and needs no
key. It has no login, so it binds to loopback only; put a proxy with authentication before it to show it to others.
"""

from __future__ import annotations

import ipaddress
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader

from backupctl import __version__
from backupctl.clock import iso, to_zone
from backupctl.errors import UsageError
from backupctl.operations.context import Context

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def overview(context: Context) -> dict[str, Any]:
    """What the page shows, as JSON-ready facts: every job with its newest snapshot, last run and last drill."""
    catalog, now = context.catalog, context.clock.now()
    jobs = []
    for job in context.settings.jobs.values():
        complete = [one for one in catalog.snapshots(job=job.job) if one.status == "complete"]
        newest = max(complete, key=lambda one: one.time, default=None)
        runs = [run for run in catalog.runs(kind="backup", name=job.job, limit=20) if run.trigger != "first_seen"]
        drills = catalog.drills(job=job.job, limit=1)
        age = (now - newest.time).total_seconds() if newest else None
        rpo = job.objectives.rpo.total_seconds()
        jobs.append(
            {
                "job": job.job,
                "state": "stale" if age is None or age > rpo else "ok",
                "newest": iso(newest.time) if newest else None,
                "age_seconds": age,
                "rpo_seconds": rpo,
                "last_run": runs[0].state if runs else None,
                "last_drill": drills[0].verdict if drills else None,
                "level": drills[0].level if drills else None,
                "drilled": iso(drills[0].declared) if drills else None,
            }
        )
    recent = [
        {
            "kind": run.kind,
            "name": run.name,
            "scheduled": iso(run.scheduled),
            "state": run.state,
            "verdict": run.summary.get("verdict", ""),
            "exit_code": run.exit_code,
        }
        for run in catalog.runs(limit=25)
        if run.trigger != "first_seen"
    ]
    return {"generated": iso(now), "version": __version__, "jobs": jobs, "runs": recent}


def application(context: Context) -> FastAPI:
    app = FastAPI(title="backupctl", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    zone = context.settings.defaults.timezone

    @app.get("/api/status")
    def status() -> dict[str, Any]:
        return overview(context)

    @app.get("/healthz")
    def health() -> Response:
        """200 while the catalog answers."""
        context.catalog.runs(limit=1)
        return Response("ok\n", media_type="text/plain")

    @app.get("/", response_class=HTMLResponse)
    def page() -> HTMLResponse:
        now = f"{to_zone(context.clock.now(), zone):%Y-%m-%d %H:%M:%S} {zone}"
        text = templates.get_template("status.html.j2").render(now=now, **overview(context))
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        return HTMLResponse(text, headers=headers)

    return app


class StatusServer:
    """Runs `application` in a thread of its own until `stop`."""

    def __init__(self, context: Context, listen: str) -> None:
        address, _, port = listen.rpartition(":")
        try:
            loopback = ipaddress.ip_address(address.strip("[]")).is_loopback
            number = int(port)
        except ValueError:
            raise UsageError(
                f"{listen!r} is no ADDRESS:PORT", next_step="for example --listen 127.0.0.1:8642"
            ) from None
        if not loopback:
            raise UsageError(
                f"the status page has no login and does not listen on {address}",
                next_step="listen on 127.0.0.1 and put a proxy with authentication before it",
            )
        self.url = f"http://{address}:{number}/"
        config = uvicorn.Config(
            application(context), host=address.strip("[]"), port=number, log_level="warning", access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="status page", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
