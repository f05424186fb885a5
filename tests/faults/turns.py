"""A scheduler between library and double: each round trip waits for its turn, in whichever order is asked for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from sessions import SessionRepository
from sessions.store.requests import Request

ACTOR: Final[ContextVar[int | None]] = ContextVar("actor", default=None)
"""Whose round trip it is; None for whoever prepares or looks on, and waits for no turn."""

Call = Callable[[], Awaitable[Any]]


class Choice(NamedTuple):
    """One point at which it was open whose round trip comes next."""

    open_to: tuple[int, ...]
    chosen: int


class Turns:
    """Who waits for a turn."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def in_turn(self, actor: int, work: Callable[[], Awaitable[Any]]) -> Any:
        """Wait for the turn, then do the work."""
        self._waiting[actor] = asyncio.get_running_loop().create_future()
        await self._waiting[actor]
        return await work()

    async def play(self, calls: Sequence[Call], plan: Sequence[int]) -> tuple[list[Any], list[Choice]]:
        """Make the calls at once, their round trips in the order of a plan; beyond it the first who waits.

        Returns:
            What each call answered or raised, and who could have come next at each point.
        """
        self._waiting.clear()
        tasks = []
        for actor, call in enumerate(calls):
            token = ACTOR.set(actor)
            tasks.append(asyncio.ensure_future(call()))
            ACTOR.reset(token)
        choices: list[Choice] = []
        while True:
            while not all(task.done() or actor in self._waiting for actor, task in enumerate(tasks)):  # noqa: ASYNC110
                await asyncio.sleep(0)  # a call that has ended tells nobody else
            open_to = tuple(sorted(self._waiting))
            if not open_to:
                return await asyncio.gather(*tasks, return_exceptions=True), choices
            chosen = plan[len(choices)] if len(choices) < len(plan) else open_to[0]
            choices.append(Choice(open_to, chosen))
            self._waiting.pop(chosen).set_result(None)


class InTurn:
    """The requests of a repository on the double, each of which waits for its turn."""

    def __init__(self, requests: Any, turns: Turns) -> None:
        self._requests = requests
        self._turns = turns

    def __getattr__(self, name: str) -> Callable[..., Request[Any]]:
        make = getattr(self._requests, name)

        def made(*given: Any, **named: Any) -> Request[Any]:
            request: Request[Any] = make(*given, **named)

            def start(within: float) -> Awaitable[Any]:
                actor = ACTOR.get()
                if actor is None:
                    return request.start(within)
                return self._turns.in_turn(actor, lambda: request.start(within))

            return Request(start, request.read)

        return made


def scheduled(repository: SessionRepository) -> Turns:
    """Put a scheduler below a repository on the double."""
    turns, handles = Turns(), repository._collection._handles
    assert not handles.is_server, "on a server nothing can wait without its locks"
    setattr(handles, "_methods", InTurn(handles.requests(None), turns))  # noqa: B010 - only the double has them
    return turns


def next_plan(choices: Sequence[Choice]) -> list[int] | None:
    """The plan after the one that was carried out, in their order; None after the last."""
    for place in reversed(range(len(choices))):
        later = [actor for actor in choices[place].open_to if actor > choices[place].chosen]
        if later:
            return [*(choice.chosen for choice in choices[:place]), later[0]]
    return None
