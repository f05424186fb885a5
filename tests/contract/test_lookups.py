"""Creation, binding, lookups and upkeep: what is stored is found, in order, by its owner."""

from datetime import UTC, datetime, timedelta

import pytest

from sessions import (
    ActiveScheduleSessionSnapshot,
    ConflictReason,
    ConversationBusy,
    InvalidSessionInput,
    SessionExists,
    SessionNotFound,
    SessionRepository,
    SessionStatus,
    TransitionConflict,
)
from sessions.domain.models import derive_session_id
from sessions.testing import MovedClock, SessionMaker


async def test_creation_stores_what_it_was_given(repository: SessionRepository, session_clock: MovedClock) -> None:
    """Each argument reads back, trimmed, and the end is cut to the millisecond."""
    ends = session_clock() + timedelta(seconds=1, microseconds=1999)
    made = await repository.create(
        7,
        "t",
        conversation_id="c",
        pending_question="  Which lesson? ",
        missing_info=[" room ", "", "room", "time"],
        candidate_id="ca",
        notification_id="n",
        expires_at=ends,
        reason="moved",
    )
    assert made.session_id == derive_session_id(7, "t")
    assert (made.status, made.revision, made.question_number) == (SessionStatus.WAITING_USER_REPLY, 1, 1)
    assert (made.state.pending_question, made.state.missing_info) == ("Which lesson?", ("room", "time"))
    assert (made.state.last_candidate_id, made.state.last_notification_id) == ("ca", "n")
    assert made.state.expires_at == session_clock() + timedelta(seconds=1, milliseconds=1)
    assert made == await repository.get(made.session_id, user_id=7)
    assert (await repository.history(made.session_id, user_id=7))[0].reason == "moved"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"missing_info": ("room",)}, SessionStatus.WAITING_USER_REPLY),
        ({"preview_id": "p"}, SessionStatus.READY_PREVIEW),
        ({"ignored": True}, SessionStatus.IGNORED),
    ],
)
async def test_each_way_to_start(repository: SessionRepository, given: dict[str, object], status: str) -> None:
    """A session starts waiting, ready or ignored, by what it is given; a trigger starts one only."""
    made = await repository.create(1, "t", **given)  # type: ignore[arg-type]  # the cases are valid arguments
    assert made.status == status
    with pytest.raises(SessionExists):
        await repository.create(1, "t", **given)  # type: ignore[arg-type]  # as above
    assert (await repository.create(2, "t", **given)).status == status  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    "given",
    [{}, {"pending_question": "?", "preview_id": "p"}, {"preview_id": "p", "ignored": True}, {"pending_question": " "}],
)
async def test_exactly_one_way_is_given(repository: SessionRepository, given: dict[str, object]) -> None:
    """None, or two at once, is refused and stores nothing."""
    with pytest.raises(InvalidSessionInput):
        await repository.create(1, "t", **given)  # type: ignore[arg-type]  # the combination is what is wrong
    assert await repository.find_by_trigger("t", user_id=1) is None


async def test_a_busy_conversation_stores_nothing(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A creation refused for its conversation can be repeated later."""
    governor = await make_session(conversation_id="c")
    for creation in (repository.create, repository.get_or_create):
        with pytest.raises(ConversationBusy) as refusal:
            await creation(1, "t", conversation_id="c", pending_question="?")
        assert refusal.value.governing_session_id == governor.session_id
    assert await repository.find_by_trigger("t", user_id=1) is None
    await repository.ignore(governor.session_id, user_id=1)
    _, created = await repository.get_or_create(1, "t", conversation_id="c", pending_question="?")
    assert created


async def test_an_existing_trigger_comes_before_a_busy_conversation(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """Where the trigger's own session governs, a second delivery finds that session."""
    made = await repository.create(1, "t", conversation_id="c", pending_question="?")
    assert await repository.get_or_create(1, "t", conversation_id="c", pending_question="?") == (made, False)


async def test_binding_happens_once(repository: SessionRepository, make_session: SessionMaker) -> None:
    """To the same conversation again nothing changes; to another one it is refused."""
    session = await make_session()
    bound = await repository.bind_conversation(session.session_id, "c", user_id=1, notification_id="n")
    assert (bound.conversation_id, bound.state.last_notification_id) == ("c", "n")
    assert bound.revision == session.revision + 1
    assert await repository.bind_conversation(session.session_id, "c", user_id=1) == bound
    with pytest.raises(TransitionConflict) as refusal:
        await repository.bind_conversation(session.session_id, "other", user_id=1)
    assert refusal.value.reason is ConflictReason.ALREADY_BOUND
    assert (await repository.route(1, "c")).session == bound


async def test_binding_respects_the_governor(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A second intercepting session is kept out; one that chat does not see is let in, a lapsed refinement too."""
    await make_session(conversation_id="c")
    asking = await make_session()
    with pytest.raises(ConversationBusy):
        await repository.bind_conversation(asking.session_id, "c", user_id=1)
    lapsed = await make_session.refinement()
    session_clock.at = lapsed.expires_at
    bound = await repository.bind_conversation(
        lapsed.session.session_id, "c", user_id=1, expected_revision=lapsed.session.revision
    )
    assert bound.status is SessionStatus.READY_PREVIEW


async def test_recording_a_notification_is_repeatable(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """The same one again changes nothing; another replaces it, in an ended session too."""
    session = await make_session(SessionStatus.APPLIED)
    noted = await repository.record_notification(session.session_id, "n", user_id=1)
    assert await repository.record_notification(session.session_id, "n", user_id=1) == noted
    assert noted.revision == session.revision + 1
    other = await repository.record_notification(session.session_id, "n2", user_id=1)
    assert other.state.last_notification_id == "n2"


async def test_lookups_find_by_trigger_and_preview(repository: SessionRepository, make_session: SessionMaker) -> None:
    """Each finds its owner's session, or None."""
    session = await make_session(SessionStatus.READY_PREVIEW)
    assert await repository.find_by_trigger(session.trigger_id, user_id=1) == session
    assert await repository.find_by_preview(session.current_preview_id or "", user_id=1) == session
    assert await repository.find_by_trigger("none", user_id=1) is None
    assert await repository.find_by_preview("none", user_id=1) is None
    with pytest.raises(SessionNotFound):
        await repository.get("none", user_id=1)


async def test_a_reply_is_found_by_its_conversation(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Which session recorded a message, ended or not, whatever the conversation has had since."""
    claim = await make_session.claim(conversation_id="c")
    assert await repository.find_by_reply(claim.reply_id, user_id=1, conversation_id="c") is None
    closed = await repository.close_rerun(claim)
    session_clock.advance(seconds=1)
    await make_session(conversation_id="c")
    assert await repository.find_by_reply(claim.reply_id, user_id=1, conversation_id="c") == closed
    assert await repository.find_by_reply(claim.reply_id, user_id=1, conversation_id="another") is None
    assert await repository.find_by_reply(claim.reply_id, user_id=2, conversation_id="c") is None


async def test_latest_is_what_changed_last(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Ended or not, the session of the conversation that was written last is found."""
    assert await repository.latest(1, "c") is None
    first = await make_session(SessionStatus.READY_PREVIEW, conversation_id="c")
    session_clock.advance(seconds=1)
    second = await make_session(SessionStatus.READY_PREVIEW, conversation_id="c")
    assert await repository.latest(1, "c") == second
    session_clock.advance(seconds=1)
    ended = await repository.ignore(first.session_id, user_id=1)
    assert await repository.latest(1, "c") == ended


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
async def test_pages_hold_every_session_once(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock, limit: int
) -> None:
    """Newest first, ties included, no session twice and none left out; the last page says so."""
    made = []
    for number in range(7):
        made.append(await make_session([SessionStatus.READY_PREVIEW, SessionStatus.IGNORED][number % 2]))
        session_clock.advance(seconds=number % 3 == 0)
    await make_session(user_id=2)
    seen: list[ActiveScheduleSessionSnapshot] = []
    after: str | None = None
    while True:
        page = await repository.list_sessions(1, limit=limit, after=after)
        assert len(page.sessions) <= limit
        seen += page.sessions
        if (after := page.after) is None:
            break
    expected = sorted(made, key=lambda session: (session.updated_at, session.session_id), reverse=True)
    assert seen == expected
    only = await repository.list_sessions(1, statuses=[SessionStatus.IGNORED])
    assert {session.status for session in only.sessions} == {SessionStatus.IGNORED}


async def test_an_answer_holds_as_many_as_were_asked_for(repository: SessionRepository) -> None:
    """One round trip finds them all: a server's first batch would end after 101 documents, and show no more to come."""
    ends = datetime.now(UTC) + timedelta(days=3650)
    conversations = [f"c{number}" for number in range(105)]
    for name in conversations:
        await repository.create(1, name, conversation_id=name, pending_question="Which lesson?", expires_at=ends)
    page = await repository.list_sessions(1, limit=104)
    assert (len(page.sessions), page.after is not None) == (104, True)
    routes = await repository.route_many(1, conversations)
    assert all(route.session is not None for route in routes.values())


async def test_sweeps_are_bounded(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A sweep takes so many and no more, each session once, with one entry in its history."""
    ends = session_clock() + timedelta(seconds=1)
    due = [await make_session(expires_at=ends) for _ in range(5)]
    session_clock.at = ends
    assert [await repository.expire_due(limit=2) for _ in range(4)] == [2, 2, 1, 0]
    for session in due:
        steps = [entry.to_status for entry in await repository.history(session.session_id, user_id=1)]
        assert steps == [SessionStatus.WAITING_USER_REPLY, SessionStatus.EXPIRED]
    counts = await repository.count_by_status()
    assert set(counts) == set(SessionStatus)
    assert counts[SessionStatus.EXPIRED] == 5


async def test_recovery_gives_back_what_lapsed(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A stalled reply waits again with its question and its attempt counted; a live one is left alone."""
    stalled = await make_session.claim(lease=timedelta(seconds=1))
    live = await make_session.claim()
    expired = await make_session.claim(lease=timedelta(seconds=1), expires_at=session_clock() + timedelta(seconds=1))
    session_clock.advance(seconds=1)
    assert await repository.recover_stalled() == 2
    back = await repository.get(stalled.session.session_id, user_id=1)
    assert (back.status, back.attempts, back.lease) == (SessionStatus.WAITING_USER_REPLY, 1, None)
    assert back.state == stalled.session.state
    assert await repository.get(live.session.session_id, user_id=1) == live.session
    assert (await repository.get(expired.session.session_id, user_id=1)).status is SessionStatus.EXPIRED


async def test_purging_takes_only_what_ended_before(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Live sessions stay however old, and a purged trigger can make its session again."""
    old = await make_session(SessionStatus.IGNORED)
    live = await make_session()
    session_clock.advance(days=1)
    border: datetime = session_clock()
    kept = await make_session(SessionStatus.APPLIED)
    assert await repository.purge(ended_before=border) == 1
    with pytest.raises(SessionNotFound):
        await repository.get(old.session_id, user_id=1)
    for session in (live, kept):
        assert await repository.get(session.session_id, user_id=1) == session
    _, created = await repository.get_or_create(1, old.trigger_id, ignored=True)
    assert created


async def test_updated_at_never_goes_backwards(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A clock that was set back leaves ``updated_at`` where it was."""
    session = await make_session()
    session_clock.advance(hours=-1)
    noted = await repository.record_notification(session.session_id, "n", user_id=1)
    assert noted.updated_at == session.updated_at
