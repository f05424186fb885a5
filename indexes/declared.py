"""What Beanie documents declare: their collections and indexes, read from the classes without a database."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Final, TypeGuard

import bson
from beanie import Document
from bson.errors import BSONError
from pymongo import IndexModel

from indexes.errors import BadDocument
from indexes.refusals import foreseen
from sessions.store.index_definitions import keys_of, signature

_OF_A_TIME_SERIES: Final = (
    "it is declared as a time series, whose indexes this tool does not build: leave them to Beanie's init_beanie, "
    "which makes the collection too"
)


@dataclass(frozen=True, slots=True)
class Declared:
    """The indexes that one collection should hold, by their names.

    Attributes:
        collection: The collection's name.
        indexes: What the documents declare for it.
        refused: Indexes that are left as they are, each with the reason.
        siblings: The indexes of other documents of the same collection, each with its document's name.
        unfit: Why the collection can't be served at all; None if it can.
    """

    collection: str
    indexes: Mapping[str, Mapping[str, Any]]
    refused: Mapping[str, str] = field(default_factory=dict)
    siblings: Mapping[str, str] = field(default_factory=dict)
    unfit: str | None = None

    def without(self, index: str, reason: str) -> "Declared":
        """The same, but this index is left as it is."""
        return replace(self, refused={**self.refused, index: reason})


def load(path: str) -> type[Document]:
    """The document class of ``package.module:Class``.

    Raises:
        BadDocument: No such module or class exists, or it is no Beanie document.
    """
    module, separator, name = path.partition(":")
    if not separator or not module or not name or module.startswith("."):
        raise BadDocument("name a document as package.module:Class")
    try:
        found: object = import_module(module)
    except (Exception, SystemExit) as error:  # a module that is imported may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        advice = "; is it on the path?" if isinstance(error, ModuleNotFoundError) else ""
        raise BadDocument(f"module {module} cannot be imported ({said}){advice}") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not _is_document(found):
        raise BadDocument(f"{path} is no Beanie document: name a subclass of beanie.Document")
    return found


def _is_document(found: object) -> TypeGuard[type[Document]]:
    return isinstance(found, type) and issubclass(found, Document) and found is not Document


def _lineage(document: type[Document]) -> list[type[Document]]:
    return [kind for kind in document.__mro__ if issubclass(kind, Document) and kind is not Document]


def _setting(document: type[Document], name: str) -> Any:
    return getattr(getattr(document, "Settings", None), name, None)


def collection_of(document: type[Document]) -> str:
    """The collection that Beanie would use for a document."""
    roots = [kind for kind in _lineage(document) if _setting(kind, "is_root")]
    owner = roots[-1] if roots else document
    union = _setting(owner, "union_doc")
    if union is not None:
        return str(getattr(getattr(union, "Settings", None), "name", None) or union.__name__)
    return str(_setting(owner, "name") or owner.__name__)


def _from_fields(document: type[Document]) -> Iterator[IndexModel]:
    for name, found in document.model_fields.items():
        for mark in (found.annotation, *found.metadata):
            if (indexed := getattr(mark, "_indexed", None)) is not None:
                direction, options = indexed
                yield IndexModel([(found.alias or name, direction)], **options)


def _fields_of(index: IndexModel) -> frozenset[str]:
    return frozenset(index.document["key"])


def _from_settings(document: type[Document]) -> list[IndexModel]:
    """The indexes of ``Settings``; with ``merge_indexes`` those of its parents too.

    As in Beanie, what a class declares replaces what its parents declare on the same fields, in whatever order and
    direction. Within one class all count: Beanie would keep only the last one of equal fields, but two of them that
    differ in their filters are two indexes.
    """
    merged: list[IndexModel] = []
    for kind in reversed(_lineage(document)) if _setting(document, "merge_indexes") else (document,):
        entries = _setting(kind, "indexes") or ()
        own = [entry if isinstance(entry, IndexModel) else IndexModel(entry) for entry in entries]
        replaced = {_fields_of(index) for index in own}
        merged = [*(index for index in merged if _fields_of(index) not in replaced), *own]
    return merged


def _field_if_plain(definition: Mapping[str, Any]) -> object:
    """The field of an index that is up or down on one field; other kinds of index replace no mark."""
    (name, way), *more = keys_of(definition)
    return name if not more and isinstance(way, int | float) else None


def _indexes_of(document: type[Document]) -> list[Mapping[str, Any]]:
    try:
        settled = [index.document for index in _from_settings(document)]
        marked = [index.document for index in _from_fields(document)]
    except (TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise BadDocument(f"{document.__name__} declares an index that PyMongo refuses: {said}") from error
    # As in Beanie, a plain index in Settings replaces the mark at its field.
    taken = {_field_if_plain(definition) for definition in settled} - {None}
    return [*settled, *(definition for definition in marked if _field_if_plain(definition) not in taken)]


def declared_by(documents: Sequence[type[Document]]) -> tuple[Declared, ...]:
    """What the collections of some documents should hold, one entry for each collection.

    Raises:
        BadDocument: This is no list of documents, two indexes have one name, one definition has two names, or a
            definition cannot be sent.
    """
    given: object = documents
    if not isinstance(given, Collection) or not all(_is_document(one) for one in given):
        raise BadDocument("documents must be a list of subclasses of beanie.Document")
    found: dict[str, Declared] = {}
    for document in documents:
        collection = collection_of(document)
        one = found.setdefault(collection, Declared(collection, {}))
        held = dict(one.indexes)
        for definition in _indexes_of(document):
            name = str(definition["name"])
            _refuse_unsendable(document, definition)
            if not is_index_of_ids(definition):
                if held.get(name, definition) != definition:
                    raise BadDocument(
                        f"two different indexes of {collection} are declared under the name {name}: give each its own"
                    )
                held[name] = definition
        unfit = _OF_A_TIME_SERIES if _setting(document, "timeseries") else one.unfit
        found[collection] = replace(one, indexes=held, unfit=unfit)
    return tuple(_judged(one, documents) for one in found.values())


def _judged(declared: Declared, documents: Sequence[type[Document]]) -> Declared:
    refused = {name: reason for name, one in declared.indexes.items() if (reason := foreseen(one)) is not None}
    _refuse_twins(declared.collection, (one for name, one in declared.indexes.items() if name not in refused))
    return replace(declared, refused=refused, siblings=_declared_beside(declared, documents))


def _refuse_unsendable(document: type[Document], definition: Mapping[str, Any]) -> None:
    try:
        bson.encode(definition)
    except (BSONError, OverflowError, RecursionError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise BadDocument(
            f"{document.__name__}: index {definition['name']!r} of {collection_of(document)} has a value that BSON "
            f"cannot encode: {said!r}"
        ) from error


def _loaded(of: type[Document] = Document) -> Iterator[type[Document]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _loaded(kind)


def _declared_beside(declared: Declared, documents: Sequence[type[Document]]) -> dict[str, str]:
    """What documents that were not given declare for the same collection, as far as they are loaded."""
    found: dict[str, str] = {}
    for kind in _loaded():
        if kind not in documents and collection_of(kind) == declared.collection:
            with suppress(BadDocument):  # of a document that nobody asked for
                found.update((str(one["name"]), kind.__name__) for one in _indexes_of(kind))
    return {name: owner for name, owner in found.items() if name not in declared.indexes}


def is_index_of_ids(definition: Mapping[str, Any]) -> bool:
    """Whether it is the one on ``_id``, which every collection has."""
    return keys_of(definition) == [("_id", 1)]


def _refuse_twins(collection: str, definitions: Iterable[Mapping[str, Any]]) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for definition in definitions:
        other = seen.setdefault(signature(definition), definition["name"])
        if other != definition["name"]:
            raise BadDocument(
                f"{collection} declares one index under two names, {other} and {definition['name']}: drop one of them"
            )
