"""
The options of a trigger, its fifth item: where an object has its reference, amount and so on.

Most options are an attribute path, such as ``"customer.user"``, or a callable that gets the object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from keyword import iskeyword
from typing import Any, NamedTuple, TypeGuard, cast

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ObjectDoesNotExist
from django.db.models import Field, ForeignKey, Model, UUIDField
from django.db.models.fields.related_descriptors import ReverseManyToOneDescriptor
from django.db.models.manager import BaseManager
from django.utils.module_loading import import_string

#: The receivers of ``affiliations.triggers`` that count, and those that decide or adjust what was
#: counted.
COUNTING = ("object_created", "object_saved")
ADJUSTING = ("adjust_conversions",)
DECIDING = ("approve_conversions", "reject_conversions", *ADJUSTING)

PathOrCallable = str | Callable[[Any], Any]

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def value_of(instance: object, option: PathOrCallable) -> Any:
    """Return the value of an option; ``None`` if a path meets ``None`` or a missing row."""
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


def _mistake(sender: object, path: str) -> str | None:
    """Return why a path leads to no value. Only its steps from model to model can be checked."""
    for name in path.split("."):
        if not is_model(sender):
            return None
        if not hasattr(sender, name):
            return f"{sender._meta.label} has no attribute {name!r}. Name one that it has"
        found = getattr(sender, name)
        if callable(found) or isinstance(found, ReverseManyToOneDescriptor | BaseManager):
            kind = "a method" if callable(found) else "many rows"
            return f"{name!r} of {sender._meta.label} is {kind}. Name a value"
        try:
            field = sender._meta.get_field(name)
        except FieldDoesNotExist:
            return None
        leads_to_one = field.name == name and (field.many_to_one or field.one_to_one)
        sender = field.related_model if leads_to_one else None
    return None


def end_of_path(model: type[Model] | None, path: str) -> Field[Any, Any] | None:
    """Return the field whose value a path over models leads to; ``None`` if it cannot be told."""
    field = None
    for name in path.split("."):
        if model is None:
            return None
        try:
            field = model._meta.get_field(model._meta.pk.name if name == "pk" else name)
        except FieldDoesNotExist:
            return None
        leads_to_one = field.name == name and (field.many_to_one or field.one_to_one)
        model = field.related_model if leads_to_one else None
    if model is not None or not isinstance(field, Field):
        return None  # The object itself.
    while isinstance(field, ForeignKey):
        field = field.target_field
    return field


def are_one_by_path(one: type[Model], other: type[Model], path: str) -> bool:
    """Tell whether objects of two models with equal values at a path are certainly the same."""
    ends = end_of_path(one, path), end_of_path(other, path)
    if None in ends:
        return key_owner(one) is key_owner(other)
    return ends[0] == ends[1] or all(isinstance(end, UUIDField) for end in ends)


def is_model(sender: object) -> TypeGuard[type[Model]]:
    return isinstance(sender, type) and issubclass(sender, Model)


def model_of(sender: object) -> type[Model] | None:
    """Return the model that an entry of the settings has as its sender, if it is one."""
    found = sender
    if isinstance(sender, str):
        found = None
        if sender.count(".") == 1:
            with suppress(LookupError):  # It may be an object in a module.
                found = apps.get_model(sender)
        found = found or import_string(sender)
    return found if is_model(found) else None


def key_owner(model: type[Model]) -> type[Model]:
    """Return the model whose primary key a proxy or a multi-table child shares, or itself."""
    model = cast("type[Model]", model._meta.concrete_model)
    link = model._meta.pk.remote_field
    return key_owner(link.model) if link is not None and link.parent_link else model


def default_reference(instance: object, senders: Sequence[object]) -> str:
    """
    Return the default reference of an object, ``shop.order:17``, for a trigger with these senders.

    The label is that of the sender, not of the object's own class: an order and its multi-table
    child or proxy are one order.
    """
    if not isinstance(instance, Model) or instance.pk is None:
        return ""
    model, owner = type(instance), key_owner(type(instance))
    models = [found for sender in senders if (found := model_of(sender)) is not None]
    related = [one for one in reversed(model.__mro__) if one in models]
    related += [one for one in models if key_owner(one) is owner]
    sender = (related or [owner])[0]
    # A child may have a key of its own beside that of its parent.
    name = "pk" if key_owner(sender) is owner else sender._meta.pk.attname
    return f"{sender._meta.label_lower}:{getattr(instance, name)}"


def wrong_options(options: object, receiver: str, sender: object) -> Iterator[str]:
    """
    Yield the mistakes in a fifth item; paths are looked up on a sender that is a model.

    ``receiver`` is the name of a receiver of this app, or empty for one of the host's own. The
    host's may do what any of ours does: decide if there is the option ``of``, otherwise count.
    """
    if not isinstance(options, Mapping):
        yield f"{options!r} must be a dict"
        return
    if "instance" in options:
        sender = None  # The object need not be one of the sender's.
    receivers = {receiver} if receiver else set(DECIDING if "of" in options else COUNTING)
    used = [key for key, option in OPTIONS.items() if receivers & set(option.receivers)]
    for key in used:
        if receiver and OPTIONS[key].missing and key not in options:
            yield f"{key!r} is missing: {OPTIONS[key].missing}"
    for key, value in options.items():
        if key not in OPTIONS:
            close = get_close_matches(str(key), OPTIONS, n=1)
            meant = f". Did you mean {close[0]!r}?" if close else ""
            yield f"{key!r} is unknown; write one of {', '.join(OPTIONS)}{meant}"
        elif key not in used:
            yield f"{key!r} has no effect here; this receiver uses only {', '.join(used)}"
        elif (mistake := OPTIONS[key].mistake(value, sender)) is not None:
            yield f"{key!r}: {mistake}"


def _keyword_mistake(value: object, sender: object) -> str | None:
    if isinstance(value, str) and value.isidentifier() and not iskeyword(value):
        return None
    return f"{value!r} is not the name of an argument that the signal is sent with, such as 'order'"


def _name_mistake(value: object, sender: object) -> str | None:
    return None if isinstance(value, str) else f"{value!r} is not the name of a trigger"


def _flag_mistake(value: object, sender: object) -> str | None:
    return None if isinstance(value, bool) else f"{value!r} is not True or False"


def _path_mistake(value: object, sender: object) -> str | None:
    if not isinstance(value, str):
        return None if callable(value) else f"{value!r} must be an attribute path or a callable"
    if not _PATH.fullmatch(value):
        return f"{value!r} is not an attribute path such as 'customer.user'"
    mistake = _mistake(sender, value)
    return mistake and f"{mistake}, or give a callable, which gets the instance"


class Option(NamedTuple):
    """
    One key of a fifth item.

    Attributes:
        receivers: The receivers that use it.
        mistake: Returns what is wrong with a value for a sender, or ``None``.
        missing: What to write, if the option is required.
    """

    receivers: tuple[str, ...]
    mistake: Callable[[object, object], str | None]
    missing: str = ""


#: Every key that a fifth item may have.
OPTIONS: Mapping[str, Option] = {
    "instance": Option(COUNTING + DECIDING, _keyword_mistake),
    "visitor": Option(COUNTING, _path_mistake),
    "user": Option(COUNTING, _path_mistake),
    "code": Option(COUNTING, _path_mistake),
    "reference": Option(COUNTING + DECIDING, _path_mistake),
    "amount": Option(COUNTING, _path_mistake),
    "currency": Option(COUNTING + ADJUSTING, _path_mistake),
    "new_amount": Option(
        ADJUSTING, _path_mistake, "where the object has the amount of the order as it is now"
    ),
    "of": Option(DECIDING, _name_mistake, "the name of the trigger whose conversions are decided"),
    "may_be_paid": Option(("reject_conversions",), _flag_mistake),
}
