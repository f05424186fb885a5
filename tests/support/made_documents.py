"""Beanie documents made on the spot, for cases that are data."""

from typing import Any, ClassVar

from beanie import Document


def document(
    collection: str, *indexes: Any, of: type[Document] = Document, name: str = "Made", **settings: Any
) -> type[Document]:
    """A document class with these entries in its ``Settings``."""
    entries = {"name": collection, "indexes": list(indexes), **settings}

    class Made(of):  # type: ignore[misc, valid-type]  # a base that is a value
        Settings: ClassVar[type] = type("Settings", (), entries)

    Made.__name__ = name
    return Made
