"""Lazy exports of a subpackage, whose modules are imported when a name is used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    Return the ``__getattr__`` and the ``__dir__`` of a package (PEP 562).

    Django imports a package before its models can be imported. And importing one function of a
    package must not load the modules that only other functions need.

    Args:
        package: The ``__name__`` of the package.
        names: The exported names by the submodule that defines them. No exported name may equal
            the name of a submodule.
    """
    modules = {name: f"{package}.{module}" for module in names for name in names[module]}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, list_names
