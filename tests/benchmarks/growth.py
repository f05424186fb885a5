"""Whether lookups stay as fast: among more and more sessions, and in a conversation where many have ended."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from itertools import count, islice
from typing import Any, Final
from uuid import uuid4

from indexes import apply as apply_indexes
from sessions import SessionRepository, open_repository
from tests.benchmarks.bare import Document, check_equal, plain_handle
from tests.benchmarks.measuring import Advance, Call, Comparison, Effort, Row, always, compared, interleaved
from tests.benchmarks.stacks import Stack, drop
from tests.benchmarks.stories import QUESTION, STEPS, USER, Story

LIVE_EACH: Final = 100
"""One in so many sessions is live."""
_BATCH: Final = 10_000
_OF_A_USER: Final = 20
_PATIENCE: Final = 60.0
_PREFIX: Final = "sessions_benchmark_growth_"


async def templates(stack: Stack) -> tuple[Document, Document]:
    """A session as this library leaves it when it has asked its question, and when it has ended."""
    story = Story()
    await STEPS["create"](stack.repository, story)
    asked = await stack.bare.find_one({"_id": story.session_id})
    for name in ("claim", "outcome", "apply"):
        await STEPS[name](stack.repository, story)
    return asked, await stack.bare.find_one({"_id": story.session_id})


def copies(template: Document) -> Iterator[Document]:
    """The same session again and again, each with ids of its own."""
    for number in count():
        made = {**template, "_id": uuid4().hex, "trigger_id": f"trigger-{number}"}
        if template["current_preview_id"] is not None:
            made["current_preview_id"] = f"preview-{number}"
        if template["answered_reply_ids"]:
            made["answered_reply_ids"] = [f"reply-{number}"]
        yield made


def spread(asked: Document, ended: Document) -> Iterator[Document]:
    """Sessions of many users; each hundredth is live and governs a conversation of its own."""
    for number, (live, gone) in enumerate(zip(copies(asked), copies(ended), strict=True)):
        made = live if number % LIVE_EACH == 0 else gone
        user_id, conversation_id = place(number)
        yield {**made, "user_id": user_id, "conversation_id": conversation_id}


def place(number: int) -> tuple[int, str]:
    """Whose session this is, and in which conversation."""
    return number // _OF_A_USER + 1, f"conversation-{number}"


async def store(database: Any, documents: Iterator[Document], number: int, advance: Advance) -> None:
    """Store so many, without building an index."""
    collection = plain_handle(database)
    for start in range(0, number, _BATCH):
        await collection.insert_many(list(islice(documents, min(_BATCH, number - start))), ordered=False)
        advance()


async def growth(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """All of it, each size in a database of its own."""
    asked, ended = await templates(stack)
    sizes = {size: f"{_PREFIX}{size}" for size in effort.sizes}
    await drop(stack.driver, stack.uri, *sizes.values())
    async with AsyncExitStack() as exits:
        repositories = {}
        for size, name in sizes.items():
            database = stack.database.client[name]
            await store(database, spread(asked, ended), size, advance)
            await apply_indexes(database)
            repositories[size] = await exits.enter_async_context(open_repository(database))
        for among in await _routes(repositories, effort, advance):
            yield among
    await drop(stack.driver, stack.uri, *sizes.values())
    async for row in _in_one_conversation(stack, ended, effort, advance):
        yield row


async def _routes(repositories: dict[int, SessionRepository], effort: Effort, advance: Advance) -> list[Comparison]:
    chosen = random.Random(1)

    def some_conversation(size: int, repository: SessionRepository, _: int) -> Call:
        number = chosen.randrange(size // LIVE_EACH) * LIVE_EACH
        return partial(repository.route, *place(number))

    for size, repository in repositories.items():
        found = (await repository.route(*place(size - LIVE_EACH))).session
        check_equal(f"route among {size:,}", QUESTION, found and found.state.pending_question)
    sides = [partial(some_conversation, size, repository) for size, repository in repositories.items()]
    took = await interleaved(sides, effort.reads, warm_up=effort.warm_up, advance=advance)
    least, *more = repositories
    return [
        compared(f"route, {size:,} sessions", times, took[0], against=f"{least:,}", aim=1.05)
        for size, times in zip(more, took[1:], strict=True)
    ]


async def _in_one_conversation(stack: Stack, ended: Document, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """The lookups of a message in free chat, where many sessions have ended and where none has."""
    busy, quiet = "busy", "quiet"
    in_one = ({**made, "user_id": USER, "conversation_id": busy} for made in copies(ended))
    await store(stack.database, in_one, effort.ended, advance)
    # Many reads of very many documents on a busy machine: a slow one is measured, not given up.
    async with open_repository(stack.database, timeout=_PATIENCE) as repository:
        found = await repository.find_by_reply("reply-0", user_id=USER, conversation_id=busy)
        check_equal("find_by_reply", "trigger-0", found and found.trigger_id)
        lookups: Mapping[str, tuple[Callable[[str], Awaitable[object]], int, float]] = {
            "find_by_reply": (
                lambda place: repository.find_by_reply("reply", user_id=USER, conversation_id=place),
                effort.batches,
                1.1,
            ),
            "route": (lambda place: repository.route(USER, place), effort.reads, 1.05),
        }
        for name, (call, times, aim) in lookups.items():
            sides = always([partial(call, busy), partial(call, quiet)])
            took = await interleaved(sides, times, warm_up=effort.warm_up, advance=advance)
            yield compared(f"{name}, {effort.ended:,} ended", *took, against="none", aim=aim)
