"""The repository: who governs a conversation, and atomic changes of status."""

from sessions.repository.session_repository import Opening, SessionRepository, open_repository

__all__ = ["Opening", "SessionRepository", "open_repository"]
