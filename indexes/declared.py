"""What Beanie documents declare: their collections and indexes, read from the classes without a database."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeGuard

from beanie import Document
from pymongo import IndexModel

from indexes.errors import BadDocument
from sessions.store.index_definitions import keys_of, signature


@dataclass(frozen=True, slots=True)
class Declared:
    """The indexes that one collection should hold, by their names."""

    collection: str
    indexes: Mapping[str, Mapping[str, Any]]


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
    for name, field in document.model_fields.items():
        for mark in (field.annotation, *field.metadata):
            if (found := getattr(mark, "_indexed", None)) is not None:
                direction, options = found
                yield IndexModel([(field.alias or name, direction)], **options)


def _from_settings(document: type[Document]) -> Iterator[IndexModel]:
    merged = _setting(document, "merge_indexes")
    for kind in reversed(_lineage(document)) if merged else (document,):
        for entry in _setting(kind, "indexes") or ():
            yield entry if isinstance(entry, IndexModel) else IndexModel(entry)


def _indexes_of(document: type[Document]) -> list[Mapping[str, Any]]:
    try:
        settled = [index.document for index in _from_settings(document)]
        marked = [index.document for index in _from_fields(document)]
    except (TypeError, ValueError) as error:
        raise BadDocument(f"{document.__name__} declares an index that PyMongo refuses: {error}") from error
    # As in Beanie, an index in Settings replaces one with the same keys at a field. Those in Settings all count: two
    # with equal keys and different filters are two indexes.
    taken = [keys_of(definition) for definition in settled]
    return [*settled, *(definition for definition in marked if keys_of(definition) not in taken)]


def declared_by(documents: Sequence[type[Document]]) -> tuple[Declared, ...]:
    """What the collections of some documents should hold, one entry for each collection.

    Raises:
        BadDocument: This is no list of documents, or two indexes have one name, or one definition has two names.
    """
    given: object = documents
    if not isinstance(given, Collection) or not all(_is_document(one) for one in given):
        raise BadDocument("documents must be a list of subclasses of beanie.Document")
    by_collection: dict[str, dict[str, Mapping[str, Any]]] = {}
    for document in documents:
        held = by_collection.setdefault(collection_of(document), {})
        for definition in _indexes_of(document):
            name = str(definition["name"])
            if not is_index_of_ids(definition):
                if held.get(name, definition) != definition:
                    raise BadDocument(f"two different indexes are declared under the name {name}: give each its own")
                held[name] = definition
    for collection, held in by_collection.items():
        _refuse_twins(collection, held.values())
    return tuple(Declared(collection, held) for collection, held in by_collection.items())


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
