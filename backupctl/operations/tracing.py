"""A run as an OpenTelemetry trace, sent by OTLP over HTTP when it has ended. The trace's id is the run's, so that who has one has
the other. Names and numbers only; nothing of a run depends on it."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backupctl import __version__
from backupctl.catalog.models import Run
from backupctl.errors import UserError
from backupctl.operations.context import Context

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

SECONDS = 5  # a collector that hangs must not keep a run's process


def export_run(context: Context, run: Run) -> None:
    """Send the trace of a run that has ended, where `telemetry` is configured. What goes wrong is a warning."""
    settings = context.settings.telemetry
    if settings is None or run.started is None or run.finished is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult
    except ImportError:
        context.reporter.event("warning", "no trace was sent: install the extra: pip install 'backupctl[otel]'")
        return
    try:
        headers = {}
        if settings.authorization is not None:
            headers["Authorization"] = context.resources.secret(settings.authorization).decode()
        exporter = OTLPSpanExporter(f"{settings.endpoint}/v1/traces", headers=headers, timeout=SECONDS)
        result = exporter.export(spans(context, run, settings.service))
        exporter.shutdown()  # type: ignore[no-untyped-call]  # the exporter has no annotation there
    except (UserError, OSError, ValueError) as error:
        context.reporter.event("warning", f"no trace was sent: {getattr(error, 'message', error)}")
        return
    if result is not SpanExportResult.SUCCESS:
        context.reporter.event("warning", f"no trace was sent: {settings.endpoint} did not take it")


def spans(context: Context, run: Run, service: str) -> list[ReadableSpan]:
    """One for the run and, below it, one for each phase that was measured."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    class OfRun(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return uuid.UUID(run.id).int

    assert run.started is not None and run.finished is not None
    resource = Resource({"service.name": service, "service.version": __version__})
    provider, kept = TracerProvider(resource=resource, id_generator=OfRun()), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("backupctl", __version__)
    root = tracer.start_span(f"{run.kind} {run.name}", start_time=_ns(run.started), attributes=_attributes(run))
    if run.exit_code:
        root.set_status(Status(StatusCode.ERROR, run.state))
    begin = run.started.timestamp()
    for phase in _phases(context, run):
        start, begin = begin, begin + float(phase["seconds"])
        child = tracer.start_span(str(phase["name"]), set_span_in_context(root), start_time=int(start * 1e9))
        child.end(int(begin * 1e9))
    root.end(_ns(run.finished))
    return list(kept.get_finished_spans())


def _phases(context: Context, run: Run) -> list[dict[str, Any]]:
    """What a drill measured, one after the other."""
    if run.kind != "drill":
        return []
    found = [row for row in context.catalog.drills(drill=run.name, limit=20) if row.id == run.id]
    return list(found[0].phases) if found else []


def _attributes(run: Run) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {
        "backupctl.run": run.id,
        "backupctl.kind": run.kind,
        "backupctl.name": run.name,
        "backupctl.state": run.state,
        "backupctl.trigger": run.trigger,
        "backupctl.exit_code": run.exit_code or 0,
        "backupctl.repository": run.repository,
        "backupctl.snapshot": run.snapshot,
    }
    numbers = {key: value for key, value in run.summary.items() if isinstance(value, bool | int | float)}
    if verdict := run.summary.get("verdict"):
        found["backupctl.verdict"] = str(verdict)
    return found | {f"backupctl.{key}": value for key, value in numbers.items()}


def _ns(instant: datetime) -> int:
    return int(instant.timestamp() * 1e9)
