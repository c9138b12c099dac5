"""The job of the transport's tests: an input topic, and workers under names of their own."""

from __future__ import annotations

from tests.transport.conftest import bundle, job

__all__ = ["bundle", "job"]
