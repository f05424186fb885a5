"""Which names of ours the public signatures of a module name, read from the source."""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

OURS: Final = ("sessions", "indexes")
MADE_BY_A_CALL: Final = frozenset({"SessionRepository", "Opening", "Watch"})
"""Classes that nobody constructs: `open_repository` and ``watch`` do."""


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text(encoding="utf-8"))


def _modules() -> dict[str, ModuleType]:
    """Our modules by their file."""
    loaded = [module for module in list(sys.modules.values()) if module.__name__.partition(".")[0] in OURS]
    return {module.__file__: module for module in loaded if module.__file__ is not None}


def _functions(thing: object) -> Iterator[FunctionType]:
    if isinstance(thing, FunctionType):
        yield thing
    if not isinstance(thing, type):
        return
    for name, member in inspect.getmembers(thing):
        is_public = not name.startswith("_") or (name == "__init__" and thing.__name__ not in MADE_BY_A_CALL)
        found = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if isinstance(found, FunctionType) and is_public:
            yield found


def _of_function(function: FunctionType) -> Iterator[ast.expr]:
    for node in ast.walk(_tree(function.__code__.co_filename)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        if (node.name, first) == (function.__name__, function.__code__.co_firstlineno):
            given = node.args
            every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
            told = [each.annotation for each in every if each is not None]
            yield from (annotation for annotation in (*told, node.returns) if annotation is not None)


def _of_fields(kind: type, file: str) -> Iterator[ast.expr]:
    """The annotations of a class's public fields."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and not ast.unparse(part.target).startswith("_"):
                    yield part.annotation


def _annotations(thing: object) -> Iterator[tuple[str, ast.expr]]:
    """Each annotation of a public thing, with the file that it stands in."""
    modules = _modules()
    for function in _functions(thing):
        if (file := function.__code__.co_filename) in modules:
            yield from ((file, annotation) for annotation in _of_function(function))
    for kind in thing.__mro__ if isinstance(thing, type) else ():
        for file, module in modules.items():
            if vars(module).get(kind.__name__) is kind:
                yield from ((file, annotation) for annotation in _of_fields(kind, file))


def _names(annotation: ast.AST) -> Iterator[str]:
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        # What follows the type is how it is checked.
        yield from _names(next(ast.iter_child_nodes(annotation.slice)))
        return
    if isinstance(annotation, ast.Name):
        yield annotation.id
    elif isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        yield from _names(ast.parse(annotation.value, mode="eval"))
    for part in ast.iter_child_nodes(annotation):
        yield from _names(part)


@cache
def _ours(file: str) -> frozenset[str]:
    """What a file defines itself or imports from us."""
    found: set[str] = set()
    for node in _tree(file).body:
        match node:
            case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                found.add(name)
            case ast.Assign(targets):
                found |= {ast.unparse(target) for target in targets}
            case ast.AnnAssign(target):
                found.add(ast.unparse(target))
    for part in ast.walk(_tree(file)):
        if isinstance(part, ast.ImportFrom) and (part.module or "").partition(".")[0] in OURS:
            found |= {each.asname or each.name for each in part.names}
    return frozenset(found)


def _is_type_variable(name: str, file: str) -> bool:
    value: Any = vars(_modules()[file]).get(name)
    return type(value).__name__ == "TypeVar"


def named_by(module: ModuleType) -> set[str]:
    """The names of ours that the signatures and fields of a module's public things name."""
    return {
        name
        for public in module.__all__
        for file, annotation in _annotations(getattr(module, public))
        for name in _names(annotation)
        if name in _ours(file) and not _is_type_variable(name, file)
    }
