"""What the type checker must infer for a user of `sessions.fastapi`; checked, never run."""

from typing import assert_type

from fastapi import APIRouter, FastAPI

from sessions import (
    CachedRouter,
    Dismissed,
    Held,
    NotAnAnswer,
    Route,
    SessionBridge,
    SessionError,
    SessionRepository,
    Turn,
    Upkeep,
    open_repository,
)
from sessions.fastapi import Bridge, Repository, Router, problem_of, session_events, sessions_lifespan
from sessions.store.clients import Database


async def graph(turn: Turn) -> NotAnAnswer:
    """No answer."""
    return NotAnAnswer(turn.text)


def current_user() -> int:
    """The user."""
    return 1


async def opened(app: FastAPI, database: Database) -> None:
    """Classes serve as what makes a router and an upkeep."""
    async with sessions_lifespan(
        app,
        open_repository(database),
        bridge=lambda sessions: SessionBridge(sessions, graph),
        router=CachedRouter,
        upkeep=Upkeep,
    ) as repository:
        assert_type(repository, SessionRepository)
    assert_type(session_events(current_user), APIRouter)


async def route(repository: Repository, router: Router, bridge: Bridge, error: SessionError) -> None:
    """The dependencies are what they give."""
    assert_type(repository, SessionRepository)
    assert_type(await router.route(1, "c"), Route)
    assert_type(await bridge.dismiss(1, "s"), Dismissed | Held)
    assert_type(problem_of(error), dict[str, str | int | bool])
