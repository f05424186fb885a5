"""The commands that the tool sends, by either driver. A refusal becomes an error that says what to do next."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pymongo
from pymongo import ReadPreference
from pymongo.errors import ExecutionTimeout, OperationFailure, PyMongoError

from indexes.codes import Code
from indexes.errors import BadChoice, IndexToolError, MissingRight, UnfitCollection, Unreachable
from indexes.refusals import reason_of
from indexes.session_collection.session_document import why_unfit
from sessions.store.clients import Database
from sessions.store.collection import SessionCollection
from sessions.store.driver_errors import cause_of, is_transient
from sessions.store.index_listing import A_TIME_SERIES, A_VIEW, NoPlainCollection, list_indexes
from sessions.tasks import answered

QUICK_SECONDS: Final = 5.0
# None would leave the limit to the client's own `timeoutMS`; 0 stands above it and is none.
_NO_LIMIT: Final = 0.0
_MAJORITY: Final = {"w": "majority"}

_UNFIT: Final[Mapping[str, str]] = {
    A_VIEW: "it is a view, which has no indexes of its own: declare them for the collection that it shows",
    A_TIME_SERIES: (
        "it is a time series, of which the server does not tell whether an index is finished: leave its indexes to "
        "Beanie's init_beanie"
    ),
}

RIGHTS: Final[Mapping[str, tuple[str, str]]] = {
    "hello": ("hello", "read"),  # in fact it asks for no right
    "listIndexes": ("listIndexes", "read"),
    "find": ("find", "read"),
    "explain": ("find", "read"),
    "aggregate": ("find", "read"),
    "createIndexes": ("createIndex", "readWrite"),
    "setIndexCommitQuorum": ("createIndex", "readWrite"),
    "dropIndexes": ("dropIndex", "readWrite"),
    "findAndModify": ("update", "readWrite"),
    "delete": ("remove", "readWrite"),
    "collMod": ("collMod", "dbAdmin"),
    "shardCollection": ("enableSharding", "clusterManager"),
    "enableSharding": ("enableSharding", "clusterManager"),
}
"""The action that each command takes, and the smallest built-in role that has it.

https://www.mongodb.com/docs/v6.0/reference/built-in-roles/
"""


class Server:
    """One database, by commands; reads go to the primary."""

    def __init__(self, database: Database) -> None:
        if not SessionCollection(database, timeout=QUICK_SECONDS).is_server:
            raise BadChoice(
                "the in-memory double has no commands: make its indexes by open_repository(create_indexes=True)"
            )
        self._database: Any = database
        self.name: str = self._database.name

    async def command(
        self, command: Mapping[str, Any], *, about: str = "", admin: bool = False, quick: bool = True
    ) -> dict[str, Any]:
        """Send one command.

        Args:
            command: The command; its name comes first.
            about: The collection, for an error's text.
            admin: Send it to the admin database.
            quick: Give up after five seconds. A build has no limit, not even the client's `timeoutMS`.

        Raises:
            MissingRight: The user may not send this command.
            Unreachable: The server did not answer, or is no longer the primary.
            OperationFailure: The server refused for another reason. The caller knows which ones it expects.
        """
        database = self._database.client.admin if admin else self._database
        name = next(iter(command))
        right = RIGHTS[name]  # a command that lacks its row is not sent
        try:
            with pymongo.timeout(QUICK_SECONDS if quick else _NO_LIMIT):
                answer: dict[str, Any] = await answered(
                    database.command(command, read_preference=ReadPreference.PRIMARY)
                )
        except PyMongoError as error:
            if isinstance(error, ExecutionTimeout) and "maxTimeMS" in command:
                raise  # the caller set this limit, and knows what to do when the time is up
            if (known := understood(error, right, f"{database.name}.{about}" if about else database.name)) is None:
                raise
            raise known from error
        return answer

    async def change(self, command: Mapping[str, Any], *, about: str, quick: bool = True) -> dict[str, Any]:
        """Send a command that changes something, and wait until a majority of the members has it."""
        return await self.command({**command, "writeConcern": _MAJORITY}, about=about, quick=quick)

    async def indexes(self, collection: str) -> dict[str, dict[str, Any]] | None:
        """Each index by its name, one being built with its ``buildUUID``; None if the collection does not exist.

        Raises:
            UnfitCollection: It keeps no list of indexes, or can't hold what is meant for it.
        """
        try:
            present = await list_indexes(partial(self.command, about=collection), collection)
        except NoPlainCollection as error:
            raise UnfitCollection(f"{self.name}.{collection}", _UNFIT[error.kind]) from error
        except OperationFailure as error:
            raise UnfitCollection(f"{self.name}.{collection}", reason_of(error)) from error
        if unfit := why_unfit(collection, present or {}):
            raise UnfitCollection(f"{self.name}.{collection}", unfit)
        return present

    async def aggregate(
        self,
        collection: str | int,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        admin: bool = False,
        quick: bool = True,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """The first batch of an aggregation; what this tool asks for fits into one."""
        command = {"aggregate": collection, "pipeline": list(pipeline), "cursor": {"batchSize": 1000}, **options}
        answer = await self.command(command, about=str(collection), admin=admin, quick=quick)
        found: list[dict[str, Any]] = answer["cursor"]["firstBatch"]
        return found

    async def explain(self, command: Mapping[str, Any], *, verbosity: str) -> dict[str, Any]:
        """The server's plan for a command, or what it did to carry it out."""
        about = str(next(iter(command.values())))
        return await self.command({"explain": command, "verbosity": verbosity}, about=about, quick=False)

    async def expanded_collation(self, collection: str, collation: Mapping[str, Any]) -> dict[str, Any]:
        """A collation with the defaults of its locale, which only the server knows."""
        # Nothing can match, so this costs no search.
        asked = {"find": collection, "filter": {"_id": {"$in": []}}, "collation": dict(collation)}
        answer = await self.explain(asked, verbosity="queryPlanner")
        planner = answer["queryPlanner"]
        # A router answers with the plan of each shard.
        told = [planner, *planner.get("winningPlan", {}).get("shards", ())]
        return next((plan["collation"] for plan in told if "collation" in plan), dict(collation))

    async def hello(self) -> dict[str, Any]:
        """The server's description of itself: standalone, a member of a replica set, or a router."""
        return await self.command({"hello": 1}, admin=True)


def understood(error: PyMongoError, right: tuple[str, str], where: str) -> IndexToolError | None:
    """The tool's own error for one of the driver; None for a refusal that only the caller can judge."""
    if not isinstance(error, OperationFailure) or isinstance(error, ExecutionTimeout):
        return _unreachable(error)
    if error.code == Code.UNAUTHORIZED:
        return MissingRight(*right, where)
    return _unreachable(error) if is_transient(error) or error.code == Code.AUTHENTICATION_FAILED else None


def _unreachable(error: PyMongoError) -> Unreachable:
    cause = cause_of(error)
    if getattr(error, "code", None) == Code.AUTHENTICATION_FAILED:
        return Unreachable(f"the server refused the user or the password ({cause})")
    return Unreachable(
        f"the server does not answer ({cause}): run this again when it does, to go on from what was done"
    )


def is_router(hello: Mapping[str, Any]) -> bool:
    """Whether an answer to ``hello`` came from a router of a sharded cluster."""
    return hello.get("msg") == "isdbgrid"


def in_utc(moment: datetime) -> datetime:
    """A moment with its time zone; a client that is not ``tz_aware`` gets UTC without one."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
