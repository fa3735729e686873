"""
The fifth item of a trigger: where an object keeps what the conversion should know of it.

Each option is an attribute path, such as ``"customer.user"``, or a callable of the object. What
could never be found is told when the triggers are wired.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

from django.core.exceptions import FieldDoesNotExist, ObjectDoesNotExist
from django.db.models import Model
from django.db.models.fields.related_descriptors import ReverseManyToOneDescriptor
from django.db.models.manager import BaseManager

#: The keys of a trigger's fifth item: what they say of an instance, and of which trigger's
#: conversions a receiver that decides is.
OPTIONS = ("visitor", "user", "reference", "amount", "currency", "of")

#: What a trigger's fifth item says of an instance: an attribute path, or a callable of it.
Option = str | Callable[[Any], Any]

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def value_of(instance: object, option: Option) -> Any:
    """Return what an option of a trigger says of ``instance``; ``None`` where a path breaks off."""
    if callable(option):
        return option(instance)
    found: Any = instance
    for name in option.split("."):
        try:
            found = getattr(found, name)
        except ObjectDoesNotExist:
            return None
        if found is None:
            return None
    return found


def wrong_options(options: object, sender: object) -> Iterator[str]:
    """Say what is wrong with a fifth item, looking paths up on the sender where it is a model."""
    if not isinstance(options, Mapping):
        yield f"{options!r} must be a dict"
        return
    for key, path in options.items():
        if key not in OPTIONS:
            yield f"there is no {key!r}; there are {', '.join(OPTIONS)}"
        elif key == "of":
            if not isinstance(path, str):
                yield f"'of': {path!r} is not the name of a trigger"
        elif isinstance(path, str):
            if not _PATH.fullmatch(path):
                yield f"{key!r}: {path!r} is no attribute path such as 'customer.user'"
            elif (mistake := _mistake(sender, path)) is not None:
                yield f"{key!r}: {mistake}, or give a callable, which gets the instance"
        elif not callable(path):
            yield f"{key!r}: {path!r} must be an attribute path or a callable"


def _mistake(sender: object, path: str) -> str | None:
    """Say where a path leads to no value, as far as models and their relations tell."""
    for name in path.split("."):
        if not is_model(sender):
            return None
        if not hasattr(sender, name):
            return f"{sender._meta.label} has no attribute {name!r}. Name one that it has"
        found = getattr(sender, name)
        if callable(found) or isinstance(found, ReverseManyToOneDescriptor | BaseManager):
            what = "a method" if callable(found) else "many rows"
            return f"{name!r} of {sender._meta.label} is {what}. Name a value"
        try:
            field = sender._meta.get_field(name)
        except FieldDoesNotExist:
            return None
        leads_to_one = field.name == name and (field.many_to_one or field.one_to_one)
        sender = field.related_model if leads_to_one else None
    return None


def is_model(sender: object) -> TypeGuard[type[Model]]:
    return isinstance(sender, type) and issubclass(sender, Model)
