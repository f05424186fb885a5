"""The extras that parts of this package need, and the one sentence for whoever lacks one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

_PACKAGES: Final[Mapping[str, frozenset[str]]] = {
    "cli": frozenset({"typer", "rich"}),
    "demo": frozenset({"rich", "motor", "mongomock_motor"}),
    "fastapi": frozenset({"fastapi", "sse_starlette", "anyio"}),
    "langgraph": frozenset({"langgraph", "langchain_core"}),
    "testing": frozenset({"mongomock_motor"}),
}
"""What each extra brings, by the name that it is imported by."""


class MissingExtra(ModuleNotFoundError):
    """A package of an extra is not installed; the text names the command that installs it."""


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Import within the block what an extra brings.

    Args:
        extra: The extra's name.
        what: What needs it, as the sentence begins.

    Raises:
        MissingExtra: A package of the extra is not there. Any other missing module passes through.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES[extra]:
            raise
        advice = f"{what} needs {package}: pip install 'active-schedule-sessions[{extra}]'"
        raise MissingExtra(advice, name=error.name) from error
