"""Every step of a session, and the sweep, beside the bare driver that sends the same commands."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import uuid4

from tests.benchmarks.bare import (
    Document,
    Exchange,
    changed,
    check_equal,
    check_exchanges,
    ready,
    renamed,
    sent_by,
    without_moments,
)
from tests.benchmarks.measuring import Advance, Call, Comparison, Effort, Row, Side, compared, interleaved, warm_ups
from tests.benchmarks.stacks import BARE, Stack
from tests.benchmarks.stories import STEPS, Story, create, whole

_AIMS: Final = {"create": 1.1, "claim": 1.06, "outcome": 1.08, "apply": 1.08}
_FEW: Final = 3
_MILLISECOND: Final = timedelta(milliseconds=1)


class Script:
    """A whole session as this library has sent it, to be sent by the driver for other sessions."""

    def __init__(self, story: Story, exchanges: Mapping[str, list[Exchange]]) -> None:
        self._story = story
        self._exchanges = exchanges
        self._sent = datetime.now(UTC)

    def calls_for(self, story: Story, collection: Any) -> dict[str, Call]:
        """Each step for another story, as it would be sent now."""
        names = self._story.names_for(story)
        later = _MILLISECOND * ((datetime.now(UTC) - self._sent) // _MILLISECOND)
        return {
            step: ready(renamed(exchange.command, names, later=later), collection)
            for step, (exchange,) in self._exchanges.items()
        }


async def recorded_script(stack: Stack) -> Script:
    """Tell one story by this library and another by the driver, and compare what was sent, got and stored.

    Raises:
        Unequal: They differ.
    """
    ours, exchanges = Story(), {}
    stored: dict[str, Document] = {}
    for name, step in STEPS.items():
        exchanges[name] = await sent_by(stack.recorder, partial(step, stack.heard, ours))
        stored[name] = await stack.bare.find_one({"_id": ours.session_id})
    script, again = Script(ours, exchanges), Story()
    names = ours.names_for(again)
    for name, call in script.calls_for(again, stack.heard_bare).items():
        check_exchanges(name, exchanges[name], await sent_by(stack.recorder, call), names)
        by_driver = await stack.bare.find_one({"_id": again.session_id})
        by_us = renamed(stored[name], names)
        check_equal(f"{name}: the document", without_moments(by_us), without_moments(by_driver))
    return script


async def changes(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """All of them, each on a session of its own."""
    script = await recorded_script(stack)
    turns = effort.writes + warm_ups(effort.writes, effort.warm_up)
    ours, theirs = [Story() for _ in range(turns)], [script.calls_for(Story(), stack.bare) for _ in range(turns)]
    for name, step in STEPS.items():
        sides: list[Side] = [
            partial(_told, partial(step, stack.repository), ours),
            partial(_of_driver, name, theirs),
        ]
        took = await interleaved(sides, effort.writes, warm_up=effort.warm_up, advance=advance)
        yield compared(name, *took, against=BARE, aim=_AIMS[name])
    yield await _whole_session(stack, script, effort, advance)
    yield await _sweep(stack, effort, advance)


def _told(step: Any, stories: list[Story], number: int) -> Call:
    return partial(step, stories[number])


def _of_driver(step: str, calls: list[dict[str, Call]], number: int) -> Call:
    return calls[number][step]


async def _whole_session(stack: Stack, script: Script, effort: Effort, advance: Advance) -> Comparison:
    turns = effort.writes + warm_ups(effort.writes, effort.warm_up)
    ours, theirs = [Story() for _ in range(turns)], [script.calls_for(Story(), stack.bare) for _ in range(turns)]

    async def by_driver(number: int) -> None:
        for call in theirs[number].values():
            await call()

    sides: list[Side] = [
        partial(_told, partial(whole, stack.repository), ours),
        lambda number: partial(by_driver, number),
    ]
    took = await interleaved(sides, effort.writes, warm_up=effort.warm_up, advance=advance)
    return compared("whole session", *took, against=BARE, aim=1.1)


class DueSessions:
    """Stores sessions that nobody has answered in time."""

    def __init__(self, collection: Any, template: Document) -> None:
        self._collection = collection
        self._template = template

    async def store(self, number: int) -> None:
        """So many, in place of those that were ended."""
        await self._collection.delete_many({"status": "expired"})
        await self._collection.insert_many([self._due() for _ in range(number)], ordered=False)

    def _due(self) -> Document:
        own = {name: uuid4().hex for name in ("_id", "trigger_id", "conversation_id")}
        state = {**self._template["state"], "expires_at": datetime.now(UTC) - timedelta(minutes=1)}
        return {**self._template, **own, "state": state}

    async def one_that_ended(self) -> Document:
        """As it is stored, but for what is its own."""
        document = await self._collection.find_one({"status": "expired"})
        ids = {document[name] for name in ("_id", "trigger_id", "conversation_id")}
        kept: Document = changed(document, lambda item: "" if isinstance(item, str) and item in ids else item)
        return without_moments(kept)  # type: ignore[no-any-return] # a document again


async def _sweep(stack: Stack, effort: Effort, advance: Advance) -> Comparison:
    """A sweep, and one ``update_many`` by the guard that the sweep has sent: whoever is due is ended."""
    story = Story()
    await create(stack.repository, story)
    due = DueSessions(stack.bare, await stack.bare.find_one({"_id": story.session_id}))
    await due.store(_FEW)
    exchanges = await sent_by(stack.recorder, stack.heard.expire_due)
    by_us = await due.one_that_ended()
    (update,) = (each.command for each in exchanges if "update" in each.command)
    (sent,) = update["updates"]
    # Which sessions are due the sweep has asked before: the driver's user need not.
    guard = {field: condition for field, condition in sent["q"].items() if field != "_id"}
    by_driver = ready({**update, "updates": [{**sent, "q": guard}]}, stack.bare)
    await due.store(_FEW)
    await by_driver()
    check_equal("expire_due: the document", by_us, await due.one_that_ended())
    took = await interleaved(
        [lambda _: stack.repository.expire_due, lambda _: by_driver],
        max(2, effort.batches // 5),
        warm_up=effort.warm_up,
        advance=advance,
        prepare=partial(due.store, effort.due),
    )
    return compared(f"expire_due, {effort.due:,}", *took, against="update_many", aim=1.3)
