"""The repository: who governs a conversation, and atomic changes of status."""

from sessions.repository.session_repository import SessionRepository, open_repository

__all__ = ["SessionRepository", "open_repository"]
