"""Whatever a public signature of `indexes` names can be imported from `indexes`, or from `sessions`."""

import ast
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, Final, ForwardRef, Literal, get_args, get_origin

import pytest

import indexes
import sessions

PACKAGES: Final = (indexes, sessions)
EXPORTED: Final[list[tuple[str, Any]]] = [
    (name, vars(package)[name]) for package in PACKAGES for name in package.__all__
]
# Aliases of what the drivers export, made for type checkers alone: there is no object to export.
OF_THE_DRIVERS: Final = frozenset({"Database"})
Found = type | str
"""A class of ours, or the name of one that is imported for type checkers alone."""


def is_ours(module: str) -> bool:
    """Whether a module belongs to this project."""
    return module.partition(".")[0] in {package.__name__ for package in PACKAGES}


def imported_for_type_checkers() -> dict[str, str]:
    """The names that stand under ``if TYPE_CHECKING:`` anywhere in `indexes`, each with its module."""
    found: dict[str, str] = {}
    for path in Path(indexes.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                for imported in (inner for inner in node.body if isinstance(inner, ast.ImportFrom)):
                    found |= {name.asname or name.name: imported.module or "" for name in imported.names}
    return found


FOR_TYPE_CHECKERS: Final = imported_for_type_checkers()


def classes_in(annotation: object, namespace: dict[str, Any]) -> Iterator[Found]:
    """Each class of ours that an annotation names, however deep it stands in it."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        yield from classes_in_text(annotation, namespace)
    elif any(annotation is exported for _, exported in EXPORTED):
        return  # an alias too: it can be annotated with as it is
    elif isinstance(annotation, list | tuple):  # the arguments of a callable
        for part in annotation:
            yield from classes_in(part, namespace)
    elif (origin := get_origin(annotation)) is not None:
        yield from classes_in(origin, namespace)
        arguments = get_args(annotation)
        if origin is not Literal:
            yield from classes_in(arguments[:1] if hasattr(annotation, "__metadata__") else arguments, namespace)
    elif isinstance(annotation, type) and is_ours(annotation.__module__):
        yield annotation


def classes_in_text(annotation: str, namespace: dict[str, Any]) -> Iterator[Found]:
    """The same of an annotation that is written as a string: by the names that stand in it."""
    for node in ast.walk(ast.parse(annotation, mode="eval")):
        if isinstance(node, ast.Name):
            if node.id in namespace:
                yield from classes_in(namespace[node.id], namespace)
            elif is_ours(FOR_TYPE_CHECKERS.get(node.id, "")):
                yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from classes_in_text(node.value, namespace)


def functions_of(kind: type) -> Iterator[FunctionType]:
    """What a class of ours lets its users call or read: methods, properties, and how it is made."""
    for name, member in vars(kind).items():
        if name.startswith("_") and not (name.startswith("__") and name.endswith("__")):
            continue
        for one in (
            (member.fget, member.fset)
            if isinstance(member, property)
            else (getattr(member, "func" if isinstance(member, cached_property) else "__func__", member),)
        ):
            if isinstance(one, FunctionType):
                yield one


def annotations_of(public: object) -> Iterator[tuple[str, object, dict[str, Any]]]:
    """Each annotation of a public object, with its place and the namespace of its names."""
    if isinstance(public, FunctionType):
        for name, annotation in public.__annotations__.items():
            yield f"{public.__qualname__}({name})", annotation, public.__globals__
    elif isinstance(public, type):
        for kind in (base for base in public.__mro__ if is_ours(base.__module__)):
            functions = list(functions_of(kind))
            namespace = {name: value for one in functions for name, value in one.__globals__.items()}
            for name, annotation in inspect.get_annotations(kind).items():
                if not name.startswith("_"):
                    yield f"{kind.__qualname__}.{name}", annotation, namespace
            for function in functions:
                yield from annotations_of(function)
    else:
        yield "an alias", get_args(public), {}


def unexported_in(public: object) -> dict[str, Found]:
    """The classes of ours that a public object's annotations name and that are not exported, by their place."""
    names = {name for name, _ in EXPORTED} | OF_THE_DRIVERS
    return {
        place: found
        for place, annotation, namespace in annotations_of(public)
        for found in classes_in(annotation, namespace)
        # What `classes_in` yields as a class is none of those that are exported.
        if not isinstance(found, str) or found not in names
    }


@pytest.mark.parametrize("name", indexes.__all__)
def test_what_a_public_signature_names_is_exported(name: str) -> None:
    """A user who annotates a variable with what a call returns would otherwise import from the inside."""
    assert unexported_in(vars(indexes)[name]) == {}


def test_what_is_exported_stands_in_order_and_once() -> None:
    """The list is read by people, and compared with the documentation."""
    assert indexes.__all__ == sorted(set(indexes.__all__))
    assert all(name in vars(indexes) for name in indexes.__all__)


# --- the walk itself: a hole in it would let everything pass ---------------------------------------------------


class Hidden:
    """A class that nobody exports."""


Hidden.__module__ = "indexes.inside"


def _takes_plain(given: Hidden) -> None: ...
def _takes_text(given: "list[Hidden]") -> None: ...
def _takes_optional(given: Hidden | None) -> None: ...
def _takes_annotated(given: Annotated[Hidden, "of it"]) -> None: ...
def _takes_callable(given: Callable[[Hidden], None]) -> None: ...
def _takes_nested(given: "dict[str, tuple[type[Hidden], ...]]") -> None: ...
def _returns() -> Hidden: ...  # type: ignore[empty-body]


@dataclasses.dataclass
class WithField:
    """A field that names it."""

    field: "Hidden"


class WithProperty:
    """A property that returns it."""

    @property
    def hidden(self) -> Hidden:
        """It."""
        return Hidden()


class WithMethods:
    """Methods that take it."""

    @classmethod
    def made_of(cls, given: Hidden) -> None:
        """It."""


for _kind in (WithField, WithProperty, WithMethods):
    _kind.__module__ = "indexes.inside"


@pytest.mark.parametrize(
    "public",
    [
        *(_takes_plain, _takes_text, _takes_optional, _takes_annotated, _takes_callable, _takes_nested, _returns),
        *(WithField, WithProperty, WithMethods, Callable[[Hidden], None]),
    ],
    ids=lambda public: getattr(public, "__qualname__", "alias"),
)
def test_a_class_that_is_not_exported_is_found(public: object) -> None:
    """In whatever form it is named."""
    assert Hidden in unexported_in(public).values()


def test_a_name_for_type_checkers_alone_is_found() -> None:
    """It can't be resolved while the program runs, so that its name has to do."""
    assert FOR_TYPE_CHECKERS["Document"] == "beanie"
    assert is_ours(FOR_TYPE_CHECKERS["Database"])
    assert list(classes_in_text("type[Database] | Document", {})) == ["Database"]
