"""
Connect the triggers of ``AFFILIATE_TRIGGERS`` to their signals.

A trigger that silently never fires costs a partner money. So a trigger that cannot fire stops the
start-up. One error lists all mistakes, with an example of a valid setting.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth import signals as auth_signals
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model
from django.db.models import signals as model_signals
from django.db.models.fields import AutoFieldMixin
from django.db.models.signals import ModelSignal, class_prepared, post_save
from django.dispatch import Signal
from django.utils.inspect import func_accepts_kwargs
from django.utils.module_loading import import_string

from affiliations.conf import Settings, settings, unknown_names
from affiliations.models import Subscription
from affiliations.options import (
    OPTIONS,
    are_one_by_path,
    end_of_path,
    is_model,
    key_owner,
    wrong_options,
)
from affiliations.triggers import own_receiver

_EXAMPLE = """
AFFILIATE_TRIGGERS = [
    (
        "User registered",  # the name that staff see
        "django.db.models.signals.post_save",  # the signal
        "affiliations.triggers.object_created",  # the receiver
        "{user}",  # the sender: "app.Model", a dotted path, an object, or None
        {{"reference": "pk"}},  # may be left out: paths of {options}
    ),
]"""


class Trigger(NamedTuple):
    """One entry of ``AFFILIATE_TRIGGERS``, with its dotted paths imported."""

    name: str
    signal: Signal
    receiver: Callable[..., Any]
    sender: object
    options: Mapping[str, Any]

    @property
    def dispatch_uid(self) -> tuple[str, str, int]:
        return ("affiliations", self.name, id(self.receiver))


_triggers: list[Trigger] = []
#: Each trigger with the senders that it is connected to.
_connected: list[tuple[Trigger, object]] = []


def connect() -> None:
    """
    Connect the triggers of the settings, in place of those that an earlier call connected.

    A trigger on a model also listens to the model's proxies and multi-table children, those defined
    later included.

    Raises:
        ImproperlyConfigured: If a trigger could not fire; it names every mistake. The earlier
            triggers then stay connected.
    """
    triggers = read()
    disconnect()
    _triggers.extend(triggers)
    models = apps.get_models(include_auto_created=True)
    for trigger in triggers:
        _connect(trigger, trigger.sender)
        for model in models:
            if model is not trigger.sender and _is_nearest(trigger, model):
                _connect(trigger, model)
    class_prepared.connect(_connect_model, dispatch_uid="affiliations")


def disconnect() -> None:
    class_prepared.disconnect(dispatch_uid="affiliations")
    _triggers.clear()
    while _connected:
        trigger, sender = _connected.pop()
        trigger.signal.disconnect(sender=sender, dispatch_uid=trigger.dispatch_uid)


def _connect(trigger: Trigger, sender: object) -> None:
    trigger.signal.connect(
        partial(trigger.receiver, affiliate_trigger_name=trigger.name),
        sender=sender,
        weak=False,  # There is no other reference to the partial.
        dispatch_uid=trigger.dispatch_uid,
    )
    _connected.append((trigger, sender))


def _connect_model(sender: type[Model], **kwargs: object) -> None:
    for trigger in _triggers:
        if _is_nearest(trigger, sender):
            _connect(trigger, sender)


def _is_nearest(trigger: Trigger, model: type[Model]) -> bool:
    """
    Tell whether a trigger listens to a model: the model itself or its nearest parent is the sender.

    Only entries with the same signal and receiver are compared: one that names a child takes the
    child away from its parent's entry.
    """
    senders = [
        other.sender
        for other in _triggers
        if other.signal is trigger.signal
        and other.receiver is trigger.receiver
        and is_model(other.sender)
    ]
    nearest = next((one for one in model.__mro__ if one in senders), None)
    return nearest is not None and nearest is trigger.sender


def read() -> list[Trigger]:
    """Read the triggers of the settings; raise ``ImproperlyConfigured`` with all their mistakes."""
    try:
        entries = settings.triggers
    except AttributeError:
        misspelt = [name for name, meant in unknown_names() if meant == Settings.triggers.name]
        found = f" Rename {misspelt[0]}, which is no setting." if misspelt else ""
        raise _misconfigured(f"AFFILIATE_TRIGGERS is missing.{found} Write, for example:") from None
    if not isinstance(entries, list | tuple) or any(isinstance(entry, str) for entry in entries):
        raise _misconfigured(
            f"AFFILIATE_TRIGGERS is {entries!r}, but must be a list with a tuple for each trigger. "
            "Write, for example:"
        )
    triggers: list[Trigger] = []
    mistakes: list[str] = []
    for number, entry in enumerate(entries, start=1):
        trigger, wrong = _read_entry(entry)
        if trigger is not None:
            wrong += _clashes(trigger, [*triggers, trigger])
            triggers.append(trigger)
        label = f"trigger {number}"
        if isinstance(entry, list | tuple) and entry:
            label += f" ({entry[0]!r})"
        mistakes += [f"{label}, {mistake}" for mistake in wrong]
    for trigger in triggers:
        if "of" in trigger.options:
            where = f"trigger {trigger.name!r}, item 5, the options:"
            mistakes += [f"{where} {mistake}" for mistake in _wrong_target(trigger, triggers)]
    if mistakes:
        listed = "\n".join(f"- {mistake}" for mistake in mistakes)
        raise _misconfigured(
            f"AFFILIATE_TRIGGERS has triggers that could not fire:\n{listed}\n"
            "Each is written like this:"
        )
    return triggers


def _misconfigured(message: str) -> ImproperlyConfigured:
    example = _EXAMPLE.format(user=django_settings.AUTH_USER_MODEL, options=", ".join(OPTIONS))
    return ImproperlyConfigured(f"{message}\n{example}")


def _read_entry(entry: object) -> tuple[Trigger | None, list[str]]:
    """Return the trigger of an entry, or ``None``, and its mistakes."""
    if not isinstance(entry, list | tuple) or len(entry) not in (4, 5):
        parts = "(name, signal, receiver, sender), and optionally the options"
        return None, [f"which is {entry!r}: it must be a tuple of {parts}"]
    mistakes: list[str] = []
    items: list[Any] = []
    readers = (_read_name, _read_signal, _read_receiver, _read_sender)
    for number, (reader, item) in enumerate(zip(readers, entry, strict=False), start=1):
        try:
            items.append(reader(item))
        except ValueError as mistake:
            mistakes.append(f"item {number}, {mistake}")
            items.append(None)
    _, signal, receiver, sender = items
    options = entry[4] if len(entry) == 5 else {}
    wrong = wrong_options(options, own_receiver(receiver), sender)
    mistakes += [f"item 5, the options: {mistake}" for mistake in wrong]
    if isinstance(signal, ModelSignal) and not (sender is None or is_model(sender)):
        mistakes.append(
            f"item 4, the sender: {sender!r} is not a model, and only models send that signal. "
            'Write "app.Model", or None for all models'
        )
    if own_receiver(receiver) == "object_created" and _never_says_created(signal):
        mistakes.append(
            "item 3, the receiver: object_created needs a signal that says whether the object was "
            'created, such as post_save. Write "affiliations.triggers.object_saved"'
        )
    return (None if mistakes else Trigger._make([*items, options])), mistakes


def _never_says_created(signal: object) -> bool:
    """Tell whether a signal is one of Django's that do not send ``created``."""
    known = [*vars(auth_signals).values(), *vars(model_signals).values()]
    return signal is not post_save and isinstance(signal, Signal) and signal in known


def _read_name(value: object) -> str:
    longest = Subscription._meta.get_field("trigger").max_length
    if not isinstance(value, str) or not value or value != value.strip():
        raise ValueError("the name: it must be text without spaces at its start or end")
    if longest is not None and len(value) > longest:
        raise ValueError(f"the name: it has {len(value)} characters; at most {longest} are allowed")
    return value


def _read_signal(value: object) -> Signal:
    signal = _imported(value, "the signal")
    if not isinstance(signal, Signal):
        raise ValueError(f"the signal: {value!r} is not a django.dispatch.Signal")
    return signal


def _read_receiver(value: object) -> Callable[..., Any]:
    receiver = _imported(value, "the receiver")
    if not callable(receiver):
        raise ValueError(f"the receiver: {value!r} cannot be called")
    if not func_accepts_kwargs(receiver):
        raise ValueError(f"the receiver: {value!r} must accept **kwargs, as all receivers must")
    return receiver


def _read_sender(value: object) -> object:
    sender = _imported(value, "the sender", models=True)
    if is_model(sender) and sender._meta.swapped:
        raise ValueError(
            f"the sender: {value!r} is swapped for {sender._meta.swapped!r}, which sends the "
            "signal in its place. Write that, or AUTH_USER_MODEL"
        )
    if is_model(sender) and sender._meta.abstract:
        raise ValueError(f"the sender: {value!r} is abstract and never saved. Name its subclass")
    return sender


def _imported(value: object, item: str, *, models: bool = False) -> object:
    """Import a dotted path; with ``models``, look for ``"app.Model"`` first."""
    if not isinstance(value, str):
        return value
    reasons: list[object] = []
    if models and value.count(".") == 1:
        try:
            return apps.get_model(value)
        except LookupError as error:  # It may be an object in a module.
            reasons.append(error)
    try:
        return import_string(value)
    except ImportError as error:
        reasons.append(error)
    except Exception as error:  # A module may raise anything when it is imported.
        reasons.append(f"{type(error).__name__}: {error}")
    why = "; ".join(str(reason).rstrip(".") for reason in reasons)
    place, _, name = value.rpartition(".")
    known = [model.__name__ for model in apps.get_models() if model._meta.app_label == place]
    if not (models and known):
        known = dir(sys.modules.get(place)) if place else []
    known = [f"{place}.{close}" for close in get_close_matches(name, known, n=1)]
    raise ValueError(f"{item}: cannot find {value!r} ({why}){_suggestion(known)}")


def _suggestion(close: list[str]) -> str:
    return f". Did you mean {close[0]!r}?" if close else ""


def _wrong_target(trigger: Trigger, triggers: list[Trigger]) -> Iterator[str]:
    """Yield why a deciding trigger would find no conversion, or the one of another object."""
    name = trigger.options["of"]
    counting = [other for other in triggers if "of" not in other.options]
    targets = [other for other in counting if other.name == name]
    if not targets:
        close = get_close_matches(name, {other.name for other in counting}, n=1)
        yield f"'of': there is no trigger {name!r} that counts{_suggestion(close)}"
        return
    counted, path = (one.options.get("reference") for one in (targets[0], trigger))
    if counted is not None and path is None:
        yield (
            f"'reference' is missing: {name!r} has one, and its conversions are found by it. Write "
            "the same here"
        )
        return
    senders = [target.sender for target in targets if is_model(target.sender)]
    if not (is_model(trigger.sender) and senders) or "instance" in trigger.options:
        return  # An object may be of any model.
    related = [one for one in senders if key_owner(one) is key_owner(trigger.sender)]
    if isinstance(counted, str) and isinstance(path, str):
        end, ends = end_of_path(trigger.sender, path), [end_of_path(m, counted) for m in senders]
        if end not in ends and all(isinstance(key, AutoFieldMixin) for key in (end, *ends)):
            yield (
                f"'reference': {path!r} of {trigger.sender._meta.label} is equal to {counted!r} of "
                f"{_labels(senders)} only by chance. Name the path to that"
            )
    if counted is not None or not all(own_receiver(target.receiver) for target in targets):
        return  # A receiver of the host's own may pass a reference.
    if isinstance(path, str) and related:
        yield (
            f"'reference': {name!r} has none, so its conversions are found by the label and key of "
            "the object. Leave it out here, or write the same there"
        )
    is_told = len(related) == 1 or issubclass(trigger.sender, tuple(senders))
    if path is None and isinstance(trigger.signal, ModelSignal) and not is_told:
        yield (
            f"'reference' is missing: the conversions of {name!r} are found by label and key of "
            f"{_labels(senders)}, which {trigger.sender._meta.label} is not. Write, for example, "
            f'lambda instance: f"{senders[0]._meta.label_lower}:{{instance.order_id}}"'
        )


def _labels(models: Iterable[type[Model]]) -> str:
    return " and ".join(model._meta.label for model in models)


def _clashes(trigger: Trigger, others: list[Trigger]) -> Iterator[str]:
    """Yield why a trigger could be confused with an earlier one."""
    for other in others:
        if trigger.name != other.name and _folded(trigger.name) == _folded(other.name):
            yield (
                f"item 1, the name: {other.name!r} is another trigger, and some databases take "
                "the two names for one. Give it a name that differs in more than case or accents"
            )
            return
        if trigger.name == other.name and trigger.options != other.options:
            yield (
                "item 5, the options: another trigger of this name has different ones. "
                "Give both the same, or another name"
            )
            return
        if trigger.name == other.name and (mistake := _equal_references(trigger, other.sender)):
            yield mistake
            return


def _equal_references(trigger: Trigger, other: object) -> str | None:
    """Return why an object of a trigger and one of another sender may have equal references."""
    path = trigger.options.get("reference")
    if not isinstance(path, str) or not {"of", "instance"}.isdisjoint(trigger.options):
        return None
    if trigger.sender is None and isinstance(trigger.signal, ModelSignal):
        models = "different models"
    elif (
        is_model(trigger.sender)
        and is_model(other)
        and not are_one_by_path(trigger.sender, other, path)
    ):
        models = _labels([other, trigger.sender])
    else:
        return None
    example = f'lambda instance: f"{{instance._meta.label_lower}}:{{instance.{path}}}"'
    return (
        f"item 5, the options: 'reference': {path!r} may be equal for objects of {models}, which "
        "would count as one. Leave it out, so that the label of the model is a part of the "
        f"reference, or write, for example, {example}"
    )


def _folded(name: str) -> str:
    """Remove case and accents, which collations ignore."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(character for character in plain if not unicodedata.combining(character))
