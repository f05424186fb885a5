"""Tables at 80 columns: an id of the library's is in one line, and nothing is cut, however long its neighbours are."""

import io
import sys

import pytest
from rich.console import Console

from sessions import SessionStatus
from sessions.cli import rendering


@pytest.mark.parametrize("conversation", ["chat-1", "c" * 256])
@pytest.mark.parametrize("user", ["5", str(2**63 - 1)])
@pytest.mark.parametrize("session", ["0123456789abcdef" * 2, "0123456789abcdef" * 4])
def test_nothing_is_cut(monkeypatch: pytest.MonkeyPatch, session: str, user: str, conversation: str) -> None:
    """Whatever the widths are, each letter is there; what is copied most often is whole."""
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(rendering, "console", lambda: Console(file=printed, width=80))
    shown = rendering.table("session", "user", "status", "age", "conversation")
    shown.add_row(session, user, rendering.status_cell(SessionStatus.WAITING_USER_REPLY), "12m", conversation)
    rendering.show_sessions(shown)
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    body = "".join(lines[2:])
    for cell in (session, user, "waiting_user_reply", "12m", conversation):
        assert not set(cell) - set(body)
        assert sum(map(body.count, set(cell))) >= len(cell)
    if len(session) == 32:
        assert session in body
