"""The declared indexes on a live database: what is missing is created, what differs is told, nothing is dropped."""

from indexes.building import IndexOutcome, IndexReport, apply

__all__ = ["IndexOutcome", "IndexReport", "apply"]
