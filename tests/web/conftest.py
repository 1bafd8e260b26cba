from __future__ import annotations

from tests.operations.conftest import clock, context, site

__all__ = ["clock", "context", "site"]
