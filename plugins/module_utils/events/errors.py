"""What goes wrong with event stores and their archives."""

from __future__ import annotations


class EventsError(Exception):
    """An event store or an archive can't be used as asked. The text says what was found, what is allowed, and what to do."""
