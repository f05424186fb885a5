"""The chat application's server processes, one of which dies."""

import asyncio

import httpx
import pytest
from chat_process import LEASE, USER, ChatProcess, Visitor


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
