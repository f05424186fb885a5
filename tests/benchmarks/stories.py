"""One session's life, step by step: the calls that an application makes from a trigger to a confirmation."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from sessions import RerunClaim, SessionRepository
from sessions.domain.models import derive_session_id

USER: Final = 700_001
QUESTION: Final = "Which of these days suits you for the lesson?"


def _new_id() -> str:
    return uuid4().hex


@dataclass(slots=True)
class Story:
    """The ids of one session, and the claim of whoever works on it."""

    trigger_id: str = field(default_factory=_new_id)
    conversation_id: str = field(default_factory=_new_id)
    reply_id: str = field(default_factory=_new_id)
    preview_id: str = field(default_factory=_new_id)
    operation_ids: tuple[str, ...] = field(default_factory=lambda: tuple(_new_id() for _ in STEPS))
    claim: RerunClaim | None = None

    @property
    def session_id(self) -> str:
        """As the library derives it."""
        return derive_session_id(USER, self.trigger_id)

    @property
    def ids(self) -> tuple[str, ...]:
        """All of them, in one order."""
        own = (self.session_id, self.trigger_id, self.conversation_id, self.reply_id, self.preview_id)
        return own + self.operation_ids

    def names_for(self, other: "Story") -> Mapping[str, str]:
        """Each id of this story to the one of another."""
        return dict(zip(self.ids, other.ids, strict=True))


async def create(repository: SessionRepository, story: Story) -> None:
    """A trigger's session asks its question."""
    await repository.create(
        USER,
        story.trigger_id,
        conversation_id=story.conversation_id,
        pending_question=QUESTION,
        operation_id=story.operation_ids[0],
    )


async def claim(repository: SessionRepository, story: Story) -> None:
    """A message is the answer."""
    story.claim = await repository.claim_rerun(
        story.session_id, user_id=USER, reply_id=story.reply_id, operation_id=story.operation_ids[1]
    )


async def outcome(repository: SessionRepository, story: Story) -> None:
    """The graph has made a preview of it."""
    if story.claim is None:
        raise LookupError("the story has no claim")
    await repository.present_preview(story.claim, preview_id=story.preview_id, operation_id=story.operation_ids[2])


async def apply(repository: SessionRepository, story: Story) -> None:
    """The user confirms it."""
    await repository.apply(
        story.session_id, user_id=USER, preview_id=story.preview_id, operation_id=story.operation_ids[3]
    )


async def whole(repository: SessionRepository, story: Story) -> None:
    """From the trigger to the confirmation."""
    for step in STEPS.values():
        await step(repository, story)


Step = Callable[[SessionRepository, Story], Awaitable[None]]
STEPS: Final[Mapping[str, Step]] = {"create": create, "claim": claim, "outcome": outcome, "apply": apply}
