"""A stream over a cursor that the test plays: what a read brings, how far the token is, when it asks again."""

from collections import deque
from typing import Any, Final

import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from sessions import StoreUnavailable, WatchInterrupted
from sessions.steady_clock import steady
from sessions.store import change_stream
from sessions.store.change_stream import ChangeStream

AT_ONCE: Final = 3
BETWEEN: Final = 0.5


def token_of(reads: int) -> str:
    """Where the stream stands after so many reads."""
    return f"{reads:02}"


class PlayedCursor:
    """What the test puts in comes out, one batch for each read."""

    def __init__(self) -> None:
        self.alive = True
        self.answers: list[list[dict[str, Any]] | Exception] = []
        self.asked: list[float] = []
        self.limit: int | None = None
        self._data: deque[dict[str, Any]] = deque()
        self._post_batch_resume_token: dict[str, Any] | None = {"_data": token_of(0)}

    def batch_size(self, size: int) -> "PlayedCursor":
        """Noted."""
        self.limit = size
        return self

    async def _refresh(self) -> int:
        self.asked.append(steady())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self._data.extend(answer)
        self._post_batch_resume_token = {"_data": token_of(len(self.asked))}
        return len(answer)


@pytest.fixture
def cursor(monkeypatch: pytest.MonkeyPatch) -> PlayedCursor:
    """With few changes in a batch, and a pause that can be seen."""
    monkeypatch.setattr(change_stream, "_MOST_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(change_stream, "_BETWEEN_READS", BETWEEN)
    return PlayedCursor()


async def test_a_read_brings_all_that_has_come_in(cursor: PlayedCursor) -> None:
    """One question for many changes; the token stands behind the last of them, and moves on without any."""
    stream = ChangeStream(cursor, namespace="d.c")
    assert stream.token == token_of(0)
    assert cursor.limit == AT_ONCE
    cursor.answers = [[{"n": 1}, {"n": 2}], []]
    assert await stream.next_batch() == [{"n": 1}, {"n": 2}]
    assert stream.token == token_of(1)
    assert await stream.next_batch() == []
    assert stream.token == token_of(2)


async def test_what_comes_in_quick_succession_is_read_together(cursor: PlayedCursor) -> None:
    """The first change after a silence is read at once, the next read gives others time; a full batch never waits."""
    stream = ChangeStream(cursor, namespace="d.c")
    cursor.answers = [[{"n": 1}], [{"n": number} for number in range(AT_ONCE)], []]
    began = steady()
    for _ in range(3):
        await stream.next_batch()
    first, second, third = cursor.asked
    assert first - began < BETWEEN <= second - first
    assert third - second < BETWEEN


async def test_a_cursor_that_the_server_has_closed_is_a_lost_stream(cursor: PlayedCursor) -> None:
    """What it had to tell is told first."""
    stream = ChangeStream(cursor, namespace="d.c")
    cursor.answers = [[{"n": 1}], []]
    cursor.alive = False
    assert await stream.next_batch() == [{"n": 1}]
    with pytest.raises(StoreUnavailable, match="closed"):
        await stream.next_batch()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (AutoReconnect("gone"), StoreUnavailable),
        (OperationFailure("killed", 43), StoreUnavailable),
        (OperationFailure("no right", 13), StoreUnavailable),
        (OperationFailure("too old", 286), WatchInterrupted),
    ],
)
async def test_an_error_says_whether_another_stream_can_go_on(
    cursor: PlayedCursor, error: Exception, raised: type[Exception]
) -> None:
    """And leaves the token where it was."""
    stream = ChangeStream(cursor, namespace="d.c")
    cursor.answers = [error]
    with pytest.raises(raised):
        await stream.next_batch()
    assert stream.token == token_of(0)
