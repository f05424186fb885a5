"""Routes answered from memory while nothing has changed."""

from sessions.cache.cached_router import CachedRouter, CacheStats

__all__ = ["CacheStats", "CachedRouter"]
