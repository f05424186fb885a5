"""What the driver sends, counted."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent


class CommandCounter(CommandListener):
    """Counts what the driver sends, by command name; `counting` limits it to a stretch of a test."""

    _UNRELATED: Final = frozenset(
        {"hello", "ismaster", "ping", "endSessions", "killCursors", "saslStart", "saslContinue"}
    )

    def __init__(self) -> None:
        self._counts: Counter[str] | None = None
        self.commands: list[Mapping[str, Any]] = []

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """The commands sent within the block."""
        counts: Counter[str] = Counter()
        self._counts, self.commands = counts, []
        try:
            yield counts
        finally:
            self._counts = None

    def started(self, event: CommandStartedEvent) -> None:
        """Count one."""
        if self._counts is not None and event.command_name not in self._UNRELATED:
            self._counts[event.command_name] += 1
            self.commands.append(event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Counted when it was sent."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Counted when it was sent."""
