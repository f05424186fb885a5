"""Who governs a conversation: the promise that a chat entry point relies on."""

from datetime import timedelta

import pytest

from sessions import RouteAction, SessionRepository, SessionStatus
from sessions.testing import CommandCounter, MovedClock, SessionMaker

SECOND = timedelta(seconds=1)


async def test_nobody_governs_an_unknown_conversation(repository: SessionRepository) -> None:
    """A conversation that never had a session is free chat."""
    route = await repository.route(1, "nobody")
    assert route.action is RouteAction.FREE_CHAT
    assert route.session is None


@pytest.mark.parametrize("status", list(SessionStatus))
async def test_each_status_routes_as_the_table_says(
    repository: SessionRepository, make_session: SessionMaker, status: SessionStatus
) -> None:
    """Only the intercepting statuses govern; a live rerun holds, a question resumes."""
    session = await make_session(status, conversation_id="c")
    route = await repository.route(1, "c")
    expected = {SessionStatus.WAITING_USER_REPLY: RouteAction.RESUME, SessionStatus.RERUNNING: RouteAction.HOLD}
    assert route.action is expected.get(status, RouteAction.FREE_CHAT)
    assert route.session == (session if status.intercepts else None)


async def test_another_user_is_not_governed(repository: SessionRepository, make_session: SessionMaker) -> None:
    """The same conversation id of another user is another conversation."""
    await make_session(conversation_id="c", user_id=1)
    assert (await repository.route(2, "c")).action is RouteAction.FREE_CHAT


async def test_a_lapsed_reply_is_resumed_at_the_moment_it_lapses(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """From its expiry on, and not a millisecond before, a dead worker's lease keeps nobody out."""
    claim = await make_session.claim(conversation_id="c")
    session_clock.at = claim.expires_at - timedelta(milliseconds=1)
    assert (await repository.route(1, "c")).action is RouteAction.HOLD
    session_clock.at = claim.expires_at
    assert (await repository.route(1, "c")).action is RouteAction.RESUME


async def test_a_lapsed_refinement_frees_the_chat(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A lapsed refinement counts as its preview."""
    claim = await make_session.refinement(conversation_id="c")
    assert (await repository.route(1, "c")).action is RouteAction.HOLD
    session_clock.at = claim.expires_at
    assert (await repository.route(1, "c")).action is RouteAction.FREE_CHAT


async def test_an_expired_session_governs_nothing(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """From ``expires_at`` on the session counts as swept, though nobody swept it."""
    ends = session_clock() + SECOND
    await make_session(conversation_id="c", expires_at=ends)
    session_clock.at = ends - timedelta(milliseconds=1)
    assert (await repository.route(1, "c")).action is RouteAction.RESUME
    session_clock.at = ends
    assert (await repository.route(1, "c")).action is RouteAction.FREE_CHAT


async def test_expiry_waits_for_a_live_lease(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """``expires_at`` ends waiting, not work; with the lease lapsed too the session counts as expired."""
    claim = await make_session.claim(conversation_id="c", expires_at=session_clock() + SECOND)
    session_clock.advance(seconds=2)
    assert (await repository.route(1, "c")).action is RouteAction.HOLD
    assert await repository.expire_due() == 0
    session_clock.at = claim.expires_at
    assert (await repository.route(1, "c")).action is RouteAction.FREE_CHAT
    assert await repository.expire_due() == 1


async def test_route_many_agrees_with_route(repository: SessionRepository, make_session: SessionMaker) -> None:
    """Each conversation gets the route that it would get alone; doubles count once; none is asked for none."""
    await make_session(conversation_id="asked")
    await make_session.claim(conversation_id="running")
    await make_session(SessionStatus.READY_PREVIEW, conversation_id="ready")
    names = ["running", "asked", "ready", "unknown", "asked"]
    routes = await repository.route_many(1, names)
    assert list(routes) == ["running", "asked", "ready", "unknown"]
    assert routes == {name: await repository.route(1, name) for name in names}
    assert await repository.route_many(1, []) == {}


@pytest.mark.needs("server")
async def test_a_route_is_one_find_on_the_governor_index(
    repository: SessionRepository, make_session: SessionMaker, command_counter: CommandCounter
) -> None:
    """The lookup on every chat message costs one round trip, and so does that for many."""
    await make_session(conversation_id="c")
    with command_counter.counting() as counts:
        await repository.route(1, "c")
    assert counts == {"find": 1}
    assert command_counter.commands[0]["hint"] == "uniq_active_schedule_sessions_governor"
    with command_counter.counting() as counts:
        await repository.route_many(1, [f"c{number}" for number in range(300)] + ["c"])
    assert counts == {"find": 1}
