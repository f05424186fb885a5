"""The commands that only look: ``counts``, ``list``, ``show``, ``route``, ``stalled``, ``damaged``."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from sessions.cli import options, rendering
from sessions.cli.desk import Desk, at_desk
from sessions.cli.documents import damage_of, every_document
from sessions.cli.ending import DONE, FOUND, NothingSuch
from sessions.cli.rendering import counted, emit, lease_in_words, moment, printable, session_values, span, status_cell
from sessions.domain import inputs
from sessions.domain.lifecycle import ALL
from sessions.domain.models import ActiveScheduleSessionSnapshot, Transition
from sessions.domain.routing import NEVER
from sessions.store import across_users
from sessions.store.reading import readable, to_snapshot, to_transitions

_BATCH: Final = 100
_BAR: Final = 30

Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="At most so many, 1 to 1,000.")]
OlderThan = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        parser=options.age,
        help="Only what has not changed for so long: 90s, 15m, 2h, 30d, 4w.",
        show_default=False,
    ),
]
NewerThan = Annotated[
    timedelta | None,
    typer.Option(
        "--newer-than",
        metavar="AGE",
        parser=options.age,
        help="Only what has changed within so long.",
        show_default=False,
    ),
]


def counts(*, uri: options.Uri = None, database: options.DatabaseName = None, as_json: options.AsJson = False) -> int:
    """How many sessions are in each status."""

    async def work(desk: Desk) -> int:
        found = await desk.repository.count_by_status()
        if as_json:
            emit({status.value: number for status, number in found.items()})
            return DONE
        console = rendering.console()
        mark = "#" if console.options.ascii_only else "█"
        most = max(1, *found.values())
        shown = rendering.table("status", "chat", "sessions", "")
        shown.columns[2].justify = "right"
        for status, number in found.items():
            chat = "intercepted" if status.intercepts else "free"
            shown.add_row(status_cell(status), chat, f"{number:,}", mark * -(-number * _BAR // most))
        console.print(shown)
        console.print(f"{counted(sum(found.values()))} in all.")
        return DONE

    return at_desk(uri, database, work)


async def _listed(desk: Desk, limit: int, **wanted: Any) -> AsyncIterator[ActiveScheduleSessionSnapshot]:
    """The sessions that fit, read in batches; those that cannot be read are passed over."""
    seen: list[str] = []
    # Always bounded, so that what has no moment there is passed over: `damaged` tells of it.
    edge: datetime = wanted.pop("until") or NEVER
    left = limit
    while left:
        size = min(left, _BATCH)
        found = await desk.find(across_users.listed(until=edge, but_for=seen, limit=size, **wanted))
        for session in readable(found):
            yield session
        if len(found) < size:
            return
        left -= size
        last = found[-1]["updated_at"]
        # Many may have changed in one millisecond: those of it that were shown are named.
        tied = [raw["_id"] for raw in found if raw["updated_at"] == last]
        seen = [*seen, *tied] if last == edge else tied
        edge = last


def list_sessions(
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    status: options.Statuses = None,
    user: options.OfUser = None,
    conversation: options.OfConversation = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = 50,
    show_text: options.ShowText = False,
) -> int:
    """Sessions of all users, the one that changed last first."""
    user_id = inputs.optional_integer("user_id", user)
    conversation_id = inputs.optional_identifier("conversation_id", conversation)

    async def work(desk: Desk) -> int:
        shown = rendering.table("session", "user", "status", "age", "conversation")
        texts: list[tuple[str, str, str]] = []
        number = 0
        async for session in _listed(
            desk,
            limit,
            statuses=frozenset(status or ALL),
            user_id=user_id,
            conversation_id=conversation_id,
            since=None if newer_than is None else desk.at - newer_than,
            until=None if older_than is None else desk.at - older_than,
            with_texts=show_text,
        ):
            number += 1
            if as_json:
                emit(session_values(session, show_text=show_text))
                continue
            texts += [(session.session_id, *told) for told in (rendering.texts_of(session) if show_text else ())]
            shown.add_row(
                printable(session.session_id),
                str(session.user_id),
                status_cell(session.status),
                span(desk.at - session.updated_at),
                printable(session.conversation_id),
            )
        if not as_json:
            if number:
                rendering.show_sessions(shown)
            for session_id, name, text in texts:
                rendering.say(f"{session_id}  {name}: {text}")
            more = f"; there may be more: --limit, up to {1000:,}" if number == limit else ""
            rendering.say(f"{counted(number)}{more}.")
        return DONE

    return at_desk(uri, database, work)


def _show_session(session: ActiveScheduleSessionSnapshot, at: datetime, *, show_text: bool) -> None:
    console = rendering.console()
    facts = rendering.table("", "")
    facts.show_header = False
    state = session.state
    told: list[tuple[str, object]] = [
        ("session", session.session_id),
        ("user", session.user_id),
        ("conversation", session.conversation_id),
        ("trigger", session.trigger_id),
        ("status", session.status),
        ("preview", session.current_preview_id),
        ("lease", lease_in_words(session, at)),
        ("candidate", state.last_candidate_id),
        ("notification", state.last_notification_id),
        ("expires", moment(state.expires_at)),
        ("attempts", session.attempts or ""),
        ("fencing token", session.fencing_token),
        ("revision", session.revision),
        ("created", moment(session.created_at)),
        ("updated", moment(session.updated_at)),
    ]
    for name, value in told:
        if value not in (None, ""):
            facts.add_row(Text(name, style="dim"), printable(value))
    for name, text in rendering.texts_of(session):
        facts.add_row(Text(name, style="dim"), printable(text) if show_text else Text("(--show-text)", style="dim"))
    console.print(facts)


def _show_history(history: list[Transition], *, show_text: bool) -> None:
    console = rendering.console()
    shown = rendering.table("time (UTC)", "after", "status", "by", *(("reason",) if show_text else ()))
    before: datetime | None = None
    for entry in history:
        after = "" if before is None else f"+{span(entry.at - before)}"
        again = " (again)" if entry.from_status is entry.to_status else ""
        reason = [printable(entry.reason)] if show_text else []
        status = status_cell(entry.to_status)
        shown.add_row(moment(entry.at), after, status.append(again), printable(entry.call), *reason)
        before = entry.at
    console.print(shown)


def show(
    session_id: options.SessionId,
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    show_text: options.ShowText = False,
) -> int:
    """One session: state, lease, and its history as a timeline."""
    wanted = inputs.identifier("session_id", session_id)

    async def work(desk: Desk) -> int:
        found = await desk.find(across_users.by_id(wanted))
        if not found:
            raise NothingSuch(f"there is no session {wanted}")
        session, history = to_snapshot(found[0]), to_transitions(found[0])
        if as_json:
            hidden = set() if show_text else {"reason"}
            told = [entry.model_dump(mode="json", exclude=hidden) for entry in history]
            emit({**session_values(session, show_text=show_text, with_replies=True), "history": told})
            return DONE
        _show_session(session, desk.at, show_text=show_text)
        rendering.console().print()
        _show_history(history, show_text=show_text)
        return DONE

    return at_desk(uri, database, work)


def route(
    user: Annotated[int, typer.Argument(metavar="USER", show_default=False)],
    conversation: Annotated[str, typer.Argument(metavar="CONVERSATION", show_default=False)],
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    show_text: options.ShowText = False,
) -> int:
    """Where the next message goes: free_chat, resume or hold."""
    user_id = inputs.integer("user_id", user)
    conversation_id = inputs.identifier("conversation_id", conversation)

    async def work(desk: Desk) -> int:
        found = await desk.repository.route(user_id, conversation_id)
        if as_json:
            session = None if found.session is None else session_values(found.session, show_text=show_text)
            emit({"action": found.action, "session": session})
            return DONE
        if found.session is None:
            rendering.say(f"{found.action}: no session governs this conversation.")
            return DONE
        lease = lease_in_words(found.session, desk.at)
        work_on = f" ({lease})" if lease else ""
        rendering.say(f"{found.action}: session {found.session.session_id}, {found.session.status}{work_on}.")
        for name, text in rendering.texts_of(found.session) if show_text else ():
            rendering.say(f"{name}: {text}")
        return DONE

    return at_desk(uri, database, work)


def stalled(
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    limit: Limit = 50,
) -> int:
    """Sessions that a worker has left behind, its lease lapsed.

    A rerun is given back by recover, upkeep or the next message; a write-back is finished by upkeep or a confirmation.
    """

    async def work(desk: Desk) -> int:
        found = await desk.find(across_users.lapsed(desk.at, limit=limit))
        shown = rendering.table("session", "user", "lease", "lapsed", "conversation")
        for session in readable(found):
            if as_json:
                emit(session_values(session, show_text=False))
            elif session.lease is not None:
                since = span(desk.at - session.lease.expires_at)
                shown.add_row(
                    printable(session.session_id),
                    str(session.user_id),
                    session.lease.kind,
                    since,
                    printable(session.conversation_id),
                )
        if not as_json:
            if found:
                rendering.show_sessions(shown)
            more = "; there may be more" if len(found) == limit else ""
            rendering.say(f"{counted(len(found))} stalled{more}.")
        return DONE

    return at_desk(uri, database, work)


def damaged(*, uri: options.Uri = None, database: options.DatabaseName = None, as_json: options.AsJson = False) -> int:
    """Documents that cannot be read; looks at every one.

    It tells ids and fields, never what they hold.
    """

    async def work(desk: Desk) -> int:
        shown = rendering.table("session", "user", "fields")
        number = 0
        async for raw in every_document(desk, "looking at every document", with_history=True):
            damage = damage_of(raw)
            if damage is None:
                continue
            number += 1
            if as_json:
                emit({"session_id": damage.session_id, "user_id": damage.user_id, "fields": list(damage.fields)})
            else:
                session_id = damage.session_id or "(not a text)"
                shown.add_row(
                    printable(session_id), printable(damage.user_id), ", ".join(map(printable, damage.fields))
                )
        if not as_json:
            if number:
                rendering.show_sessions(shown)
            rendering.say(f"{counted(number, 'document')} damaged.")
        return FOUND if number else DONE

    return at_desk(uri, database, work)
