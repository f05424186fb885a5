"""The command ``watch``: each change as it happens."""

from typing import Annotated

import typer
from rich.text import Text

from sessions.cli import options, rendering
from sessions.cli.desk import Desk, at_desk
from sessions.cli.ending import DONE
from sessions.cli.rendering import emit, note, printable, session_values, status_cell
from sessions.domain.lifecycle import ALL
from sessions.domain.models import ActiveScheduleSessionSnapshot

ResumeAfter = Annotated[
    str | None,
    typer.Option(
        "--resume-after",
        metavar="TOKEN",
        help="Go on behind a change: the token that --json printed with it.",
        show_default=False,
    ),
]


def _line(session: ActiveScheduleSessionSnapshot) -> Text:
    told = Text(f"{session.updated_at:%H:%M:%S}  {printable(session.session_id)}  ")
    told.append(status_cell(session.status))
    told.append(f"  user {session.user_id}")
    if session.conversation_id is not None:
        told.append(f", {printable(session.conversation_id)}")
    if session.lease is not None:
        told.append(f" ({session.lease.kind})")
    return told


def watch(
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    status: options.Statuses = None,
    user: options.OfUser = None,
    conversation: options.OfConversation = None,
    resume_after: ResumeAfter = None,
    show_text: options.ShowText = False,
) -> int:
    """Each change as it happens, until Ctrl-C; needs a replica set."""
    wanted = frozenset(status or ALL)

    async def work(desk: Desk) -> int:
        console = rendering.console()
        changes = desk.repository.watch(user_id=user, conversation_id=conversation, resume_after=resume_after)
        async with changes:
            note("Following changes until Ctrl-C; times are UTC.")
            async for change in changes:
                if change.snapshot.status not in wanted:
                    continue
                if as_json:
                    emit({"token": change.token, "session": session_values(change.snapshot, show_text=show_text)})
                    continue
                console.print(_line(change.snapshot), soft_wrap=True)
                for name, text in rendering.texts_of(change.snapshot) if show_text else ():
                    console.print(Text(f"          {name}: {printable(text)}"))
                console.file.flush()
        return DONE

    return at_desk(uri, database, work)
