"""The index tool prints names as they are, and whole lines if it does not print on a terminal."""

import io
from typing import Final

import pytest

from indexes.actions import Action, Blocked, Step
from indexes.progress import Progress
from indexes.rendering import WIDTH_WITHOUT_TERMINAL, Teller, show_blocked
from sessions.console import console_for

NAME: Final = "oops[/x] [red]user:key:1"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """As a terminal answers."""
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_name_is_neither_markup_nor_an_emoji(kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the bar of a build, which is drawn again and again."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = kind()
    step = Step(collection="c", action=Action.BUILD, index=NAME)
    with Teller(console_for(stream, width_elsewhere=WIDTH_WITHOUT_TERMINAL)) as tell:
        tell(Progress(step=step, elapsed=1.0, phase="scanning", done=1, total=2))
    console_for(stream, width_elsewhere=WIDTH_WITHOUT_TERMINAL).print(NAME)
    printed = stream.getvalue()
    assert printed.count(NAME) >= (2 if kind is Terminal else 1)


def test_a_long_line_is_whole_where_it_is_no_terminal() -> None:
    """Programs read the output by lines."""
    stream = io.StringIO()
    show_blocked(console_for(stream, width_elsewhere=WIDTH_WITHOUT_TERMINAL), [Blocked("c", "n", "word " * 100)])
    assert len(stream.getvalue().splitlines()) == 1
