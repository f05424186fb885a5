"""Whoever works under a lease is woken when it goes, by one follower of the shared feed for all of them."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from sessions import ActiveScheduleSessionSnapshot, StoreUnavailable, WatchInterrupted
from sessions.changes.events import Event
from sessions.changes.feed import Follower
from sessions.changes.lease_news import LeaseNews
from sessions.domain.errors import SessionRef, WriteOutcome

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
HELD: Final[dict[str, Any]] = {"kind": "reply", "operation_id": "mine", "reply_id": "m", "expires_at": AT}
REFUSED: Final = StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause="no right", may_pass=False)


def session(session_id: str = "s") -> ActiveScheduleSessionSnapshot:
    """A session under the lease ``mine``, with the token 3."""
    return ActiveScheduleSessionSnapshot.model_validate(
        {
            "session_id": session_id,
            "user_id": 1,
            "trigger_id": "t",
            "status": "rerunning",
            "lease": HELD,
            "fencing_token": 3,
            "revision": 5,
            "created_at": AT,
            "updated_at": AT,
        }
    )


def event(document: dict[str, Any] | None, *, session_id: str | None = "s") -> Event:
    """A change of the session."""
    return Event("update", "token", AT, session_id, 6, document)


class Shared:
    """A feed that counts who follows it, and fails as it is told to."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.followers: list[Follower] = []
        self.follows = 0

    def __call__(self) -> Any:
        """The feed that all share."""
        return self

    async def follow(self, follower: Follower) -> None:
        """Join."""
        self.follows += 1
        if self.failures:
            raise self.failures.pop(0)
        self.followers.append(follower)
        follower.joined("token")
        follower.opened()

    def discard(self, follower: Follower) -> None:
        """Leave."""
        if follower in self.followers:
            self.followers.remove(follower)


def news_of(shared: Callable[[], Any]) -> LeaseNews:
    """The news of a feed, by a clock that stands."""
    return LeaseNews(shared, lambda: AT - timedelta(seconds=7))


@pytest.mark.parametrize(
    ("document", "wakes"),
    [
        ({"fencing_token": 3, "lease": HELD}, False),  # a renewal
        ({"fencing_token": 3}, True),  # ended
        ({"fencing_token": 3, "lease": None}, True),
        ({"fencing_token": 4, "lease": {**HELD, "operation_id": "another"}}, True),  # replaced, or taken over
        ({"fencing_token": 4}, True),  # stopped
        ({"fencing_token": 2}, False),  # from before the claim
        ({}, False),
        (None, True),  # gone
    ],
)
async def test_what_wakes(document: dict[str, Any] | None, *, wakes: bool) -> None:
    """Only what may have taken the lease away."""
    shared = Shared()
    news = news_of(shared)
    with news.of(session()) as mine, news.of(session("other")) as other:
        await asyncio.sleep(0.01)
        assert news.is_told
        assert mine.woken.is_set()  # once, since something may have happened before
        mine.woken.clear()
        other.woken.clear()
        shared.followers[0].happened([event(document)])
        assert mine.woken.is_set() is wakes
        assert not other.woken.is_set()
        shared.followers[0].happened([event(None, session_id=None)])
        assert other.woken.is_set()


async def test_one_follower_for_all() -> None:
    """It comes with the first who listens and goes with the last; whoever comes to an open stream looks at once."""
    shared = Shared()
    news = news_of(shared)
    assert news.lapses_in(session()) == 7
    with news.of(session()):
        await asyncio.sleep(0.01)
        with news.of(session()) as second:
            assert second.woken.is_set()
            assert len(shared.followers) == 1
    await asyncio.sleep(0.01)
    assert not shared.followers
    assert not news.is_told
    with news.of(session()):
        await asyncio.sleep(0.01)
        shared.followers[0].lost()
        assert not news.is_told
    await asyncio.sleep(0.01)
    assert shared.follows == 2


async def test_without_change_streams() -> None:
    """On a standalone nobody is woken, and it is not tried again."""
    shared = Shared(WatchInterrupted("none", needs_replica_set=True))
    news = news_of(shared)
    for _ in range(2):
        with news.of(session()) as mine:
            await asyncio.sleep(0.01)
            assert not mine.woken.is_set()
    assert shared.follows == 1


async def test_a_feed_that_cannot_be_followed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again after a while, however short the runs are, and said once."""
    monkeypatch.setattr("sessions.changes.lease_news._FIRST_PAUSE", 0.02)
    shared = Shared(REFUSED, REFUSED)
    news = news_of(shared)
    with caplog.at_level(logging.WARNING, "sessions"):
        for _ in range(40):
            with news.of(session()):
                await asyncio.sleep(0.005)
            if news.is_told:
                break
            await asyncio.sleep(0)
        with news.of(session()) as mine:
            async with asyncio.timeout(5):
                await mine.woken.wait()
    assert shared.follows >= 3
    assert len(caplog.records) == 1


async def test_a_feed_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is followed, and everybody looks, since something may have been missed between."""
    monkeypatch.setattr("sessions.changes.lease_news._FIRST_PAUSE", 0.02)
    shared = Shared()
    news = news_of(shared)
    with news.of(session()) as mine:
        await asyncio.sleep(0.01)
        mine.woken.clear()
        shared.followers[0].ended(WatchInterrupted("the history is gone"))
        assert not news.is_told
        async with asyncio.timeout(5):
            await mine.woken.wait()
    assert shared.follows == 2


async def test_a_closed_repository() -> None:
    """Nothing can be followed any more; whoever still works is not disturbed."""

    def shared() -> Any:
        message = "closed"
        raise RuntimeError(message)

    with news_of(shared).of(session()) as mine:
        await asyncio.sleep(0.01)
        assert not mine.woken.is_set()
