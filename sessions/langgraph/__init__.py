"""A LangGraph graph as the bridge's ``rerun``: each message resumes it once, each run on a copy of its own.

Needs the extra ``langgraph``; nothing else of the library imports this package.
"""

from sessions.langgraph.graph_rerun import Finish, GraphRerun
from sessions.langgraph.questions import Ask, Reply, default_ask, default_reply
from sessions.public_names import carry_module_name

__all__ = ["Ask", "Finish", "GraphRerun", "Reply", "default_ask", "default_reply"]

carry_module_name(globals())
