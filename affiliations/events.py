"""The events of triggers: find the visitor to credit and the amount, and record the conversion."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from django.contrib.auth import get_user_model
from django.db import IntegrityError, OperationalError, connections, transaction
from django.db.models import Model
from django.utils import timezone

from affiliations import db
from affiliations.amounts import Money, parse
from affiliations.conf import settings
from affiliations.conversions import attempts, by_reference, earning, recording
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import Conversion, FailedTrigger, PartnerCode, Visitor
from affiliations.models.partner_code import as_code
from affiliations.options import default_reference, model_of, value_of
from affiliations.tracking import visitors
from affiliations.tracking.clicks import on_host
from affiliations.tracking.staff import is_on_staff_page

if TYPE_CHECKING:
    from datetime import datetime

    from django.contrib.auth.models import User
    from django.http import HttpRequest

logger = logging.getLogger("affiliations")

Kind = FailedTrigger.Kind

_STATUSES: Mapping[str, Conversion.Status] = {
    Kind.APPROVE: Conversion.Status.APPROVED,
    Kind.REJECT: Conversion.Status.REJECTED,
}


#: How many codes on one order are read.
_MAX_CODES = 100
#: The options by which an object may state the visitor.
_STATING = ("visitor", "user", "code")


class Referral(NamedTuple):
    """The visitor to credit, and the reason."""

    visitor: Visitor
    #: Whether an earning period of the visitor runs.
    in_period: bool = False
    #: The partner's code on the order, as it was typed, if that is the reason.
    code: str = ""
    #: The visitor who would have been credited without the code.
    instead_of: Visitor | None = None


@dataclass(frozen=True)
class TriggerEvent:
    """
    A trigger that has fired, with the arguments of ``complete_trigger``.

    A value is taken from the arguments, else from the options in the trigger's fifth item, else
    from the request.
    """

    request: HttpRequest | None
    name: str
    instance: object = None
    visitor: object = None
    user: object = None
    reference: object = None
    amount: object = None
    currency: str | None = None
    code: object = None
    new_amount: object = None
    #: When it fired, if it is tried again.
    fired_on: datetime | None = None

    def unread_options(self) -> list[str]:
        """List the options that have no argument, and cannot be read without an object."""
        if self.instance is not None:
            return []
        names = [name for name in self.options if name != "instance"]
        return [name for name in names if getattr(self, name, "") is None]

    def attempt(self, work: Callable[[str], Conversion | None], kind: str) -> Conversion | None:
        return attempts.attempt(self.name, partial(work, kind), partial(self.describe, kind))

    def do_or_wait(self, kind: str) -> Conversion | None:
        """
        Do the work, or do it after the commit if the conversion has no amount yet.

        A shop may save an order, then its total, and then report the payment, in one transaction.
        """
        alias = db.write_alias()
        try:
            return self.do(kind)
        except NotCredited as refusal:
            if refusal.reason is not Reason.NO_AMOUNT or not connections[alias].in_atomic_block:
                raise
        transaction.on_commit(partial(self.attempt, self.do, kind), using=alias)
        return None

    def do(self, kind: str) -> Conversion:
        """Do what the trigger is for; raise ``NotCredited`` if there is nothing to do."""
        if kind == Kind.CREDIT:
            return self.credit()
        try:
            return self.adjust() if kind == Kind.ADJUST else self.decide(_STATUSES[kind])
        except NotCredited as refusal:
            credits_of = FailedTrigger.objects.using(db.write_alias()).filter(kind=Kind.CREDIT)
            if refusal.reason is Reason.NO_CONVERSION and (
                credits_of.filter(trigger=self.options["of"], reference=refusal.reference).exists()
            ):
                raise OperationalError("The conversion itself is still to be recorded.") from None
            raise

    def describe(self, kind: str) -> FailedTrigger:
        """Return all that a later try needs, unsaved. What cannot be read stays empty."""
        failed = FailedTrigger(trigger=self.name, kind=kind)
        readers: dict[str, Callable[[], Any]] = {"reference": self._reference}
        if kind == Kind.CREDIT:
            readers |= {"codes": lambda: " ".join(self._codes)}
            readers |= {"visitor": partial(self._find_stored_visitor, failed)}
            readers |= {"user_id": lambda: getattr(self._buyer(failed.visitor), "pk", None)}
        elif kind == Kind.APPROVE:
            failed.amount = "0"  # Leads to a review if the amount cannot be read.
        readers |= {"amount": lambda: _as_text(self._stated_amount(kind)[0])}
        readers |= {"currency": lambda: _as_text(self._stated_amount(kind)[1])}
        for name, read in readers.items():
            with suppress(Exception), db.savepoint():
                setattr(failed, name, read())
        return failed

    def credit(self) -> Conversion:
        """Record the conversion; raise ``NotCredited`` if no partner is credited."""
        referral = self._whose()
        try:
            conversion = self._record(referral)
        except NotCredited as refusal:
            was_open = referral.visitor.closed_on is None
            if referral.in_period or not was_open or refusal.reason is not Reason.REFERRAL_CLOSED:
                raise
            # Another conversion has just closed it, and may have begun its earning period.
            referral = self._whose()
            if not referral.in_period:
                raise
            conversion = self._record(referral)
        if conversion.closes and self.request is not None:
            visitors.look_up_again(self.request)
        return conversion

    def _record(self, referral: Referral, *, is_again: bool = False) -> Conversion:
        """Record the conversion, and with it the visitor of a code who is not stored yet."""
        visitor, alias = referral.visitor, db.write_alias()
        if not visitor._state.adding:
            return self._record_for(referral)
        try:
            with transaction.atomic(using=alias):
                visitor.save(using=alias, force_insert=True)
                return self._record_for(referral)
        except NotCredited as refusal:
            refusal.visitor = None  # Rolled back.
            raise
        except IntegrityError:
            if is_again:
                raise OperationalError("The visitor of the code is being stored.") from None
        same_key = Visitor.objects.using(alias).filter(code_key=visitor.code_key)
        if visitor.user is not None and same_key.exclude(user=visitor.user).exists():
            # The key is taken by the visitor of a deleted or merged account, whose primary key the
            # buyer has now.
            visitor.code_key, again = None, referral
        else:
            # Another order of the same buyer, with the same code, has just stored the visitor.
            again = self._whose()
        return self._record(again, is_again=True)

    def _record_for(self, referral: Referral) -> Conversion:
        visitor = referral.visitor
        return recording.record(
            visitor,
            self.name,
            in_period=referral.in_period,
            code=referral.code,
            instead_of=referral.instead_of,
            user=self._buyer(visitor),
            instance=self.instance,
            reference=self._reference(),
            amount=self._value("amount"),
            currency=str(self._value("currency") or ""),
            read_amount=self._amount_reader(),
            now=self.fired_on,
        )

    def decide(self, status: str) -> Conversion:
        """Approve or reject the conversion of the reference; or raise ``NotCredited``."""
        return by_reference.decide(
            self.options["of"],
            self._reference(),
            status,
            reason=self.name if status == Conversion.Status.REJECTED else "",
            by=self._logged_in_user,
            may_be_paid=self.options.get("may_be_paid", False),
            order=self._order_now,
        )

    def adjust(self) -> Conversion:
        """Adjust the conversion of the reference to its amount now; or raise ``NotCredited``."""
        return by_reference.adjust(
            self.options["of"],
            self._reference(),
            self._value("new_amount"),
            str(self._value("currency") or "") or None,
            reason=self.name,
            by=self._logged_in_user,
        )

    def _stated_amount(self, kind: str) -> tuple[object, object]:
        """Return the amount and the currency that the work of this kind needs, unparsed."""
        if kind == Kind.APPROVE:
            counted = self._counted()
            # Without an amount it needs review, as with zero.
            return (
                (None, None)
                if counted is None
                else (counted._value("amount") or 0, counted._value("currency"))
            )
        amount = self._value("new_amount" if kind == Kind.ADJUST else "amount")
        currency = self._value("currency")
        if parse(amount, str(currency or "")).is_missing and (read := self._amount_reader()):
            return read()[:2]
        return amount, currency

    def _amount_reader(self) -> Callable[[], tuple[object, str, object]] | None:
        """Return a function that reads the stored object's amount, if there is such an option."""
        instance = self.instance
        if self.amount is not None or not self._has("amount") or not isinstance(instance, Model):
            return None

        def read() -> tuple[object, str, object]:
            rows = type(instance)._base_manager.using(instance._state.db)
            stored = replace(self, instance=rows.filter(pk=instance.pk).first())
            currency = str(stored._value("currency") or "")
            return stored._value("amount"), currency, stored.instance

        return read

    def _order_now(self) -> Money | None:
        """Return the order's amount now; ``None`` if the object is of another kind."""
        if self.instance is None:  # It is tried again.
            return None if self.amount is None else parse(self.amount, self.currency or "")
        counted = self._counted()
        if counted is None:
            return None
        return parse(counted._value("amount"), str(counted._value("currency") or ""))

    def _counted(self) -> TriggerEvent | None:
        """Return an event of the counting trigger; ``None`` if the object is of another kind."""
        counted = TriggerEvent(None, self.options["of"], self.instance)
        is_readable = counted._has("amount") and counted._is_of_sender(self.options)
        return counted if is_readable else None

    def _is_of_sender(self, deciding: Mapping[str, Any]) -> bool:
        """
        Tell whether the object is of a model that is the sender of this trigger.

        A sender that is not a model says nothing about the object. The object is then of the same
        kind if the options of the ``deciding`` trigger find it and its reference in the same way.
        """
        models = [model for entry in entries(self.name) if (model := model_of(entry[3]))]
        if not models:
            same = ("instance", "reference")
            return all(deciding.get(key) == self.options.get(key) for key in same)
        # A proxy of the model is of the same kind.
        return any(
            isinstance(self.instance, model._meta.concrete_model or model) for model in models
        )

    @property
    def options(self) -> Mapping[str, Any]:
        return options_of(self.name)

    def _has(self, name: str) -> bool:
        """Tell whether there is an argument or an option, even if its value is ``None``."""
        if getattr(self, name) is not None:
            return True
        return self.instance is not None and name in self.options

    def _value(self, name: str) -> Any:
        if (argument := getattr(self, name)) is not None:
            return argument
        return value_of(self.instance, self.options[name]) if self._has(name) else None

    def _reference(self) -> str:
        if not self._has("reference"):
            counting = entries(self.options.get("of", self.name))
            return default_reference(self.instance, [entry[3] for entry in counting])
        reference = self._value("reference")
        if callable(reference):
            raise self._type_error("reference", reference)
        # Not the default: a later event, such as the payment, would not find it.
        return "" if reference is None else str(reference)

    def _find_stored_visitor(self, failed: FailedTrigger) -> Visitor | None:
        """
        Return the visitor to credit, or the one without the code if the code's visitor is unsaved.

        The codes of ``failed`` are removed if they do not decide, as after an earning period.
        """
        referral = self._whose()
        if not referral.code:
            failed.codes = ""
        return referral.instead_of if referral.visitor._state.adding else referral.visitor

    def _whose(self) -> Referral:
        """
        Return the visitor to credit, open or not, and the reason.

        These are asked in this order, as docs/explanation/attribution.rst says:

        1. a running earning period of the stated visitor or of the stated user,
        2. a partner's code on the order,
        3. the stated visitor,
        4. the open referrals of the browser and of the buyer.

        Raises:
            NotCredited: If there is no visitor.
        """
        stated = visitors.find(self._visitor_id()) if self._has("visitor") else None
        in_period = self._find_in_period(stated)
        if in_period is not None and not in_period.is_test:
            return Referral(in_period, in_period=True)
        visitor, is_buyer = stated, True
        if not self._has("visitor"):
            visitor, is_buyer = self._find_open()
        if (code := self._find_code()) is not None:
            return self._by_code(code, visitor, is_buyer=is_buyer)
        # A test replaces no open referral.
        if in_period is not None and (visitor is None or not visitor.is_open):
            return Referral(in_period, in_period=True)
        if visitor is None:
            reason = Reason.NO_VISITOR if is_buyer else Reason.NOT_THE_BUYER
            place = place_of(self.request)
            raise NotCredited(reason, reference=self._reference(), place=place)
        return Referral(visitor)

    @cached_property
    def _codes(self) -> list[str]:
        """The texts on the order that can be codes, as they were typed."""
        value = self._value("code")
        is_one = isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable)
        values = [value] if is_one else list(islice(value, _MAX_CODES))
        wrong = [one for one in values if not (one is None or isinstance(one, (str, int)))]
        if wrong:
            logger.error(
                "Trigger “%s” needs the text of a code, or several, not a %s. Name the field of "
                'the text in the fifth item of AFFILIATE_TRIGGERS, such as "coupon.code".',
                self.name,
                type(wrong[0]).__name__,
            )
        return [code for one in values if (code := as_code(one))]

    def _find_code(self) -> PartnerCode | None:
        """Return the first code on the order that is an active partner's."""
        found = PartnerCode.objects.using(db.write_alias()).of_texts(*self._codes)
        return next((code for code in found if code.partner.active), None)

    def _by_code(self, code: PartnerCode, click: Visitor | None, *, is_buyer: bool) -> Referral:
        """
        Return the referral of this customer by the code's partner, or else a new, unsaved one.

        Args:
            code: The code on the order.
            click: The visitor who would be credited without the code.
            is_buyer: Whether the browser of the request is the buyer's.
        """
        now = self.fired_on or timezone.now()
        known = [] if click is None else [click]
        if self.request is not None and is_buyer and not self._has("visitor"):
            known += visitors.remembered_visitors(self.request)
        typed = next(text for text in self._codes if text.lower() == code.code.lower())
        is_beaten = click is not None and click.partner_id != code.partner_id
        beaten = click if click is not None and is_beaten and click.refusal(now) is None else None
        visitor = visitors.referral_by_code(
            code.partner, known, self._buyer(click), previous=beaten, now=now
        )
        is_ended = visitor.successful_on is not None and visitor.refusal(now) is not None
        in_period = is_ended and earning.find(self.name, now, visitor=visitor) is not None
        return Referral(visitor, in_period, typed, beaten)

    def _find_in_period(self, stated: Visitor | None) -> Visitor | None:
        """Return the visitor whose earning period runs; without a stated user mostly no query."""
        if self.fired_on is not None and self._codes:
            return None  # The code has decided. Visitor and user may not have been stated then.
        # A later try has a user who was not stated at first, and the visitor who was found.
        is_stated = self._has("user") and (self.fired_on is None or stated is None)
        user = self._stated_user if is_stated else None
        if user is None and (stated is None or stated.successful_on is None):
            return None
        if user is None and stated is not None and stated.is_open and not self._codes:
            return None  # An open visitor is credited without a period as well.
        now = self.fired_on or timezone.now()
        return earning.find(self.name, now, visitor=stated, user=user)

    def _find_open(self) -> tuple[Visitor | None, bool]:
        """Return the referral of the browser or the buyer, and whether the browser may count."""
        is_buyer = not is_on_staff_page(self.request)
        if self._has("user"):
            is_buyer &= not self._is_user_unknown() and (
                self._logged_in_user() in (None, self._stated_user)
            )
        visitor = visitors.credited_visitor(
            self.request if is_buyer else None,
            self._buyer() if settings.attribute_by_user else None,
        )
        return visitor, is_buyer

    def _visitor_id(self) -> Any:
        """Return the key of the stated visitor, which a host may also state by its key."""
        visitor = self._value("visitor")
        if isinstance(visitor, Model) and not isinstance(visitor, Visitor):
            # A visitor may have the same key.
            raise self._type_error("visitor", visitor)
        # An empty request.affiliate_visitor is false, but not None.
        return visitor.pk if isinstance(visitor, Visitor) else visitor or None

    def _buyer(self, visitor: Visitor | None = None) -> User | None:
        """
        Return the stated buyer, the logged-in user, or the user who has just been created.

        A stated visitor must be passed as found in the database.
        """
        if self._has("user"):
            return self._stated_user
        # On their pages, staff act for others. A stated visitor may belong to another browser.
        is_own_request = (
            self._remembers(visitor) if self._has("visitor") else not is_on_staff_page(self.request)
        )
        if is_own_request and (user := self._logged_in_user()) is not None:
            return user
        if isinstance(self.instance, get_user_model()) and not self.instance._state.adding:
            return self.instance
        return None

    @cached_property
    def _stated_user(self) -> User | None:
        """The stated buyer, also if stated by key; ``None`` if no row can refer to the user."""
        user = self._value("user")
        if user is None or isinstance(user, get_user_model()):
            return user
        if hasattr(user, "is_authenticated"):
            return None  # request.user of an anonymous visitor, or an API's token user
        if isinstance(user, Model):
            raise self._type_error("user", user)  # A user may have the same key.
        users = get_user_model()._base_manager.using(db.write_alias())
        return users.filter(pk=user).first()

    def _is_user_unknown(self) -> bool:
        """Tell whether a buyer is stated who does not exist; a guest is stated as ``None``."""
        user = self._value("user")
        is_stated = user is not None and not hasattr(user, "is_authenticated")
        return is_stated and self._stated_user is None

    def _logged_in_user(self) -> User | None:
        return None if self.request is None else visitors.request_user(self.request)

    def _remembers(self, visitor: Visitor | None) -> bool:
        if self.request is None or visitor is None:
            return False
        return visitors.remembers(self.request, visitor)

    def _type_error(self, kind: str, value: object) -> TypeError:
        return TypeError(f"Trigger “{self.name}” needs a {kind}, not {value!r}.")


def has_no_visitor(
    request: HttpRequest | None,
    options: Mapping[str, Any],
    instance: object = None,
    visitor: object = None,
    user: object = None,
    code: object = None,
) -> bool:
    """
    Tell, without a query or reading the session, whether there is certainly no visitor.

    It is called for each save of a model that has a trigger. Creating a ``TriggerEvent`` for it
    would take longer than the rest.
    """
    # A stated user may have an earning period. Whether a text is a code is checked later, since
    # reading it from an object may take a query.
    if not (visitor is None and user is None and code in (None, "")):
        return False
    if options and instance is not None and not options.keys().isdisjoint(_STATING):
        return False
    if settings.attribute_by_user:
        return False
    return request is None or visitors.remembers_no_visitor(request)


def place_of(request: HttpRequest | None) -> str:
    """Return where a trigger has fired, as a part of a message in the log."""
    if request is None:
        return " outside of a request"
    page = ", to a page of staff" if is_on_staff_page(request) else ""
    return f" in this request{on_host(request)}{page}"


def options_of(name: str) -> Mapping[str, Any]:
    """Return the fifth item of the trigger's setting, which all its entries share."""
    for entry in settings.triggers:
        if entry[0] == name and len(entry) > 4:
            options: Mapping[str, Any] = entry[4]
            return options
    return {}


def entries(name: str) -> list[Sequence[Any]]:
    """Return the entries of ``AFFILIATE_TRIGGERS`` of a name."""
    return [entry for entry in settings.triggers if entry[0] == name]


def _as_text(value: object) -> str:
    return "" if value is None else str(value)[:64]
