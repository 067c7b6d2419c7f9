"""Sees, below Python, everything that imports, opens, compiles or starts something."""

import sys
from typing import Any


class Audit:
    """A context in which such events are recorded: `with AUDIT as events`."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] | None = None
        sys.addaudithook(self._record)

    def _record(self, event: str, args: Any) -> None:
        if self.events is not None:
            self.events.append((event, args))

    def __enter__(self) -> list[tuple[str, Any]]:
        self.events = []
        return self.events

    def __exit__(self, *_: object) -> None:
        self.events = None


AUDIT = Audit()
"""An audit hook cannot be taken off again: one for the whole process."""
