"""Each call that reads, with what it is asked for, and each sweep with the commands that it sends."""

from collections.abc import Awaitable, Callable
from typing import Final

from sessions import SessionRepository
from sessions.testing import MovedClock

LOOKUPS: Final[dict[str, Callable[[SessionRepository, str], Awaitable[object]]]] = {
    "route": lambda repository, _: repository.route(1, "c"),
    "route_many": lambda repository, _: repository.route_many(1, ["c", "d"]),
    "get": lambda repository, session_id: repository.get(session_id, user_id=1),
    "history": lambda repository, session_id: repository.history(session_id, user_id=1),
    "latest": lambda repository, _: repository.latest(1, "c"),
    "find_by_trigger": lambda repository, _: repository.find_by_trigger("t", user_id=1),
    "find_by_preview": lambda repository, _: repository.find_by_preview("p", user_id=1),
    "find_by_reply": lambda repository, _: repository.find_by_reply("r", user_id=1, conversation_id="c"),
    "list_sessions": lambda repository, _: repository.list_sessions(1),
    "interrupted_applies": lambda repository, _: repository.interrupted_applies(),
    "count_by_status": lambda repository, _: repository.count_by_status(),
}
SWEEPS: Final[dict[str, tuple[int, Callable[[SessionRepository, MovedClock], Awaitable[int]]]]] = {
    "expire_due": (2, lambda repository, _: repository.expire_due()),
    "recover_stalled": (5, lambda repository, _: repository.recover_stalled()),
    "purge": (2, lambda repository, clock: repository.purge(ended_before=clock())),
}
