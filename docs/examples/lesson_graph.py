"""The same assistant as a LangGraph graph: each pause is an ``interrupt``, each message resumes it once."""

from typing import Any, Final, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from sessions import Close, NotAnAnswer
from sessions.langgraph import GraphRerun

DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


class Lesson(TypedDict, total=False):
    """The graph's own state; the session holds none of it."""

    day: str
    time: str


def answer_to(question: object) -> str:
    """What the user writes; a question of theirs is no answer, and ordinary chat takes it."""
    text: str = interrupt(question)
    if text.endswith("?"):
        raise NotAnAnswer
    return text


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
        self.rerun = GraphRerun(self.graph, finish=self.finish)

    async def ask_day(self, state: Lesson) -> Lesson:
        """One interrupt in each node, so that what a message says is kept as soon as it is read."""
        day = answer_to("Which day from Monday to Friday?" if "day" in state else "Which day suits you?")
        self.executions.append("ask_day")
        return {"day": day.capitalize()}

    async def ask_time(self, state: Lesson) -> Lesson:
        """Any time will do."""
        time = answer_to({"question": f"{state['day']}, at what time?", "missing_info": ["time"]})
        self.executions.append("ask_time")
        return {"time": time}

    async def propose(self, state: Lesson, config: RunnableConfig) -> Lesson:
        """Show it, and wait for a change; the confirmation does not come through here."""
        preview_id = f"preview-{config['metadata']['session_message_id']}"
        time = answer_to({"preview_id": preview_id, "payload": f"{state['day']} at {state['time']}"})
        self.executions.append("propose")
        return {"time": time}

    def finish(self, values: dict[str, Any]) -> Close:
        """This graph waits for changes until its session ends; it comes to no end of its own."""
        del values
        return Close("the graph has come to its end")
