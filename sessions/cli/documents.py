"""Every stored document in turn, in bounded batches with progress; and what is damaged in one."""

from collections.abc import AsyncIterator
from typing import Final

from sessions.cli.desk import Desk
from sessions.cli.rendering import counted, progress
from sessions.domain.errors import SessionDamaged
from sessions.store import across_users
from sessions.store.reading import to_snapshot, to_transitions
from sessions.store.updates import RawDocument

_BATCH: Final = 500
# A batch is one answer of the server's, which holds 16 MB at most: so many histories with long reasons fit.
_BATCH_WITH_HISTORY: Final = 100


async def every_document(desk: Desk, what: str, *, with_history: bool) -> AsyncIterator[RawDocument]:
    """Each document that was stored when its turn came, in the order of the ids; memory holds one batch."""
    size = _BATCH_WITH_HISTORY if with_history else _BATCH
    total = await desk.count(across_users.ANY_ID)
    done = 0
    last: RawDocument | None = None
    with progress(what, total) as advance:
        # Until none is left: an answer of 16 MB may be shorter than the batch.
        while found := await desk.find(across_users.everything(after=last, limit=size, with_history=with_history)):
            for raw in found:
                yield raw
            if last is not None and last["_id"] == found[-1]["_id"]:
                return  # an id that Python cannot hold as it is, at the end
            last = found[-1]
            done += len(found)
            advance(done, f"{counted(done, 'document')}")


def damage_of(raw: RawDocument) -> SessionDamaged | None:
    """What is damaged in a document; None if it can be read."""
    try:
        to_snapshot(raw), to_transitions(raw)
    except SessionDamaged as error:
        return error
    return None
