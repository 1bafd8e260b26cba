"""Every draw of every drill, computed again from the audit trail: whoever holds the trail can do the same (the formula stands
in `catalog/selection`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backupctl.catalog.selection import COMMITTED, DRAWN, Population, choose, commitment_of, seed_of
from backupctl.clock import iso

if TYPE_CHECKING:
    from backupctl.catalog.models import Event


def read_draws(events: Sequence[Event], verdicts: Mapping[str, str]) -> list[dict[str, Any]]:
    """`events` of the whole trail, or those about draws, in order; `verdicts` by drill run, None in the answer where a draw has
    led to no record. A draw without `faults` is the only one that was possible."""
    newest: dict[str, Event] = {}  # by drill, the event with the commitment that is open
    history: dict[str, list[dict[str, str]]] = {}
    found = []
    for event in events:
        if event.action == COMMITTED:
            newest[event.subject] = event
        elif event.action == DRAWN:
            found.append(_draw(event, newest.get(event.subject), history.setdefault(event.subject, []), verdicts))
            newest[event.subject] = event
    return found


def _draw(
    event: Event, committing: Event | None, history: list[dict[str, str]], verdicts: Mapping[str, str]
) -> dict[str, Any]:
    detail = event.detail
    try:
        faults = _faults(event, committing, history)
        history.append({str(key): str(value) for key, value in detail["chosen"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        faults = [f"the event is malformed: {str(error)[:200] or type(error).__name__}"]
    return {
        "drill": event.subject,
        "event": event.number,
        "time": iso(event.time),
        "hash": event.hash,
        "run": detail.get("run"),
        "verdict": verdicts.get(str(detail.get("run"))),
        "committed_event": committing.number if committing is not None else None,
        "committed_time": iso(committing.time) if committing is not None else None,
        "committed_hash": committing.hash if committing is not None else None,
        "commitment": committing.detail.get("commitment") if committing is not None else None,
        "secret": detail.get("secret"),
        "seed": detail.get("seed"),
        "population": detail.get("population"),
        "candidates": detail.get("candidates"),
        "chosen": detail.get("chosen"),
        "faults": faults,
    }


def _faults(event: Event, committing: Event | None, history: Sequence[Mapping[str, str]]) -> list[str]:
    detail = event.detail
    if committing is None:
        return ["nothing was committed to before it"]
    faults = []
    secret = bytes.fromhex(detail["secret"])
    if detail["committed"] != committing.number:
        faults.append(f"it names event {detail['committed']}, the open commitment is in {committing.number}")
    if commitment_of(secret) != committing.detail["commitment"]:
        faults.append("the secret is not the one that was committed to")
    seed = seed_of(secret, committing.hash)
    if seed.hex() != detail["seed"]:
        faults.append("the seed does not follow from secret and commitment")
    choice = choose(Population(**detail["population"]), history, seed)
    if dict(choice.candidates) != detail["candidates"]:
        faults.append("the candidates are not those whose turn it was")
    chosen = {key: value for key, value in detail["chosen"].items() if key != "snapshot"}
    if dict(choice.chosen) != chosen:
        faults.append(f"the seed draws {', '.join(choice.chosen.values())}")
    elif detail["population"]["ages"][chosen["age"]][chosen["place"]] != detail["chosen"]["snapshot"]:
        faults.append("the snapshot is not the one that was drawn")
    return faults
