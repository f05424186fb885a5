"""The module that a public object says it is of: the one that users import it from."""

from collections.abc import Mapping
from types import FunctionType


def carry_module_name(namespace: Mapping[str, object]) -> None:
    """Let each class and function of a module's ``__all__`` carry that module's name.

    Tracebacks, pickles and documentation then do not depend on the layout of the package.

    Args:
        namespace: The module's ``globals()``; what the module defines itself carries its name anyway.
    """
    names = namespace["__all__"]
    for name in names if isinstance(names, list) else ():
        if isinstance(public := namespace.get(name), type | FunctionType):
            public.__module__ = str(namespace["__name__"])
