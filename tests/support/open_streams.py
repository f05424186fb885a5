"""How many change streams the server holds."""

from typing import TYPE_CHECKING, Any, Final

from sessions.store.document import COLLECTION

if TYPE_CHECKING:
    from sessions.store.clients import Database

# A read of a cursor that was killed goes on until its own time is up.
_NOT_ENDING: Final = {"killPending": {"$ne": True}}


async def open_streams(database: "Database") -> int:
    """The cursors of change streams on this database's sessions, read just now or idle, and not killed already."""
    client: Any = database.client
    pipeline = [
        {"$currentOp": {"idleCursors": True, "allUsers": True}},
        {"$match": {"ns": f"{database.name}.{COLLECTION}", "cursor": {"$exists": True}, **_NOT_ENDING}},
    ]
    found = client.admin.aggregate(pipeline)
    told = await (found if hasattr(found, "to_list") else await found).to_list(None)
    # A cursor whose read has just ended is told of twice.
    return len({each["cursor"]["cursorId"] for each in told})
