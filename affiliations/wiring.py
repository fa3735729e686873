"""
Tie the triggers of ``AFFILIATE_TRIGGERS`` to their signals.

A trigger that silently never fires costs somebody money. So whatever would keep one from firing
stops the start-up, and all of it is told at once, with the lines to write.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import ModelSignal
from django.dispatch import Signal
from django.utils.inspect import func_accepts_kwargs
from django.utils.module_loading import import_string

from affiliations.conf import settings
from affiliations.models import Subscription
from affiliations.options import OPTIONS, is_model, wrong_options
from affiliations.triggers import (
    approve_conversions,
    object_created,
    object_saved,
    reject_conversions,
)

#: Ours that decide what another trigger has counted, and ours that count. A host's may do either.
_DECIDING = (approve_conversions, reject_conversions)
_COUNTING = (object_created, object_saved)
#: What a trigger that decides can be told; the rest was known when it was counted.
_DECIDING_OPTIONS = ("of", "reference")

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
    """One entry of ``AFFILIATE_TRIGGERS``, with what its dotted paths lead to."""

    name: str
    signal: Signal
    receiver: Callable[..., Any]
    sender: object
    options: Mapping[str, Any]

    @property
    def dispatch_uid(self) -> tuple[str, str, int]:
        """What the signal knows the connection by: the same trigger is not connected twice."""
        return ("affiliations", self.name, id(self.receiver))


class _Mistake(Exception):
    """One thing in the setting that would keep a trigger from firing."""


_connected: list[Trigger] = []


def connect() -> None:
    """
    Connect the triggers of the settings, in place of those that an earlier call connected.

    ``ImproperlyConfigured``, naming every mistake, where one of them could not fire; then nothing
    has changed.
    """
    triggers = read()
    disconnect()
    for trigger in triggers:
        trigger.signal.connect(
            partial(trigger.receiver, affiliate_trigger_name=trigger.name),
            sender=trigger.sender,
            weak=False,  # nobody else holds the partial
            dispatch_uid=trigger.dispatch_uid,
        )
        _connected.append(trigger)


def disconnect() -> None:
    """Disconnect the triggers that ``connect`` connected."""
    while _connected:
        trigger = _connected.pop()
        trigger.signal.disconnect(sender=trigger.sender, dispatch_uid=trigger.dispatch_uid)


def read() -> list[Trigger]:
    """Read the triggers of the settings; ``ImproperlyConfigured`` names every mistake in them."""
    try:
        entries = settings.triggers
    except AttributeError:
        raise _misconfigured("AFFILIATE_TRIGGERS is missing. Write, for example:") from None
    if not isinstance(entries, list | tuple) or any(isinstance(entry, str) for entry in entries):
        raise _misconfigured(
            f"AFFILIATE_TRIGGERS is {entries!r}, but must be a list with a tuple for each trigger. "
            "Write, for example:"
        )
    triggers: list[Trigger] = []
    mistakes: list[str] = []
    for number, entry in enumerate(entries, start=1):
        trigger, wrong = _read_entry(entry)
        label = f"trigger {number}"
        if isinstance(entry, list | tuple) and entry:
            label += f" ({entry[0]!r})"
        mistakes += [f"{label}, {mistake}" for mistake in wrong]
        if trigger is not None:
            mistakes += [f"{label}, {clash}" for clash in _clashes(trigger, triggers)]
            triggers.append(trigger)
    mistakes += _wrong_targets(triggers)
    if mistakes:
        listed = "\n".join(f"- {mistake}" for mistake in mistakes)
        raise _misconfigured(
            f"AFFILIATE_TRIGGERS has triggers that could not fire:\n{listed}\n"
            "Each is written like this:"
        )
    return triggers


def _misconfigured(what: str) -> ImproperlyConfigured:
    """Make the error that says ``what``, with lines below it that can be copied as they are."""
    example = _EXAMPLE.format(user=django_settings.AUTH_USER_MODEL, options=", ".join(OPTIONS))
    return ImproperlyConfigured(f"{what}\n{example}")


def _read_entry(entry: object) -> tuple[Trigger | None, list[str]]:
    """Return the trigger that an entry describes, ``None`` where it has mistakes, and these."""
    if not isinstance(entry, list | tuple) or len(entry) not in (4, 5):
        items_ = "(name, signal, receiver, sender), and options behind these if need be"
        return None, [f"which is {entry!r}: it must be a tuple of {items_}"]
    mistakes: list[str] = []
    items: list[Any] = []
    readers = (_read_name, _read_signal, _read_receiver, _read_sender)
    for number, (reader, item) in enumerate(zip(readers, entry, strict=False), start=1):
        try:
            items.append(reader(item))
        except _Mistake as mistake:
            mistakes.append(f"item {number}, {mistake}")
            items.append(None)
    options = entry[4] if len(entry) == 5 else {}
    wrong = [*wrong_options(options, items[3]), *_wrong_target(options, items[2])]
    mistakes += [f"item 5, the options: {what}" for what in wrong]
    if isinstance(items[1], ModelSignal) and not (items[3] is None or is_model(items[3])):
        mistakes.append(
            f"item 4, the sender: {items[3]!r} is no model, and nothing else sends that signal. "
            'Write "app.Model", or None for all models'
        )
    return (None if mistakes else Trigger._make([*items, options])), mistakes


def _read_name(value: object) -> str:
    longest = Subscription._meta.get_field("trigger").max_length
    if not isinstance(value, str) or not value or value != value.strip():
        raise _Mistake("the name: it must be text, with no blank before or behind it")
    if longest is not None and len(value) > longest:
        raise _Mistake(f"the name: it has {len(value)} characters; {longest} are kept")
    return value


def _read_signal(value: object) -> Signal:
    signal = _imported(value, "the signal")
    if not isinstance(signal, Signal):
        raise _Mistake(f"the signal: {value!r} is no django.dispatch.Signal")
    return signal


def _read_receiver(value: object) -> Callable[..., Any]:
    receiver = _imported(value, "the receiver")
    if not callable(receiver):
        raise _Mistake(f"the receiver: {value!r} cannot be called")
    if not func_accepts_kwargs(receiver):
        raise _Mistake(f"the receiver: {value!r} must accept **kwargs, as all receivers must")
    return receiver


def _read_sender(value: object) -> object:
    sender = _imported(value, "the sender", models=True)
    if is_model(sender):
        if sender._meta.swapped:
            raise _Mistake(
                f"the sender: {value!r} is swapped for {sender._meta.swapped!r}, which sends the "
                "signal in its place. Write that, or AUTH_USER_MODEL"
            )
        if sender._meta.abstract:
            raise _Mistake(f"the sender: {value!r} is abstract and never saved. Name its subclass")
    return sender


def _imported(value: object, what: str, *, models: bool = False) -> object:
    """Return what a text leads to, ``"app.Model"`` first where models may be meant."""
    if not isinstance(value, str):
        return value
    reasons: list[object] = []
    if models and value.count(".") == 1:
        try:
            return apps.get_model(value)
        except LookupError as error:  # may be a module with an object in it
            reasons.append(error)
    try:
        return import_string(value)
    except ImportError as error:
        reasons.append(error)
    except Exception as error:  # whatever a module may do when it is imported
        reasons.append(f"{type(error).__name__}: {error}")
    told = "; ".join(str(reason).rstrip(".") for reason in reasons)
    raise _Mistake(f"{what}: cannot find {value!r} ({told}){_meant(value, models=models)}")


def _meant(value: str, *, models: bool) -> str:
    """Ask whether something was meant that is spelt nearly like ``value``."""
    place, _, name = value.rpartition(".")
    known = [model.__name__ for model in apps.get_models() if model._meta.app_label == place]
    if not (models and known):
        known = dir(sys.modules.get(place))
    close = get_close_matches(name, known, n=1)
    return f". Did you mean '{place}.{close[0]}'?" if place and close else ""


def _wrong_target(options: object, receiver: object) -> Iterator[str]:
    """Say where a receiver that decides does not know of which trigger, or one that counts does."""
    if not isinstance(options, Mapping):
        return
    if "of" not in options:
        if receiver in _DECIDING:
            yield "'of' is missing: the name of the trigger whose conversions are decided"
        return
    if receiver in _COUNTING:
        yield "'of' is for receivers that decide, such as approve_conversions; this one counts"
        return
    for key in options:
        if key in OPTIONS and key not in _DECIDING_OPTIONS:
            yield f"{key!r} says nothing here: with 'of', something is decided that was counted"


def _wrong_targets(triggers: list[Trigger]) -> Iterator[str]:
    """Say which of the triggers that decide would find nothing to decide."""
    counting = {trigger.name: trigger for trigger in triggers if "of" not in trigger.options}
    for trigger in triggers:
        target = trigger.options.get("of")
        if target is None:
            continue
        where = f"trigger {trigger.name!r}, item 5, the options:"
        if target not in counting:
            close = get_close_matches(target, counting, n=1)
            meant = f". Did you mean {close[0]!r}?" if close else ""
            yield f"{where} 'of': there is no trigger {target!r} that counts{meant}"
        elif "reference" in counting[target].options and "reference" not in trigger.options:
            yield (
                f"{where} 'reference' is missing: {target!r} states one, and by the same one its "
                "conversions are found"
            )
        elif _looks_elsewhere(trigger, counting[target]):
            yield (
                f"{where} 'reference': {target!r} states none, and its conversions are found by "
                "the label and key of the object. Leave it out here, or write the same there"
            )


def _looks_elsewhere(deciding: Trigger, counting: Trigger) -> bool:
    """Tell whether a path of an object is looked for where its label and key were counted."""
    return (
        isinstance(deciding.options.get("reference"), str)
        and "reference" not in counting.options
        and counting.receiver in _COUNTING  # a host's own may state one
        and is_model(counting.sender)
        and counting.sender is deciding.sender
    )


def _clashes(trigger: Trigger, others: list[Trigger]) -> Iterator[str]:
    """Say where a trigger and an earlier one could not be told apart."""
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


def _folded(name: str) -> str:
    """Fold what collations fold: case and accents."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(character for character in plain if not unicodedata.combining(character))
