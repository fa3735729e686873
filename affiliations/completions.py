"""
The completion of a trigger: whose it is, and what was done.

What the caller states comes first, then what the fifth item of the trigger's setting says of the
instance, then what the request tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.db.models import Model
from django.utils import timezone

from affiliations import conversions, decisions, visitors
from affiliations.conf import settings
from affiliations.exceptions import NotCounted, Reason
from affiliations.models import Conversion, Visitor
from affiliations.options import value_of

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest


@dataclass(frozen=True)
class Completion:
    """What the caller of ``complete_trigger`` states, the rest from the trigger's setting."""

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

    def _stated(self, name: str) -> Any:
        """Return what was stated as an argument, else by the trigger's fifth item, else None."""
        if (argument := getattr(self, name)) is not None:
            return argument
        option = self._options().get(name) if self.instance is not None else None
        return value_of(self.instance, option) if option is not None else None

    def credit(self) -> Conversion:
        """Credit whoever is to be credited; ``NotCounted`` where nobody is."""
        visitor = self._referral()
        try:
            return conversions.record(
                visitor,
                self.name,
                user=self._buyer(),
                instance=self.instance,
                reference=self._what(),
                amount=self._stated("amount"),
                currency=str(self._stated("currency") or ""),
            )
        finally:
            if visitor.closed_on is not None:
                self._forget(visitor)

    def decide(self, status: str) -> Conversion:
        """Decide what was counted for the same reference; ``NotCounted`` where nothing changes."""
        return decisions.decide_by_reference(
            self._options()["of"],
            self._what(),
            status,
            reason=self.name if status == Conversion.Status.REJECTED else "",
            by=self._there,
        )

    def _what(self) -> str:
        """Return the reference: stated, or the instance's label and key."""
        if not self._states("reference"):
            return self._default_reference()
        reference = self._stated("reference")
        if callable(reference):
            raise self._not_a("reference", reference)
        # Not the default where there is none yet: it would be another one once there is.
        return "" if reference is None else str(reference)

    def _referral(self) -> Visitor:
        """Find the referral that is to be credited; ``NotCounted`` where there is none."""
        if self._states("visitor"):
            return self._somebody(visitors.find(_visitor_id(self._stated("visitor"))))
        there = self._there()
        if self._states("user"):
            theirs = there is None or there == self._stated_user
        else:
            theirs = not _is_of_staff(self.request)
        found = visitors.referral(self.request) if self.request and theirs else None
        if found is not None and found.refusal(timezone.now()) is None:
            return found
        if settings.attribute_by_user and (buyer := self._buyer()) is not None:
            found = visitors.referral_of(buyer) or found
        return self._somebody(found, Reason.NO_VISITOR if theirs else Reason.NOT_THE_BUYER)

    def _buyer(self) -> User | None:
        """Return who bought: stated, else logged in, else the user who has just been created."""
        if self._states("user"):
            return self._stated_user
        if (user := self._there()) is not None and self._is_own_request():
            return user
        if isinstance(self.instance, get_user_model()) and not self.instance._state.adding:
            return self.instance
        return None

    def _there(self) -> User | None:
        """Return who is logged in where the trigger has fired."""
        return visitors.request_user(self.request) if self.request is not None else None

    def _is_own_request(self) -> bool:
        """Tell whether the request may be the buyer's: whose referral it is may have come by it."""
        if not self._states("visitor"):
            return not _is_of_staff(self.request)
        visitor_id = _visitor_id(self._stated("visitor"))
        return self.request is not None and visitor_id in visitors.remembered(self.request)

    def _default_reference(self) -> str:
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
        stated = self._stated("user")
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
            raise NotCounted(reason, reference=self._what())
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
