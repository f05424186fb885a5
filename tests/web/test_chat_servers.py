"""The chat application's server processes, one of which dies."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from sessions.store.clients import connect, disconnect
from tests.support.chat_process import LEASE, USER, ChatProcess, Visitor


async def test_a_server_killed_in_mid_rerun(servers: tuple[ChatProcess, ChatProcess], visitor: Visitor) -> None:
    """SIGKILL while the graph runs: the next message to the other process is answered within lease and one second."""
    conversation = await visitor.trigger()
    lost = asyncio.create_task(visitor.say(conversation, "slowly Monday"))
    other = Visitor(servers[1], user=USER)
    while (await other.history(conversation))["status"] != "rerunning":  # noqa: ASYNC110 - another process's state
        await asyncio.sleep(0.02)
    await servers[0].kill()
    loop = asyncio.get_running_loop()
    killed_at = loop.time()
    question_id = (await other.history(conversation))["session"]["question_id"]
    try:
        while True:
            answer = await other.say(conversation, "Tuesday", message_id="next", question_id=question_id)
            if answer.status_code == 200:
                break
            assert (answer.status_code, answer.json()) == (202, {"outcome": "Held"})
            await asyncio.sleep(0.1)
        took = loop.time() - killed_at
        print(f"answered {took:.2f} s after the SIGKILL, lease {LEASE} s")  # noqa: T201 - a figure of the requirement
        assert answer.json() == {"outcome": "Asked"}
        assert took <= LEASE + 1
        assert (await other.history(conversation))["messages"][-1]["text"] == "Tuesday it is. At what time?"
        with pytest.raises(httpx.TransportError):
            await lost
    finally:
        await other.client.aclose()
        await servers[0].start()


@pytest_asyncio.fixture(loop_scope="session")
async def patient(mongod_uri: str) -> AsyncIterator[tuple[ChatProcess, ChatProcess]]:
    """Two processes with a lease so long that only a claim given back lets the other one go on."""
    name = f"chat_{uuid4().hex[:16]}"
    both = ChatProcess(mongod_uri, name, lease=300), ChatProcess(mongod_uri, name, lease=300)
    try:
        for server in both:
            await server.start()
        yield both
    finally:
        for server in both:
            await server.kill()
        client: Any = connect(mongod_uri)
        await client.drop_database(name)
        await disconnect(client)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_stopped_in_mid_rerun(patient: tuple[ChatProcess, ChatProcess], how: signal.Signals) -> None:
    """It ends within a few seconds, says so to whoever waits, and the other process answers at once."""
    here, there = (Visitor(server, user=USER) for server in patient)
    conversation = await here.trigger()
    cut_off = asyncio.create_task(here.say(conversation, "slowly Monday"))
    while (await there.history(conversation))["status"] != "rerunning":  # noqa: ASYNC110 - another process's state
        await asyncio.sleep(0.02)
    stopped_at = time.monotonic()
    assert await patient[0].stop(how) == 0
    assert time.monotonic() - stopped_at < 10
    assert (await cut_off).status_code == 503
    assert "Traceback" not in patient[0].errors
    told = await there.history(conversation)
    assert told["status"] == "waiting_user_reply"
    answer = await there.say(conversation, "Tuesday", question_id=told["session"]["question_id"])
    assert (answer.status_code, answer.json()) == (200, {"outcome": "Asked"})
    for visitor in (here, there):
        await visitor.client.aclose()


@pytest.mark.parametrize("text", ["secret \\u0000", "secret \\ud800", "   ", "x" * 4001])
async def test_a_text_that_cannot_be_kept(visitor: Visitor, text: str) -> None:
    """It is refused, is not in the history, and does not come back in the answer."""
    conversation = await visitor.trigger()
    before = (await visitor.history(conversation))["messages"]
    answer = await visitor.client.post(
        f"/api/conversations/{conversation}/messages",
        content=f'{{"message_id": "m", "text": "{text}"}}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    assert answer.json()["refused"][0]["where"] == ["body", "text"]
    assert "secret" not in answer.text
    assert (await visitor.history(conversation))["messages"] == before


async def test_a_refused_message_is_taken_back(visitor: Visitor) -> None:
    """Whatever the refusal: what was not sent is not shown as said; blanks around a text are not kept."""
    conversation = await visitor.trigger()
    before = (await visitor.history(conversation))["messages"]
    assert (await visitor.say(conversation, "Monday", question_id="x" * 500)).status_code == 422
    assert (await visitor.history(conversation))["messages"] == before
    assert (await visitor.say(conversation, "  Monday ")).json() == {"outcome": "Asked"}
    assert (await visitor.history(conversation))["messages"][1]["text"] == "Monday"
