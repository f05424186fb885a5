"""The Beanie class reads; whatever would write past the lifecycle is refused and names the repository."""

from collections.abc import Callable
from typing import Any, Final, cast

import pytest
from beanie import Document, init_beanie
from bson.codec_options import CodecOptions
from pydantic import BaseModel

from sessions import ActiveScheduleSession, SessionRepository
from sessions.store.beanie_document import WritesRefused
from sessions.testing import SessionMaker

READS: Final = {
    *("add_child", "aggregate", "all", "avg", "count", "distinct", "find", "find_all", "find_many", "find_one", "get"),
    *("fetch_all_links", "fetch_link", "fill_back_refs", "get_bson_encoders", "get_changes", "get_collection_name"),
    *("get_link_fields", "get_model_type", "get_motor_collection", "get_pymongo_collection", "get_previous_changes"),
    *("get_previous_saved_state", "get_saved_state", "get_settings", "inspect_collection", "lazy_parse"),
    *("link_from_id", "max", "min", "parse_store", "rollback", "set_collection", "set_collection_name"),
    *("set_database", "state_management_replace_objects", "state_management_save_previous", "sum", "sync", "to_ref"),
    *("use_state_management", "validate_self"),
}
"""What Beanie's documents can do without writing; everything else that they can do must be refused."""
QUERY_READS: Final = {
    *("AggregationQueryType", "DeleteQueryType", "UpdateQueryType", "aggregate", "avg", "build_aggregation_pipeline"),
    *("clone", "count", "distinct", "exists", "find", "find_many", "find_one", "first_or_none", "get_cursor"),
    *("get_filter_query", "get_projection_model", "limit", "max", "min", "prepare_find_expressions", "project"),
    *("set_session", "skip", "sort", "sum", "to_list"),
}


def an_instance() -> ActiveScheduleSession:
    """A document in memory, as a query would have read it."""
    made: ActiveScheduleSession = ActiveScheduleSession.model_construct(id="abc", user_id=1, status="applied")
    return made


def abilities(kind: type) -> list[str]:
    """The public methods of a kind, without pydantic's."""
    names = (name for name in dir(kind) if not name.startswith("_") and not hasattr(BaseModel, name))
    return [name for name in names if callable(getattr(kind, name))]


ROUTES_TO_A_QUERY: Final[dict[str, Callable[[], Any]]] = {
    "find": lambda: ActiveScheduleSession.find({"user_id": 1}),
    "find_many": lambda: ActiveScheduleSession.find_many({"user_id": 1}),
    "find_all": ActiveScheduleSession.find_all,
    "find_one": lambda: ActiveScheduleSession.find_one({"user_id": 1}),
    "find, sorted": lambda: ActiveScheduleSession.find({"user_id": 1}).sort("updated_at").limit(3),
    "find, cloned": lambda: cast("Any", ActiveScheduleSession.find({"user_id": 1})).clone(),
    "find, further": lambda: ActiveScheduleSession.find({"user_id": 1}).find({"status": "applied"}),
}


@pytest.mark.parametrize("method", [name for name in abilities(Document) if name not in READS])
def test_a_documents_writes_are_refused(method: str) -> None:
    """A write on the class or an instance would go round the lifecycle; the error names where to go instead."""
    for owner in (ActiveScheduleSession, an_instance()):
        with pytest.raises(WritesRefused, match=r"SessionRepository .* from sessions\.open_repository"):
            getattr(owner, method)({"$set": {"status": "applied"}})


def test_the_usual_writes_are_among_them() -> None:
    """The list above is computed from Beanie; these at least must be in it."""
    refused = set(abilities(Document)) - READS
    assert refused >= {
        *("insert", "insert_one", "insert_many", "create", "save", "save_changes", "replace", "replace_many"),
        *("update", "update_all", "set", "inc", "current_date", "delete", "delete_all", "bulk_writer"),
    }


@pytest.mark.parametrize("route", list(ROUTES_TO_A_QUERY))
@pytest.mark.needs("beanie")
async def test_a_querys_writes_are_refused(database: Any, route: str) -> None:
    """Also ``find(...).update(...)`` and its like are refused, wherever the query came from."""
    await init_beanie(database=database, document_models=[ActiveScheduleSession], skip_indexes=True)
    query = ROUTES_TO_A_QUERY[route]()
    writes = [name for name in abilities(type(query)) if name not in QUERY_READS]
    assert {"update", "set", "inc", "current_date", "upsert", "delete"} <= set(writes)
    for method in writes:
        with pytest.raises(WritesRefused, match="SessionRepository"):
            getattr(query, method)({"$set": {"status": "applied"}})


def test_the_refusal_is_a_type_error_that_names_the_call() -> None:
    """Who wrote the line sees which method was meant and which to use."""
    kind: Any = ActiveScheduleSession
    with pytest.raises(TypeError, match=r"ActiveScheduleSession\.insert_one would bypass .* \(create\)"):
        kind.insert_one(an_instance())
    with pytest.raises(TypeError, match=r"ActiveScheduleSession\.delete_all would bypass .* \(purge\)"):
        kind.delete_all()


@pytest.mark.parametrize("tz_aware", [True, False])
@pytest.mark.needs("beanie")
async def test_beanie_reads_what_the_repository_wrote(
    repository: SessionRepository, make_session: SessionMaker, database: Any, *, tz_aware: bool
) -> None:
    """The user's own queries see the same session as the repository, by a client with naive datetimes too."""
    users_own = database.client.get_database(database.name, codec_options=CodecOptions(tz_aware=tz_aware))
    await init_beanie(database=users_own, document_models=[ActiveScheduleSession], skip_indexes=True)
    claim = await make_session.claim(conversation_id="c")
    session_id = claim.session.session_id
    read = await ActiveScheduleSession.get(session_id)
    assert read is not None
    assert read.session_id == session_id
    assert read.snapshot() == await repository.get(session_id, user_id=1) == claim.session
    assert [entry.to_status for entry in read.history] == ["waiting_user_reply", "rerunning"]
    found = await ActiveScheduleSession.find({"user_id": 1}).to_list()
    assert [each.snapshot() for each in found] == [claim.session]
    with pytest.raises(WritesRefused):
        await read.set({"status": "applied"})
    with pytest.raises(WritesRefused):
        await ActiveScheduleSession.find({"user_id": 1}).update({"$set": {"status": "applied"}})
    assert await repository.get(session_id, user_id=1) == claim.session
