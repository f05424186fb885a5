"""The fields of a stored session by their paths, and how a document is read at once if it has nothing but these.

What is null, missing or damaged is no concern of this module: `reading` sees to it, field by field.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from types import NoneType
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, SchemaValidator, core_schema

from sessions.domain.limits import IDENTIFIERS, IdentifierLimit, TextsLimit
from sessions.domain.models import ActiveScheduleSessionSnapshot

ID: Final = "_id"
STATE: Final = "state"
LEASE: Final = "lease"
HISTORY: Final = "history"
KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    # What BSON can hold in each field, by its path; pydantic would make the one of the other.
    **dict.fromkeys((ID, "conversation_id", "trigger_id", "current_preview_id", "status"), str),
    **dict.fromkeys(("user_id", "question_number", "fencing_token", "attempts", "replacements", "revision"), int),
    **dict.fromkeys(("answered_reply_ids", "replaced_reply_ids", HISTORY), (list, tuple)),
    **dict.fromkeys(("created_at", "updated_at", "state.expires_at", "lease.expires_at"), datetime),
    **dict.fromkeys((STATE, LEASE), dict),
    **dict.fromkeys(("state.pending_question", "state.failed_reason"), str),
    **dict.fromkeys(("state.last_candidate_id", "state.last_notification_id"), str),
    "state.missing_info": (list, tuple),
    **dict.fromkeys(("lease.kind", "lease.operation_id", "lease.reply_id", "lease.traceparent"), str),
    "lease.attempt": int,
}
LONGEST: Final[Mapping[str, int]] = {
    ID: IDENTIFIERS["session_id"].longest,
    "conversation_id": IDENTIFIERS["conversation_id"].longest,
    "trigger_id": IDENTIFIERS["trigger_id"].longest,
    "current_preview_id": IDENTIFIERS["preview_id"].longest,
    "lease.operation_id": IDENTIFIERS["operation_id"].longest,
    "lease.reply_id": IDENTIFIERS["reply_id"].longest,
    "lease.traceparent": 64,
}
TEXTS_IN: Final = frozenset({"answered_reply_ids", "replaced_reply_ids", "state.missing_info"})

# What `str.strip` takes for white space: the regular expressions' own class, and four separators.
_SPACE: Final = r"\s\x1c-\x1f"
_TRIMMED: Final = rf"^(?:[^{_SPACE}\x00](?:[^\x00]*[^{_SPACE}\x00])?)?$"
NULLABLE: Final = ("conversation_id", "current_preview_id")
"""Fields that the repository itself stores as null; a null in any other was written by others."""


def _meaning_of(field: FieldInfo) -> tuple[Any, list[Any]]:
    """What a model's field holds if it is not None, and the checks that the model makes of it."""
    kind, notes = field.annotation, list(field.metadata)
    alternatives = [each for each in get_args(kind) if each is not NoneType]
    if NoneType in get_args(kind) and len(alternatives) == 1:
        kind = alternatives[0]
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        notes += more
    return kind, [note.func for note in notes if isinstance(note, AfterValidator)]


def _checked_schema(check: Any) -> CoreSchema:
    """What a check by one of the limits lets pass unchanged, without a call of Python's for it."""
    limit = check.__self__
    if isinstance(limit, TextsLimit):
        texts = core_schema.tuple_variable_schema(core_schema.str_schema(strict=True))
        return core_schema.no_info_after_validator_function(
            check, core_schema.chain_schema([core_schema.is_instance_schema(list), texts])
        )
    least = 1 if isinstance(limit, IdentifierLimit) else None
    return core_schema.str_schema(strict=True, min_length=least, max_length=limit.longest, pattern=_TRIMMED)


def _schema_of(path: str, field: FieldInfo) -> CoreSchema:
    kind, checks = _meaning_of(field)
    stored_as = KINDS[path]
    if stored_as is dict:
        return _model_schema(kind, f"{path}.")
    if stored_as is int:
        return core_schema.int_schema(strict=True)
    if stored_as is datetime:
        return core_schema.datetime_schema(strict=True)  # `read_whole` looks at what a moment has to be besides
    if checks:
        return _checked_schema(*checks)
    text = core_schema.str_schema(strict=True, max_length=LONGEST.get(path))
    if stored_as is not str:
        return core_schema.chain_schema([core_schema.is_instance_schema(list), core_schema.tuple_variable_schema(text)])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return core_schema.chain_schema([text, core_schema.enum_schema(kind, list(kind), sub_type="str")])
    return text


def _model_schema(model: type[BaseModel], prefix: str = "") -> CoreSchema:
    fields = {}
    for name, field in model.model_fields.items():
        path = ID if name == "session_id" else prefix + name
        schema = _schema_of(path, field)
        if path in NULLABLE:
            schema = core_schema.nullable_schema(schema)
        if not field.is_required():
            schema = core_schema.with_default_schema(schema, default=field.default)
        fields[name] = core_schema.model_field(schema, validation_alias=ID if path == ID else None)
    # For a model itself pydantic-core would take the model's own validator in place of this schema.
    blank = type(model.__name__, (), {"__new__": lambda _: object.__new__(model)})
    return core_schema.model_schema(blank, core_schema.model_fields_schema(fields))


_validated: Final = SchemaValidator(_model_schema(ActiveScheduleSessionSnapshot)).validate_python


def _is_cut(moment: datetime) -> bool:
    return moment.tzinfo is UTC and moment.microsecond % 1000 == 0


def read_whole(raw: Mapping[str, Any]) -> ActiveScheduleSessionSnapshot | None:
    """A document of which each field is as the repository writes it; None of any other, damaged or not."""
    history = raw.get(HISTORY)
    if history is not None and type(history) is not list:
        return None
    try:
        session: ActiveScheduleSessionSnapshot = _validated(raw)
    except ValidationError:
        return None
    lease, ends = session.lease, session.state.expires_at
    if not (_is_cut(session.created_at) and _is_cut(session.updated_at)):
        return None
    if (ends is not None and not _is_cut(ends)) or (lease is not None and not _is_cut(lease.expires_at)):
        return None
    return session
