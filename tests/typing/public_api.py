"""What the type checker must infer for a user; checked, never run."""

from typing import assert_type

from sessions import (
    ActiveScheduleSessionSnapshot,
    CachedRouter,
    Change,
    Page,
    RerunClaim,
    Route,
    SessionRepository,
    SessionStatus,
    Transition,
)


async def answers(repository: SessionRepository, claim: RerunClaim) -> None:
    """Every answer has a type of its own, never Any."""
    assert_type(await repository.route(1, "c"), Route)
    assert_type(await repository.route_many(1, ["c"]), dict[str, Route])
    assert_type(await repository.get("s", user_id=1), ActiveScheduleSessionSnapshot)
    assert_type(await repository.latest(1, "c"), ActiveScheduleSessionSnapshot | None)
    assert_type(await repository.list_sessions(1), Page)
    assert_type(await repository.history("s", user_id=1), list[Transition])
    assert_type(await repository.get_or_create(1, "t"), tuple[ActiveScheduleSessionSnapshot, bool])
    assert_type(await repository.claim_rerun("s", user_id=1, reply_id="m"), RerunClaim)
    assert_type(await repository.renew(claim), RerunClaim)
    assert_type(await repository.release(claim), ActiveScheduleSessionSnapshot)
    assert_type(await repository.expire_due(), int)
    assert_type(await repository.count_by_status(), dict[SessionStatus, int])


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
