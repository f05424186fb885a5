"""What people use instead: Beanie's and ODMantic's lookups, and LangGraph's own state on its MongoDB checkpointer."""

from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, TypedDict
from uuid import uuid4

import beanie
from beanie import init_beanie
from pydantic import BaseModel, Field
from pymongo import MongoClient

from sessions import ActiveScheduleSession
from sessions.store.clients import default_driver
from sessions.store.document import COLLECTION
from tests.benchmarks.bare import Document, check_equal, sent_by
from tests.benchmarks.lookups import CONVERSATIONS, READER, route_hit, store_governed
from tests.benchmarks.measuring import Advance, Call, Effort, Row, Skipped, always, compared, interleaved, warm_ups
from tests.benchmarks.stacks import Stack
from tests.benchmarks.stories import QUESTION, Story, whole

_CHECKPOINTS: Final = "sessions_benchmark_checkpoints"
_NOT_INSTALLED: Final = "it is not installed: pip install 'active-schedule-sessions[bench]'"


class PlainState(BaseModel):
    """What an application embeds in it."""

    pending_question: str = ""
    missing_info: list[str] = Field(default_factory=list)
    expires_at: datetime | None = None


class PlainTransition(BaseModel):
    """The same for its history."""

    to_status: str
    at: datetime
    reason: str = ""
    operation_id: str
    call: str


class PlainSession(beanie.Document):
    """A session as an application would declare it to Beanie; the library's own class reads more carefully."""

    id: str  # type: ignore[assignment] # Beanie declares an ObjectId
    user_id: int
    conversation_id: str | None = None
    trigger_id: str
    current_preview_id: str | None = None
    status: str
    state: PlainState
    question_number: int = 0
    fencing_token: int = 0
    attempts: int = 0
    answered_reply_ids: list[str] = Field(default_factory=list)
    revision: int
    history: list[PlainTransition] = Field(default_factory=list)
    created_at: datetime
    updated_at: datetime

    class Settings:
        """Where they are."""

        name = COLLECTION


async def rivals(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """All of them, or why not."""
    await store_governed(stack.repository)
    for find in (_beanie, _odmantic):
        found = await find(stack)
        if isinstance(found, Skipped):
            yield found
            continue
        for against, (call, aim) in found.items():
            took = await _beside_route(stack, call, effort, advance)
            yield compared("route, find_one", *took, against=against, aim=aim)
    if find_spec("langgraph") is None or find_spec("langgraph.checkpoint.mongodb") is None:
        yield Skipped("LangGraph", _NOT_INSTALLED)
        return
    async for row in _langgraph(stack, effort, advance):
        yield row


async def _beside_route(stack: Stack, call: Call, effort: Effort, advance: Advance) -> list[list[float]]:
    sides = always([partial(route_hit, stack.repository), call])
    return await interleaved(sides, effort.reads, warm_up=effort.warm_up, advance=advance)


async def _route_command(stack: Stack) -> Document:
    (sent,) = await sent_by(stack.recorder, partial(route_hit, stack.heard))
    return sent.command


async def _check_found(stack: Stack, what: str, session_id: str | None) -> None:
    session = (await stack.repository.route(READER, CONVERSATIONS[0])).session
    check_equal(what, session and session.session_id, session_id)


Rivals = dict[str, tuple[Call, float | None]]


async def _beanie(stack: Stack) -> Rivals | Skipped:
    """The class that this library ships, and a plain one that is given the hint too."""
    if stack.driver == "motor" and stack.driver != default_driver():
        return Skipped("Beanie's find_one", "Beanie 2 refuses a Motor client")
    sent = await _route_command(stack)
    await init_beanie(stack.database, document_models=[ActiveScheduleSession, PlainSession], skip_indexes=True)

    async def find_one() -> ActiveScheduleSession | None:
        return await ActiveScheduleSession.find_one(sent["filter"])

    async def find_one_plain() -> PlainSession | None:
        return await PlainSession.find_one(sent["filter"], hint=sent["hint"])

    for found in (await find_one(), await find_one_plain()):
        await _check_found(stack, "Beanie's find_one", found and found.id)
    return {"Beanie": (find_one, 0.75), "Beanie, plain": (find_one_plain, None)}


async def _odmantic(stack: Stack) -> Rivals | Skipped:
    """By the filter that `route` sends; it takes no hint."""
    if stack.driver != "motor":
        return Skipped("ODMantic's find_one", "ODMantic works on Motor only")
    if find_spec("odmantic") is None:
        return Skipped("ODMantic's find_one", _NOT_INSTALLED)
    from odmantic import AIOEngine  # noqa: PLC0415 - an extra

    from tests.benchmarks.odmantic_session import OdmanticSession  # noqa: PLC0415 - it imports that extra

    engine = AIOEngine(client=stack.database.client, database=stack.database.name)
    sent = await _route_command(stack)

    async def find_one() -> OdmanticSession | None:
        found: OdmanticSession | None = await engine.find_one(OdmanticSession, sent["filter"])
        return found

    found = await find_one()
    await _check_found(stack, "ODMantic's find_one", None if found is None else found.session_id)
    return {"ODMantic": (find_one, None)}


class _Lesson(TypedDict, total=False):
    day: str
    preview_id: str


def _graph(checkpointer: Any) -> Any:
    """The story of a session as a graph: it asks its user, and makes a preview of the answer."""
    from langgraph.graph import START, StateGraph  # noqa: PLC0415 - an extra
    from langgraph.types import interrupt  # noqa: PLC0415 - the same

    def ask(state: _Lesson) -> _Lesson:
        return {"day": interrupt(QUESTION)}

    def preview(state: _Lesson) -> _Lesson:
        return {"preview_id": uuid4().hex}

    graph = StateGraph(_Lesson).add_node("ask", ask).add_node("preview", preview)
    return graph.add_edge(START, "ask").add_edge("ask", "preview").compile(checkpointer=checkpointer)


async def _langgraph(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """Is a question open, and a whole session; the checkpointer works on threads, whatever the driver of ours."""
    from langgraph.checkpoint.mongodb import MongoDBSaver  # noqa: PLC0415 - an extra
    from langgraph.types import Command  # noqa: PLC0415 - the same

    client: MongoClient[dict[str, Any]] = MongoClient(stack.uri)
    try:
        client.drop_database(_CHECKPOINTS)
        graph = _graph(MongoDBSaver(client, db_name=_CHECKPOINTS))
        asked = {"configurable": {"thread_id": uuid4().hex}}
        await graph.ainvoke({}, asked)

        async def aget_state() -> Any:
            return await graph.aget_state(asked)

        async def interrupted_and_resumed() -> Any:
            thread = {"configurable": {"thread_id": uuid4().hex}}
            await graph.ainvoke({}, thread)
            return await graph.ainvoke(Command(resume="Monday"), thread)

        check_equal("LangGraph's question", QUESTION, (await aget_state()).interrupts[0].value)
        check_equal("LangGraph's answer", "Monday", (await interrupted_and_resumed())["day"])
        took = await _beside_route(stack, aget_state, effort, advance)
        yield compared("route, aget_state", *took, against="LangGraph", aim=0.5)
        stories = [Story() for _ in range(effort.writes + warm_ups(effort.writes, effort.warm_up))]
        took = await interleaved(
            [lambda number: partial(whole, stack.repository, stories[number]), lambda _: interrupted_and_resumed],
            effort.writes,
            warm_up=effort.warm_up,
            advance=advance,
        )
        yield compared("whole session, resume", *took, against="LangGraph", aim=0.55)
        client.drop_database(_CHECKPOINTS)
    finally:
        client.close()
