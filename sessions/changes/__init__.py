"""Changes as the server's stream tells them: one stream for any number of followers."""

from sessions.changes.watch import Change, Watch

__all__ = ["Change", "Watch"]
