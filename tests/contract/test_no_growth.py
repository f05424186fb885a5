"""However many sessions have ended, no query of the repository looks at more: the server's ``explain`` says so."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest_asyncio

from indexes import explain
from sessions import SessionRepository, open_repository
from sessions.domain.lifecycle import ENDED
from sessions.store.document import COLLECTION

if TYPE_CHECKING:
    from sessions.store.clients import Database

FEW: Final = 1_000
MANY: Final = 100_000
"""Sessions that have ended, all of one user and in one conversation: the worst there is."""
READS_ALL: Final = {"count_by_status"}
SLACK: Final = 16
"""Keys at the edges of the ranges, one range for each status."""


@pytest_asyncio.fixture(loop_scope="session")
async def repository(shared: "Database") -> AsyncIterator[SessionRepository]:
    """A repository by the server's clock."""
    async with open_repository(shared) as opened:
        yield opened


def ended(pattern: dict[str, Any], numbers: range) -> Iterator[dict[str, Any]]:
    """Sessions that have ended, each with messages of its own."""
    statuses = sorted(ENDED)
    for number in numbers:
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
        yield pattern | {
            "_id": f"ended-{number:06}",
            "trigger_id": f"trigger-{number}",
            "current_preview_id": f"preview-{number}",
            "status": statuses[number % len(statuses)].value,
            "answered_reply_ids": [f"reply-{number}"],
            "replaced_reply_ids": [f"replaced-{number}"],
            "updated_at": at,
        }


async def test_no_query_grows(repository: SessionRepository, shared: Any) -> None:
    """From a thousand ended sessions to a hundred thousand; only the count of all looks at all."""
    governing = await repository.create(1, "t", conversation_id="c", pending_question="Which day?")
    await repository.claim_rerun(governing.session_id, user_id=1, reply_id="reply")
    pattern = await shared[COLLECTION].find_one({"_id": governing.session_id})
    del pattern["lease"]
    costs = []
    for numbers in (range(FEW), range(FEW, MANY)):
        documents = list(ended(pattern, numbers))
        for start in range(0, len(documents), 10_000):
            await shared[COLLECTION].insert_many(documents[start : start + 10_000], ordered=False)
        told = await explain(shared)
        assert told.is_fine, [query for query in told.queries if query.problems]
        costs.append({query.query: (query.keys, query.documents) for query in told.queries})
    few, many = costs
    grown = {
        name: (few[name], many[name])
        for name in few
        if any(now > before + SLACK for now, before in zip(many[name], few[name], strict=True))
    }
    assert set(grown) == READS_ALL, grown
    for reply_id in (f"reply-{MANY - 1}", f"replaced-{MANY - 1}"):
        assert (await repository.find_by_reply(reply_id, user_id=1, conversation_id="c")) is not None
