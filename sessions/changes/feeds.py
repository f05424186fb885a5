"""The feeds of one repository: however many follow, there are two streams at most."""

from sessions.changes.catch_up import CatchUp
from sessions.changes.feed import Feed
from sessions.changes.streams import Source


class Feeds:
    """The feed that all share, and the stream for those who come back on their way to it."""

    def __init__(self, source: Source, *, patience: float) -> None:
        self._source = source
        self._patience = patience
        self._shared: Feed | None = None
        self._catch_up = CatchUp(source, self.shared, patience=patience)
        self._is_closed = False

    def shared(self) -> Feed:
        """The feed of all who begin now."""
        self._refuse_if_closed()
        if self._shared is None or self._shared.has_ended:
            self._shared = Feed(self._source, patience=self._patience, before=self._shared)
        return self._shared

    def subscribe(self, resume_after: str | None) -> Feed | CatchUp:
        """The shared feed, or for one who comes back with a token the way to it."""
        self._refuse_if_closed()
        return self.shared() if resume_after is None else self._catch_up

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            message = "the repository is closed: open another one to follow changes"
            raise RuntimeError(message)

    async def close(self) -> None:
        """End all of it."""
        self._is_closed = True
        await self._catch_up.close()
        if self._shared is not None:
            await self._shared.close()
