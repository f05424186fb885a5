"""Rows into sessions, batch by batch: what is there already is left alone, and what breaks an invariant is refused.

It keeps nothing between batches and writes no sign of how far it came: a run that was stopped is begun again, and finds
the rows of the one before in the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sessions.cli.desk import Desk
from sessions.cli.rows import Line, Rejects
from sessions.domain.errors import SessionDamaged, SessionRef
from sessions.domain.expiry import has_expired
from sessions.store import across_users, reads, sweeps
from sessions.store.document import GOVERNOR_FIELDS
from sessions.store.reading import to_snapshot
from sessions.store.relational import contradicts, expired, is_same_session
from sessions.store.updates import RawDocument

_DUPLICATE: Final = 11000
_ANOTHER_USERS: Final = "the session_id belongs to another user's session"
_ANOTHER: Final = "the session_id belongs to another session of this user"
_CONTRADICTS: Final = "a session of this id, user and trigger is there, untouched, and says something else"


class Candidate(NamedTuple):
    """A row that can be stored, as far as it alone can tell."""

    line: Line
    document: RawDocument
    is_changed: bool = False
    """Whether the document says something else than the row."""

    @property
    def trigger(self) -> tuple[int, str]:
        """Whose trigger it came from: that makes one session."""
        return self.document["user_id"], self.document["trigger_id"]


@dataclass(slots=True)
class Tally:
    """What has become of the rows so far."""

    imported: int = 0
    present: int = 0
    changed: int = 0


def _rounds(batch: Sequence[Candidate]) -> list[list[Candidate]]:
    """The batch in parts of which none holds an id or a trigger twice, so that the first of two is stored first."""
    rounds: list[list[Candidate]] = []
    taken: list[set[object]] = []
    for candidate in batch:
        keys = {candidate.document["_id"], candidate.trigger}
        place = max((number + 1 for number, seen in enumerate(taken) if keys & seen), default=0)
        if place == len(rounds):
            rounds.append([])
            taken.append(set())
        rounds[place].append(candidate)
        taken[place] |= keys
    return rounds


class Importer:
    """Stores rows.

    Args:
        desk: The database.
        rejects: Where the rows go that are refused.
        tally: What is counted.
    """

    def __init__(self, desk: Desk, rejects: Rejects, tally: Tally) -> None:
        self._desk = desk
        self._rejects = rejects
        self._tally = tally

    async def take(self, batch: Sequence[Candidate]) -> None:
        """Store what is new of a batch."""
        for each in _rounds(batch):
            await self._take(each)

    async def _take(self, batch: list[Candidate]) -> None:
        fresh = await self._without_present(batch)
        fresh = await self._without_taken_triggers(fresh)
        if not fresh:
            return
        refused = {told["index"]: told for told in await self._insert(fresh)}
        for place, candidate in enumerate(fresh):
            if place in refused:
                await self._refused(candidate, refused[place])
            else:
                self._note_imported(candidate)

    def _note_imported(self, candidate: Candidate) -> None:
        self._tally.imported += 1
        self._tally.changed += candidate.is_changed

    async def _insert(self, candidates: Sequence[Candidate]) -> list[Mapping[str, Any]]:
        return await self._desk.collection.insert_many([candidate.document for candidate in candidates])

    async def _without_present(self, batch: Sequence[Candidate]) -> list[Candidate]:
        """Those whose id nobody has."""
        found = await self._desk.find(across_users.by_ids([candidate.document["_id"] for candidate in batch]))
        stored = {raw["_id"]: raw for raw in found}
        fresh = []
        for candidate in batch:
            if (raw := stored.get(candidate.document["_id"])) is None:
                fresh.append(candidate)
            else:
                self._meets(candidate, raw)
        return fresh

    def _meets(self, candidate: Candidate, stored: RawDocument) -> None:
        """A session has the id already: it is this very one, or the row is refused."""
        if stored.get("user_id") != candidate.document["user_id"]:
            self._rejects.add(candidate.line, _ANOTHER_USERS)
        elif not is_same_session(candidate.document, stored):
            self._rejects.add(candidate.line, _ANOTHER)
        elif contradicts(candidate.document, stored):
            self._rejects.add(candidate.line, _CONTRADICTS)
        else:
            self._tally.present += 1

    async def _without_taken_triggers(self, batch: list[Candidate]) -> list[Candidate]:
        """Those whose trigger has no session yet."""
        if not batch:
            return []
        found = await self._desk.find(across_users.by_triggers([candidate.trigger for candidate in batch]))
        owners = {(raw["user_id"], raw["trigger_id"]): raw["_id"] for raw in found}
        fresh = []
        for candidate in batch:
            if (owner := owners.get(candidate.trigger)) is None:
                fresh.append(candidate)
            else:
                self._rejects.add(candidate.line, f"its user's trigger has made session {owner} already")
        return fresh

    async def _refused(self, candidate: Candidate, told: Mapping[str, Any]) -> None:
        """The server has not taken it."""
        fields = frozenset(told.get("keyPattern", ()))
        if told.get("code") != _DUPLICATE:
            self._rejects.add(candidate.line, f"the server refuses it with code {told.get('code')}")
        elif fields == {"_id"}:
            # Somebody else was first, or this very call before its connection broke.
            if await self._without_present([candidate]):
                self._rejects.add(candidate.line, "the session_id was there a moment ago, and is gone: import it again")
        elif fields == GOVERNOR_FIELDS:
            await self._governed(candidate)
        else:
            self._rejects.add(candidate.line, f"a foreign unique index on {', '.join(sorted(fields))} refuses it")

    async def _governed(self, candidate: Candidate) -> None:
        """Another session occupies the conversation: one of the two may be past its end, and then gives way."""
        document, at = candidate.document, self._desk.at
        found = await self._desk.find(reads.governor(document["user_id"], document["conversation_id"]))
        try:
            rival = to_snapshot(found[0]) if found else None
        except SessionDamaged as error:
            self._rejects.add(candidate.line, f"session {error.session_id}, which is damaged, governs its conversation")
            return
        if has_expired(to_snapshot(document), at):
            document = expired(document, at)
        elif rival is not None and has_expired(rival, at):
            await self._end(rival.session_id, rival.user_id, rival.revision, at)
        elif rival is not None:
            self._rejects.add(candidate.line, f"session {rival.session_id} governs its conversation")
            return
        if await self._insert([candidate._replace(document=document)]):
            self._rejects.add(candidate.line, "its conversation changes at this moment: import it again")
        else:
            self._note_imported(candidate)

    async def _end(self, session_id: str, user_id: int, revision: int, at: datetime) -> None:
        write = sweeps.expire(at)
        guard = {"_id": session_id, "user_id": user_id, "revision": revision}
        about = SessionRef(session_id=session_id, user_id=user_id)
        call = self._desk.collection.for_one_call()
        await call.find_one_and_update(write._replace(filter={**write.filter, **guard}), about=about)
