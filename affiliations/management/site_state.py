"""Problems of this site that prevent clicks, conversions or callbacks, and how to solve them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta

from affiliations import db
from affiliations.callbacks.maintenance import health
from affiliations.callbacks.messages import needed_process
from affiliations.conf import Settings, settings
from affiliations.exceptions import Reason
from affiliations.models import FailedTrigger, Partner, Subscription
from affiliations.options import is_model

#: The number of partners, or of subscriptions, that are named.
_NAMED = 5
#: Callbacks that are due for longer have no worker. A few seconds are normal.
_LATE = timedelta(seconds=5)


def problems() -> Iterator[str]:
    """Yield the problems in the order of the steps to a first conversion, with a few queries."""
    yield from _partners()
    yield from _subscriptions()
    yield from _callbacks()
    failed = FailedTrigger.objects.using(db.write_alias())
    if waiting := failed.waiting().count():
        yield f"Triggers that failed in the database and are tried again: {waiting}. See the log."
    if given_up := failed.given_up().count():
        yield f"Triggers that were given up: {given_up}. See “Failed triggers” in the Admin."


def triggers(without: Collection[str] = ()) -> Iterator[str]:
    """Yield for each counting trigger the event it waits for, of which the database has no row."""
    for name, signal, receiver, sender in (entry[:4] for entry in settings.triggers):
        if name in settings.counting_triggers and name not in without:
            yield (
                f"“{name}” is waiting for {_written(signal)} of {_written(sender)}, received by "
                f"{_written(receiver)}: check that this is what your site saves or sends."
            )


def example_link() -> str:
    """Return the link of an active partner to open; empty if there is none."""
    partner = Partner.objects.filter(active=True).order_by("pk").first()
    return "" if partner is None else partner.link("/")


def problems_of(partner: Partner) -> Iterator[str]:
    """Yield what is wrong with one partner."""
    if not partner.active:
        yield _inactive(partner)
    names = settings.counting_triggers
    rows = list(partner.subscriptions.order_by("pk")[: _NAMED + 1])
    if not any(row.active and row.trigger in names for row in rows):
        yield f"{partner.name_and_uid} has no active subscription to a trigger: add one."
    for row in rows[:_NAMED]:
        if row.trigger not in names:
            yield _unknown_trigger(partner, row)
        elif row.is_suspended:
            yield f"The callbacks of “{row.trigger}” are suspended: “Resume” them in the Admin."
    yield from _callbacks(partner)


def _inactive(partner: Partner) -> str:
    return f"{partner.name_and_uid} is inactive. {Reason.PARTNER_INACTIVE.cure}"


def _unknown_trigger(partner: Partner, row: Subscription) -> str:
    return (
        f"{partner.name_and_uid} subscribes to “{row.trigger}”, which {Settings.triggers.name} "
        "does not have: choose another trigger."
    )


def _written(value: object) -> str:
    """Return an item of a trigger as it is written in the settings, or its name."""
    if value is None:
        return "any sender"
    if isinstance(value, str):
        return value
    if is_model(value):
        return str(value._meta.label)
    return str(getattr(value, "__qualname__", value))


def _partners() -> Iterator[str]:
    inactive = list(Partner.objects.filter(active=False).order_by("-pk")[: _NAMED + 1])
    if Partner.objects.filter(active=True).exists():
        return
    if not inactive:
        yield "There is no partner: add one in the Admin, and tick “Active”."
    for partner in inactive[:_NAMED]:
        yield _inactive(partner)


def _subscriptions() -> Iterator[str]:
    names = settings.counting_triggers
    active = Subscription.objects.filter(active=True, partner__active=True)
    subscribed = set(active.filter(trigger__in=names).values_list("trigger", flat=True).distinct())
    for name in names:
        if name not in subscribed:
            yield f"No active partner subscribes to “{name}”: add a subscription to a partner."
    unknown = active.exclude(trigger__in=names).select_related("partner").order_by("-pk")
    for subscription in unknown[:_NAMED]:
        yield _unknown_trigger(subscription.partner, subscription)


def _callbacks(partner: Partner | None = None) -> Iterator[str]:
    if not settings.send_callbacks:
        yield f"{Settings.send_callbacks.name} is False: no callback is sent. Set it to True."
        return
    now = health(partner=partner)
    if now.suspended and partner is None:
        yield (
            f"Subscriptions suspended, since their callbacks keep failing: {now.suspended}. "
            "“Resume” them in the Admin."
        )
    if now.oldest_due > _LATE or (now.due and needed_process()):
        process = needed_process() or "manage.py deliver_callbacks, or the web server"
        seconds = round(now.oldest_due.total_seconds())
        yield f"Callbacks that wait: {now.due}, the oldest for {seconds} s. Start {process}."
