"""What workers write down of each call, in a form that outlives them, and the reading of it.

Two lines of JSON a call: one before it is made, one when it is answered, each flushed, so that a killed worker leaves
the first without the second. Nothing here knows the library.
"""

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TextIO

KILLED: Final = "killed"
"""The line of whoever kills workers: which one, and when."""


class Answer(StrEnum):
    """How a call ended, as far as its caller knows."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    NOT_WRITTEN = "not written"
    """It failed, and says that nothing happened."""
    UNKNOWN = "unknown"
    """It failed and may have happened, or its worker died with it."""


@dataclass(slots=True)
class Call:
    """One call; times are of the machine's monotonic clock, which all its processes share."""

    name: str
    worker: str
    begun: float
    told: Mapping[str, Any]
    """Its arguments, as far as they matter."""
    ended: float = float("inf")
    answer: Answer = Answer.UNKNOWN
    found: Mapping[str, Any] = field(default_factory=dict)
    """What it returned or raised, as far as that matters."""

    @property
    def is_acknowledged(self) -> bool:
        """Whether it returned."""
        return self.answer is Answer.ACKNOWLEDGED

    @property
    def session_id(self) -> str | None:
        """The session that it is about."""
        return self.found.get("session_id") or self.told.get("session_id")

    @property
    def operation_id(self) -> str | None:
        """The id under which the history has it, if that is known."""
        return self.found.get("operation_id") or self.told.get("operation_id")


@dataclass(slots=True)
class Log:
    """All that was written down."""

    calls: list[Call] = field(default_factory=list)
    killed: dict[str, float] = field(default_factory=dict)
    """When a worker's process was ended."""


class Journal:
    """Writes one worker's calls down."""

    def __init__(self, path: Path, worker: str) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._worker = worker
        self._numbers = itertools.count()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file.closed:
            return  # of a call that its caller had given up: its end is not known
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def begin(self, name: str, told: Mapping[str, Any]) -> int:
        """A call is about to be made; its number, for `end`."""
        number = next(self._numbers)
        self._write({"begin": number, "worker": self._worker, "name": name, "at": time.monotonic(), "told": told})
        return number

    def end(self, number: int, answer: Answer, found: Mapping[str, Any]) -> None:
        """It has been answered."""
        self._write({"end": number, "worker": self._worker, "at": time.monotonic(), "answer": answer, "found": found})

    def killed(self, worker: str) -> None:
        """A worker has been killed."""
        self._write({KILLED: worker, "at": time.monotonic()})

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    # What a kill has cut off was not written: the last line, or one before another writer's begin.
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        yield json.loads(line)


def read(paths: Iterable[Path]) -> Log:
    """The calls of all workers, in the order in which they were begun."""
    log = Log()
    for path in paths:
        open_calls: dict[tuple[str, int], Call] = {}
        for line in _lines(path):
            if KILLED in line:
                log.killed[line[KILLED]] = line["at"]
            elif "begin" in line:
                call = Call(line["name"], line["worker"], line["at"], line["told"])
                open_calls[call.worker, line["begin"]] = call
                log.calls.append(call)
            else:
                call = open_calls.pop((line["worker"], line["end"]))
                call.ended, call.answer, call.found = line["at"], Answer(line["answer"]), line["found"]
    log.calls.sort(key=lambda call: call.begun)
    return log
