"""The same assistant as a LangGraph graph: each pause is an ``interrupt``, each message resumes it once."""

from typing import Any, Final, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, StateSnapshot, interrupt

from sessions import AskUser, Close, NotAnAnswer, ShowPreview, Turn

DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


class Lesson(TypedDict, total=False):
    """The graph's own state; the session holds none of it."""

    day: str
    time: str
    message_id: str  # of the message that resumed the graph last


class LessonGraph:
    """Asks for a day and a time, then shows a preview, as often as its user wants it changed."""

    def __init__(self) -> None:
        self.executions: list[str] = []
        builder = StateGraph(Lesson)
        builder.add_node("ask_day", self.ask_day)
        builder.add_node("ask_time", self.ask_time)
        builder.add_node("propose", self.propose)
        builder.add_edge(START, "ask_day")
        builder.add_conditional_edges("ask_day", lambda state: "ask_time" if state["day"] in DAYS else "ask_day")
        builder.add_edge("ask_time", "propose")
        builder.add_edge("propose", "propose")
        # In production a checkpointer that outlives its process, beside the sessions.
        self.graph = builder.compile(checkpointer=InMemorySaver())

    async def ask_day(self, state: Lesson) -> Lesson:
        """One interrupt in each node, so that what a message says is kept as soon as it is read."""
        question = "Which day from Monday to Friday?" if "day" in state else "Which day suits you?"
        reply: dict[str, str] = interrupt({"ask": question})
        self.executions.append("ask_day")
        return {"day": reply["text"].capitalize(), "message_id": reply["message_id"]}

    async def ask_time(self, state: Lesson) -> Lesson:
        """Any time will do."""
        reply: dict[str, str] = interrupt({"ask": f"{state['day']}, at what time?"})
        self.executions.append("ask_time")
        return {"time": reply["text"], "message_id": reply["message_id"]}

    async def propose(self, state: Lesson) -> Lesson:
        """Show it, and wait for a change; the confirmation does not come through here."""
        preview = {"preview": f"preview-{state['message_id']}", "shown": f"{state['day']} at {state['time']}"}
        reply: dict[str, str] = interrupt(preview)
        self.executions.append("propose")
        return {"time": reply["text"], "message_id": reply["message_id"]}

    async def first(self, trigger_id: str) -> AskUser | ShowPreview | Close:
        """What the graph comes to when its trigger fires; again the same while nobody has answered."""
        thread = _thread(trigger_id)
        begun = (await self.graph.aget_state(thread)).created_at is not None
        return _result(await self.graph.ainvoke(None if begun else {}, thread))

    async def rerun(self, turn: Turn) -> AskUser | ShowPreview | Close | NotAnAnswer:
        """Go on with one message."""
        if turn.text.endswith("?"):
            return NotAnAnswer()
        state = await self._as_recorded(turn)
        # A copy: the checkpoint itself may keep the reply that a stopped worker resumed it with.
        config = await self.graph.aupdate_state(state.config, None, as_node="__copy__")
        # A worker that died may have resumed the graph with this very message: then it only goes on from there.
        is_known = state.values.get("message_id") == turn.message_id
        resume: Command[Any] | None = (
            None if is_known else Command(resume={"text": turn.text, "message_id": turn.message_id})
        )
        return _result(await self.graph.ainvoke(resume, config))

    async def _as_recorded(self, turn: Turn) -> StateSnapshot:
        """Where the session stands: what a stopped worker made of a message that nobody recorded is left aside."""
        known = {None, turn.message_id, *turn.session.answered_reply_ids}
        newest_first = self.graph.aget_state_history(_thread(turn.session.trigger_id))
        return await anext(state async for state in newest_first if state.values.get("message_id") in known)


def _thread(trigger_id: str) -> Any:
    return {"configurable": {"thread_id": trigger_id}}


def _result(state: dict[str, Any]) -> AskUser | ShowPreview | Close:
    pause = state["__interrupt__"][0].value if "__interrupt__" in state else None
    match pause:
        case {"ask": question}:
            return AskUser(question)
        case {"preview": preview_id, "shown": shown}:
            return ShowPreview(preview_id, payload=shown)
        case _:
            return Close("the graph has come to its end")
