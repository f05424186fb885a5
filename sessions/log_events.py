"""Everything that the library logs, to the logger ``sessions``: each event's name, level, words and fields, once.

A record carries the event's name as ``event`` and its fields as attributes, for structured logs. None of them is a
text of a user or of a graph, or a connection string.
"""

import logging
import re
from enum import Enum
from typing import Final

_logger: Final = logging.getLogger("sessions")
_FIELD: Final = re.compile(r"%\((\w+)\)s")


class LogEvent(Enum):
    """An event: its level, and its words with the fields that it carries."""

    WORK_FAILED = (logging.ERROR, "session %(session_id)s: %(reason)s\n%(traces)s")
    WORK_PUT_OFF = (logging.WARNING, "session %(session_id)s: put off, since %(reason)s")
    ATTEMPTS_SPENT = (logging.ERROR, "session %(session_id)s: failed, since no attempt came to an outcome")
    ANSWER_REFUSED = (logging.ERROR, "session %(session_id)s: %(reason)s")
    ANSWER_CUT = (logging.WARNING, "%(argument)s of the graph has %(length)s characters: it is cut to %(longest)s")
    ANSWER_TEXTS_LEFT_OUT = (
        logging.WARNING,
        "%(argument)s of the graph has %(length)s texts: only %(longest)s are kept",
    )
    GRAPH_HAS_ENDED = (logging.WARNING, "session %(session_id)s: its graph has ended, and cannot change the preview")
    WORK_RUNS_ON = (
        logging.WARNING,
        "session %(session_id)s: its work ignores its cancellation and runs on; what it comes to is thrown away",
    )
    CLAIM_LEFT_TO_LAPSE = (
        logging.WARNING,
        "session %(session_id)s: its claim is left to lapse, its lease lapses at %(lapses_at)s: %(error)s",
    )
    UNDOING_FAILED = (logging.ERROR, "what a cancelled call had done could not be undone: %(reason)s\n%(traces)s")
    SESSION_DAMAGED = (logging.ERROR, "passed over: %(error)s")
    UPKEEP_ROUND_REFUSED = (logging.WARNING, "upkeep: a round failed and is tried again after a pause: %(error)s")
    UPKEEP_ROUND_FAILED = (logging.ERROR, "upkeep: %(reason)s\n%(traces)s")
    WRITE_BACK_NOT_FINISHED = (logging.WARNING, "upkeep: an interrupted write-back is not finished yet: %(error)s")
    WRITE_BACK_FINISHED = (
        logging.INFO,
        "upkeep: session %(session_id)s: an interrupted write-back is finished: %(outcome)s",
    )
    INDEX_NOT_SERVING = (
        logging.WARNING,
        "index %(index)s of %(collection)s is hidden or absent: lookups go without it; run python -m indexes apply",
    )
    CLOCK_NOT_READ = (
        logging.WARNING,
        "the server's clock could not be read (%(error)s): the last measurement serves on",
    )
    STREAM_LOST = (logging.WARNING, "the change stream is lost and will be opened again: %(error)s")
    STREAM_ENDED = (logging.WARNING, "the change stream has ended, whoever follows anew begins another one: %(error)s")
    STREAM_FAILED = (logging.ERROR, "following changes failed: %(reason)s\n%(traces)s")
    CATCHING_UP_FAILED = (logging.ERROR, "catching up with changes failed: %(reason)s\n%(traces)s")
    FOLLOWER_FAILED = (logging.ERROR, "a follower of changes failed and is told no more: %(reason)s\n%(traces)s")
    LEASES_NOT_FOLLOWED = (
        logging.WARNING,
        "graphs at work learn of a lost lease by their next renewal only: %(error)s",
    )
    CACHE_STAYS_EMPTY = (logging.WARNING, "the cache of routes stays empty: %(error)s")
    REQUEST_FAILED = (logging.ERROR, "%(method)s %(path)s: %(error)s")
    EVENT_STREAM_ENDED = (logging.WARNING, "an event stream ends: %(error)s")

    @property
    def event_name(self) -> str:
        """As a record carries it; it does not change from release to release."""
        return f"sessions.{self.name.lower()}"

    @property
    def level(self) -> int:
        """Of the module `logging`."""
        level: int = self.value[0]
        return level

    @property
    def words(self) -> str:
        """What a person reads, with the fields in their places."""
        words: str = self.value[1]
        return words

    @property
    def fields(self) -> tuple[str, ...]:
        """What a record carries beside its name."""
        return tuple(_FIELD.findall(self.words))


def log(event: LogEvent, **fields: object) -> None:
    """Log one event.

    Args:
        event: Which.
        fields: Those that it declares; an error is told by its text, so it has to be one of this library's.
    """
    if _logger.isEnabledFor(event.level):
        told = {name: value if isinstance(value, int) else str(value) for name, value in fields.items()}
        _logger.log(event.level, event.words, told, extra={"event": event.event_name, **told}, stacklevel=2)
