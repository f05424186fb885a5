"""What the type checker must infer for a user; checked, never run."""

from datetime import timedelta
from typing import assert_type

from sessions import (
    ActiveScheduleSessionSnapshot,
    AlreadyHandled,
    Applied,
    ApplyClaim,
    ApplyFailed,
    Asked,
    AskUser,
    CachedRouter,
    Change,
    Closed,
    Deferred,
    Dismissed,
    FreeChat,
    Held,
    Page,
    PreviewShown,
    RerunClaim,
    RerunFailed,
    Route,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    Stopped,
    Superseded,
    TimedOut,
    Transition,
    action_url,
)


async def answers(repository: SessionRepository, claim: RerunClaim, confirmed: ApplyClaim) -> None:
    """Every answer has a type of its own, never Any."""
    assert_type(await repository.route(1, "c"), Route)
    assert_type(await repository.route_many(1, ["c"]), dict[str, Route])
    assert_type(await repository.get("s", user_id=1), ActiveScheduleSessionSnapshot)
    assert_type(await repository.latest(1, "c"), ActiveScheduleSessionSnapshot | None)
    assert_type(await repository.list_sessions(1), Page)
    assert_type(await repository.history("s", user_id=1), list[Transition])
    assert_type(await repository.get_or_create(1, "t"), tuple[ActiveScheduleSessionSnapshot, bool])
    assert_type(await repository.claim_rerun("s", user_id=1, reply_id="m"), RerunClaim)
    assert_type(await repository.claim_rerun("s", user_id=1, reply_id="m", replaces=claim.session.lease), RerunClaim)
    assert_type(await repository.interrupt("s", user_id=1), ActiveScheduleSessionSnapshot)
    assert_type(await repository.renew(claim), RerunClaim)
    assert_type(await repository.release(claim), ActiveScheduleSessionSnapshot)
    assert_type(await repository.claim_apply("s", user_id=1, preview_id="p"), ApplyClaim)
    assert_type(await repository.renew(confirmed), ApplyClaim)
    assert_type(await repository.release(confirmed), ActiveScheduleSessionSnapshot)
    assert_type(await repository.postpone(confirmed, after=timedelta(seconds=5)), ActiveScheduleSessionSnapshot)
    assert_type(await repository.complete_apply(confirmed), ActiveScheduleSessionSnapshot)
    assert_type(await repository.interrupted_applies(), list[ActiveScheduleSessionSnapshot])
    assert_type(await repository.expire_due(), int)
    assert_type(await repository.count_by_status(), dict[SessionStatus, int])


async def outcomes(bridge: SessionBridge) -> None:
    """Each call tells which outcomes it has, and every outcome but one has its session."""
    start, handled = await bridge.start(1, "t", AskUser("?")), await bridge.handle(1, "c", "x", message_id="m")
    assert_type(start, Asked | PreviewShown | Closed | AlreadyHandled)
    assert_type(start.session, ActiveScheduleSessionSnapshot)
    assert_type(
        handled,
        FreeChat
        | Asked
        | PreviewShown
        | Closed
        | Held
        | AlreadyHandled
        | RerunFailed
        | TimedOut
        | Superseded
        | Deferred,
    )
    assert_type(handled.session, ActiveScheduleSessionSnapshot | None)
    confirmed = await bridge.confirm(1, "s", preview_id="p")
    assert_type(confirmed, Applied | ApplyFailed | Held | TimedOut | Superseded | Deferred)
    assert_type(await bridge.dismiss(1, "s"), Dismissed | Held)
    assert_type(await bridge.stop(1, "s"), Stopped | Held)
    match handled:
        case Asked(session, payload):
            assert_type(session, ActiveScheduleSessionSnapshot)
            assert_type(payload, object)
        case _:
            pass
    assert_type(action_url(start.session), str)


async def following(repository: SessionRepository) -> None:
    """A change, its token and a cached route have theirs too."""
    async with repository.watch(user_id=1) as changes:
        assert_type(changes.token, str | None)
        async for change in changes:
            assert_type(change, Change)
            assert_type(change.snapshot, ActiveScheduleSessionSnapshot)
            assert_type(change.token, str)
    async with CachedRouter(repository) as router:
        assert_type(await router.route(1, "c"), Route)
        assert_type(router.stats().hits, int)
