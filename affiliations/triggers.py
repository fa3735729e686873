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
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import connections, transaction
from django.db.models import Model
from django.utils import timezone

from affiliations import context, conversions, decisions, visitors
from affiliations.conf import settings
from affiliations.exceptions import NotCounted, Reason
from affiliations.models import Conversion, Visitor
from affiliations.options import value_of

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest

_T = TypeVar("_T")


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
    return _with_host(event, event.credit)


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


def approve_conversions(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **kwargs: object,
) -> None:
    """
    Approve what was counted for an object, such as an order when it is paid for.

    The trigger's fifth item says of which trigger (``of``), and by which ``reference`` it is found:
    the one that the conversion was counted with. Whose request it happens in does not matter. Only
    what is pending is approved, and of that nothing that somebody is to look at.
    """
    if not raw:
        _decide(affiliate_trigger_name, instance, Conversion.Status.APPROVED)


def reject_conversions(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **kwargs: object,
) -> None:
    """
    Reject what was counted for an object, such as an order when it is refunded.

    It is found as ``approve_conversions`` finds it. Also what is approved is rejected.
    """
    if not raw:
        _decide(affiliate_trigger_name, instance, Conversion.Status.REJECTED)


def _decide(name: str, instance: object, status: str) -> None:
    event = _Event(context.current_request(), name, instance)
    _with_host(event, partial(event.decide, status))


def _with_host(event: _Event, work: Callable[[], _T]) -> _T | None:
    """Do ``work`` in the transaction of the host's object, or after it where ours is another."""
    instance = event.instance
    host = instance._state.db if isinstance(instance, Model) else None
    if host not in (None, conversions.database()) and connections[host].in_atomic_block:
        # Ours cannot be rolled back together with theirs, so it waits until theirs is certain.
        transaction.on_commit(partial(conversions.attempt, event.name, work), using=host)
        return None
    return conversions.attempt(event.name, work)


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
        return value_of(self.instance, option) if option is not None else None

    def credit(self) -> Conversion:
        """Credit whoever is to be credited; ``NotCounted`` where nobody is."""
        visitor = self.referral()
        try:
            return conversions.record(
                visitor,
                self.name,
                user=self.buyer(),
                instance=self.instance,
                reference=self.what(),
                amount=self.stated("amount"),
                currency=str(self.stated("currency") or ""),
            )
        finally:
            if visitor.closed_on is not None:
                self._forget(visitor)

    def decide(self, status: str) -> Conversion:
        """Decide what was counted for the same reference; ``NotCounted`` where nothing changes."""
        return decisions.decide_by_reference(
            self._options()["of"],
            self.what(),
            status,
            reason=self.name if status == Conversion.Status.REJECTED else "",
            by=self.there,
        )

    def what(self) -> str:
        """Return the reference: stated, or the instance's label and key."""
        if not self._states("reference"):
            return self.default_reference()
        reference = self.stated("reference")
        if callable(reference):
            raise self._not_a("reference", reference)
        # Not the default where there is none yet: it would be another one once there is.
        return "" if reference is None else str(reference)

    def referral(self) -> Visitor:
        """Find the referral that is to be credited; ``NotCounted`` where there is none."""
        if self._states("visitor"):
            return self._somebody(visitors.find(_visitor_id(self.stated("visitor"))))
        there = self.there()
        if self._states("user"):
            theirs = there is None or there == self._stated_user
        else:
            theirs = not _is_of_staff(self.request)
        found = visitors.referral(self.request) if self.request and theirs else None
        if found is not None and found.refusal(timezone.now()) is None:
            return found
        if settings.attribute_by_user and (buyer := self.buyer()) is not None:
            found = visitors.referral_of(buyer) or found
        return self._somebody(found, Reason.NO_VISITOR if theirs else Reason.NOT_THE_BUYER)

    def buyer(self) -> User | None:
        """Return who bought: stated, else logged in, else the user who has just been created."""
        if self._states("user"):
            return self._stated_user
        if (user := self.there()) is not None and self._is_own_request():
            return user
        if isinstance(self.instance, get_user_model()) and not self.instance._state.adding:
            return self.instance
        return None

    def there(self) -> User | None:
        """Return who is logged in where the trigger has fired."""
        return visitors.request_user(self.request) if self.request is not None else None

    def _is_own_request(self) -> bool:
        """Tell whether the request may be the buyer's: whose referral it is may have come by it."""
        if not self._states("visitor"):
            return not _is_of_staff(self.request)
        visitor_id = _visitor_id(self.stated("visitor"))
        return self.request is not None and visitor_id in visitors.remembered(self.request)

    def default_reference(self) -> str:
        """Name the instance by its label and key, such as ``shop.order:17``."""
        if not isinstance(self.instance, Model) or self.instance.pk is None:
            return ""
        return f"{self.instance._meta.label_lower}:{self.instance.pk}"

    def _forget(self, visitor: Visitor) -> None:
        """Take a closed referral out of the session, if that remembers this one."""
        if self.request is not None and visitor.pk in visitors.remembered(self.request):
            visitors.close_on_way_out(self.request, visitor)

    @cached_property
    def _stated_user(self) -> User | None:
        """The stated buyer, or whose key is stated, if it is one whom a row can point to."""
        stated = self.stated("user")
        if stated is None or isinstance(stated, get_user_model()):
            return stated
        if hasattr(stated, "is_authenticated"):
            return None  # request.user of an anonymous visitor, or an API's token user
        if isinstance(stated, Model):
            # Its key would be some user's too.
            raise self._not_a("user", stated)
        users = get_user_model()._base_manager.using(conversions.database())
        return users.filter(pk=stated).first()

    def _somebody(self, visitor: Visitor | None, reason: Reason = Reason.NO_VISITOR) -> Visitor:
        """Return the visitor, or end the search: who is not found is nobody."""
        if visitor is None:
            raise NotCounted(reason, reference=self.what())
        return visitor

    def _not_a(self, what: str, stated: object) -> TypeError:
        return TypeError(f"Where a {what} is wanted, trigger “{self.name}” has {stated!r}.")

    def _states(self, name: str) -> bool:
        """Tell whether something is stated, be it that there is nobody."""
        if getattr(self, name) is not None:
            return True
        return self.instance is not None and name in self._options()

    def _options(self) -> Mapping[str, Any]:
        """Return the fifth item of the trigger's setting."""
        return next(
            (entry[4] for entry in settings.triggers if entry[0] == self.name and entry[4:]), {}
        )


def _is_of_staff(request: HttpRequest | None) -> bool:
    """Tell whether it is made in the Admin, where nobody buys anything for themselves."""
    match = getattr(request, "resolver_match", None)
    return match is not None and "admin" in match.app_names


def _visitor_id(stated: object) -> Any:
    """Return the key of a stated visitor, which a host may have kept instead of the visitor."""
    if isinstance(stated, Visitor):
        return stated.pk
    if isinstance(stated, Model):
        # Its key would be some visitor's too.
        raise TypeError(f"Where a visitor is wanted, there is {stated!r}.")
    return stated or None  # request.affiliate_visitor without a visitor is not None, but empty
