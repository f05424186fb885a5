"""The repository: who governs a conversation, and atomic changes of status."""

from sessions.repository.opening import SessionRepository, open_repository

__all__ = ["SessionRepository", "open_repository"]
