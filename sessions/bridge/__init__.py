"""What an application calls: every race between its users, workers and processes ends here as one outcome."""

from sessions.bridge.session_bridge import SessionBridge
from sessions.bridge.upkeep import Upkeep

__all__ = ["SessionBridge", "Upkeep"]
