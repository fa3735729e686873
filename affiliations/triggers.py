"""
The triggers: host signals on one side, ``complete_trigger`` on the other.

``AFFILIATE_TRIGGERS`` ties a name to a signal, a receiver and a sender. ``object_created`` and
``object_saved`` are receivers for the most common cases; a host's own receiver asks whatever it
wants and then calls ``complete_trigger``, which checks all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist
from django.db import connections, transaction
from django.db.models import Model
from django.utils import timezone

from affiliations import context, conversions, visitors
from affiliations.conf import settings
from affiliations.exceptions import NotCounted, Reason
from affiliations.models import Conversion, Visitor

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest

#: What a trigger's fifth item says of an instance: an attribute path, or a callable of it.
Option = str | Callable[[Any], Any]


def complete_trigger(
    request: HttpRequest | None,
    name: str,
    *,
    instance: object = None,
    visitor: Visitor | None = None,
    user: User | None = None,
    reference: object = None,
    amount: object = None,
    currency: str | None = None,
) -> Conversion | None:
    """
    Credit whoever is to be credited for a trigger whose conditions are met.

    Whose referral it is: the ``visitor``, where one is stated; else the request's, unless somebody
    else is logged in there than the stated buyer, ``user``; else, where
    ``AFFILIATE_ATTRIBUTE_BY_USER`` says so, the buyer's latest. With ``instance``, what the trigger
    was completed by, the fifth item of the trigger's setting states what is not stated here. The
    partner must be active and subscribe to the trigger, and the same thing is never counted twice.

    Args:
        request: The request, ``tls.request`` (bound or not), or ``None`` outside of one.
        name: The trigger's name in ``AFFILIATE_TRIGGERS``.
        instance: The object that was created, saved or paid for.
        visitor: The referral, where the host has kept it, such as on an order.
        user: The buyer.
        reference: The host's own id of what was done; by default the label and key of ``instance``.
        amount: The money that commission is reckoned on, a ``Decimal``.
        currency: Its currency, as three letters of ISO 4217.

    Returns:
        The conversion, or ``None`` where nobody is credited or it cannot be known yet: where
        ``instance`` lives in another database, it is recorded when that commits.

    Raises:
        Nothing, but for a database error that has already ended the host's own transaction.
    """
    event = _Event(
        context.real_request(request), name, instance, visitor, user, reference, amount, currency
    )
    if event.concerns_nobody():
        return None
    host = instance._state.db if isinstance(instance, Model) else None
    if host not in (None, conversions.database()) and connections[host].in_atomic_block:
        # Ours cannot be rolled back together with theirs, so it waits until theirs is certain.
        transaction.on_commit(partial(conversions.attempt, name, event.credit), using=host)
        return None
    return conversions.attempt(name, event.credit)


async def acomplete_trigger(
    request: HttpRequest | None, name: str, **stated: Any
) -> Conversion | None:
    """
    Do what ``complete_trigger`` does, from an async receiver or view.

    The same arguments. The thread is changed only where there may be somebody to credit.
    """
    request = context.real_request(request)
    if _Event(request, name, **stated).concerns_nobody():
        return None
    return await sync_to_async(complete_trigger)(request, name, **stated)


def object_created(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    created: bool = False,
    raw: bool = False,
    **kwargs: object,
) -> None:
    """Complete the trigger when ``post_save`` tells of a new object, not of one being loaded."""
    if created and not raw:
        complete_trigger(context.current_request(), affiliate_trigger_name, instance=instance)


def object_saved(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **kwargs: object,
) -> None:
    """Complete the trigger at each signal: every save, or whatever a signal of the host says."""
    if not raw:
        complete_trigger(context.current_request(), affiliate_trigger_name, instance=instance)


@dataclass(frozen=True)
class _Event:
    """One trigger that has fired: what its caller states, completed from the trigger's setting."""

    request: HttpRequest | None
    name: str
    instance: object = None
    visitor: Visitor | None = None
    user: User | None = None
    reference: object = None
    amount: object = None
    currency: str | None = None

    def concerns_nobody(self) -> bool:
        """Tell, asking nothing of the database or the session, whether nobody can be credited."""
        if self._states("visitor") or settings.attribute_by_user:
            return False
        return self.request is None or visitors.remembers_nobody(self.request)

    def stated(self, name: str) -> Any:
        """Return what was stated as an argument, else by the trigger's fifth item, else None."""
        if (argument := getattr(self, name)) is not None:
            return argument
        option = self._options().get(name) if self.instance is not None else None
        return _value(self.instance, option) if option is not None else None

    def credit(self) -> Conversion:
        """Credit whoever is to be credited; ``NotCounted`` where nobody is."""
        visitor = self.referral()
        reference = self.stated("reference")
        try:
            return conversions.record(
                visitor,
                self.name,
                user=self.buyer(),
                reference=self.default_reference() if reference is None else str(reference),
                amount=self.stated("amount"),
                currency=str(self.stated("currency") or ""),
            )
        finally:
            if visitor.closed_on is not None:
                self._forget(visitor)

    def referral(self) -> Visitor:
        """Find the referral that is to be credited; ``NotCounted`` where there is none."""
        if self._states("visitor"):
            return _somebody(visitors.find(_visitor_id(self.stated("visitor"))))
        there = visitors.request_user(self.request) if self.request is not None else None
        theirs = there is None or not self._states("user") or there == self._stated_user
        remembered = visitors.remembered(self.request) if self.request and theirs else None
        found = visitors.find(remembered)
        if found is not None and found.refusal(timezone.now()) is None:
            return found
        if settings.attribute_by_user and (buyer := self.buyer()) is not None:
            found = visitors.latest_of(buyer) or found
        return _somebody(found, Reason.NO_VISITOR if theirs else Reason.NOT_THE_BUYER)

    def buyer(self) -> User | None:
        """Return who bought: stated, else logged in, else the user who has just been created."""
        if self._states("user"):
            return self._stated_user
        if self.request is not None and (user := visitors.request_user(self.request)) is not None:
            return user
        if isinstance(self.instance, get_user_model()) and not self.instance._state.adding:
            return self.instance
        return None

    def default_reference(self) -> str:
        """Name the instance by its label and key, such as ``shop.order:17``."""
        if not isinstance(self.instance, Model) or self.instance.pk is None:
            return ""
        return f"{self.instance._meta.label_lower}:{self.instance.pk}"

    def _forget(self, visitor: Visitor) -> None:
        """Take a closed referral out of the session, if it is this one that it remembers."""
        if self.request is not None and visitors.remembered(self.request) == visitor.pk:
            visitors.close_on_way_out(self.request, visitor)

    @cached_property
    def _stated_user(self) -> User | None:
        """The stated buyer, if it is one whom a row can point to."""
        stated = self.stated("user")
        if stated is None or isinstance(stated, get_user_model()):
            return stated
        if hasattr(stated, "is_authenticated"):
            return None  # request.user of an anonymous visitor, or an API's token user
        raise TypeError(f"Where a user is wanted, trigger “{self.name}” has {stated!r}.")

    def _states(self, name: str) -> bool:
        """Tell whether something is stated, be it that there is nobody."""
        if getattr(self, name) is not None:
            return True
        return self.instance is not None and name in self._options()

    def _options(self) -> Mapping[str, Option]:
        """Return the fifth item of the trigger's setting."""
        return next(
            (entry[4] for entry in settings.triggers if entry[0] == self.name and entry[4:]), {}
        )


def _visitor_id(stated: object) -> Any:
    """Return the key of a stated visitor, which a host may have kept instead of the visitor."""
    if isinstance(stated, Visitor):
        return stated.pk
    if isinstance(stated, Model):
        # Its key would be some visitor's too.
        raise TypeError(f"Where a visitor is wanted, there is {stated!r}.")
    return stated or None  # request.affiliate_visitor without a visitor is not None, but empty


def _somebody(visitor: Visitor | None, reason: Reason = Reason.NO_VISITOR) -> Visitor:
    """Return the visitor, or end the search: who is not found is nobody."""
    if visitor is None:
        raise NotCounted(reason)
    return visitor


def _value(instance: object, option: Option) -> Any:
    """Return what an option of a trigger says of ``instance``; ``None`` where a path breaks off."""
    if callable(option):
        return option(instance)
    value: Any = instance
    for name in option.split("."):
        try:
            value = getattr(value, name)
        except ObjectDoesNotExist:
            return None
        if value is None:
            return None
    return value
