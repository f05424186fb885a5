"""A session as an application would declare it to ODMantic."""

from datetime import datetime

from odmantic import EmbeddedModel, Field, Model
from odmantic.config import ODMConfigDict

from sessions.store.document import COLLECTION


class OdmanticState(EmbeddedModel):
    """What it embeds."""

    pending_question: str = ""
    missing_info: list[str] = Field(default_factory=list)
    expires_at: datetime | None = None

    model_config = ODMConfigDict(parse_doc_with_default_factories=True)


class OdmanticTransition(EmbeddedModel):
    """An entry of its history."""

    to_status: str
    at: datetime
    reason: str = ""
    operation_id: str
    call: str


class OdmanticSession(Model):
    """The session."""

    session_id: str = Field(primary_field=True)
    user_id: int
    conversation_id: str | None = None
    trigger_id: str
    current_preview_id: str | None = None
    status: str
    state: OdmanticState
    question_number: int = 0
    fencing_token: int = 0
    attempts: int = 0
    answered_reply_ids: list[str]
    revision: int
    history: list[OdmanticTransition]
    created_at: datetime
    updated_at: datetime

    model_config = ODMConfigDict(collection=COLLECTION)
