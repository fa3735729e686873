"""The subscription: what ties a partner to a trigger."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from babel.numbers import get_currency_precision, is_currency
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from affiliations import placeholders
from affiliations.conf import settings
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models.partner import Partner

_KEPT_BY_DELIVERY = ("failure_count", "failing_since", "callbacks_suspended_on")


class SubscriptionQuerySet(models.QuerySet["Subscription"]):
    """Questions about subscriptions."""

    def to_trigger(self, trigger: str) -> list[Subscription]:
        """
        Return the active ones to a trigger, oldest first.

        Names are compared again in Python, since MariaDB folds case, accents and blanks.
        """
        found = self.filter(trigger=trigger, active=True).order_by("pk")
        return [subscription for subscription in found if subscription.trigger == trigger]

    def closing_too_early(self) -> list[str]:
        """
        Name the triggers that keep something else of these from being counted.

        Of the active subscriptions of one partner: what closes the referral keeps all that comes
        later from being counted, be it another trigger or, where every reference counts, the next
        one of the same.
        """
        active = list(self.filter(active=True).order_by("pk"))
        has_others = len({subscription.trigger for subscription in active}) > 1
        closing = (
            subscription.trigger
            for subscription in active
            if subscription.closes_referral
            and (has_others or subscription.counting == Subscription.Counting.EVERY)
        )
        return list(dict.fromkeys(closing))


class Subscription(models.Model):
    """
    The agreement that a partner hears of a trigger, and where.

    A visitor is credited for a trigger only where their partner subscribes to it. An empty
    ``callback_url`` means that the conversion is counted and nobody is called.
    """

    class Counting(models.TextChoices):
        """How often one visitor can be counted."""

        ONCE = "once", _("once a visitor")
        EVERY = "every", _("every reference, such as each order")

    class PayoutType(models.TextChoices):
        """What a conversion earns the partner."""

        NONE = "none", _("nothing that is reckoned here")
        FIXED = "fixed", _("a fixed amount")
        PERCENT = "percent", _("a percentage of the amount")

    class Approval(models.TextChoices):
        """Who decides whether a conversion is paid for."""

        AUTOMATIC = "automatic", _("automatic")
        MANUAL = "manual", _("by hand, or by a signal")

    CALLBACK_URL_PLACEHOLDER = "{visitor_id}"

    partner = models.ForeignKey(
        Partner,
        on_delete=models.CASCADE,
        related_name="subscriptions",
        verbose_name=_("partner"),
    )
    trigger = models.CharField(
        _("trigger"),
        max_length=100,
        help_text=_("What is counted. Developers name the triggers, in AFFILIATE_TRIGGERS."),
    )
    callback_url = models.URLField(
        _("callback URL"),
        max_length=2048,
        blank=True,
        default="",
        validators=[URLValidator(schemes=["http", "https"])],
        help_text=_(
            "The partner’s address for this trigger, with {visitor_id} or {click_id} in it. "
            "Empty: conversions are counted and nobody is called."
        ),
    )
    active = models.BooleanField(
        _("active"),
        default=True,
        help_text=_("Without it no new conversion is counted for this subscription."),
    )
    counting = models.CharField(
        _("counting"),
        max_length=8,
        choices=Counting.choices,
        default=Counting.ONCE,
    )
    closes_referral = models.BooleanField(
        _("closes the referral"),
        default=True,
        help_text=_("After this conversion nothing else of the same visitor is counted."),
    )
    payout_type = models.CharField(
        _("payout"), max_length=7, choices=PayoutType.choices, default=PayoutType.NONE
    )
    payout_value = models.DecimalField(
        _("payout value"),
        max_digits=15,
        decimal_places=4,
        null=True,
        blank=True,
        help_text=_("The fixed amount, or the percentage."),
    )
    payout_currency = models.CharField(
        _("payout currency"),
        max_length=3,
        blank=True,
        default="",
        help_text=_("Of a fixed amount, such as EUR. A percentage is paid in the order’s."),
    )
    approval = models.CharField(
        _("approval"), max_length=9, choices=Approval.choices, default=Approval.AUTOMATIC
    )
    approve_after = models.PositiveSmallIntegerField(
        _("approve after"),
        null=True,
        blank=True,
        help_text=_("Days that automatic approval waits, such as for returned goods."),
    )
    call_on_conversion = models.BooleanField(_("call on conversion"), default=True)
    call_on_approval = models.BooleanField(_("call on approval"), default=False)
    call_on_rejection = models.BooleanField(
        _("call on rejection"),
        default=False,
        help_text=_("Only where the partner has heard of the conversion before."),
    )

    failure_count = models.PositiveIntegerField(_("failures in a row"), default=0, editable=False)
    failing_since = models.DateTimeField(_("failing since"), null=True, blank=True, editable=False)
    callbacks_suspended_on = models.DateTimeField(
        _("callbacks suspended on"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("Since then callbacks are held, because too many in a row had failed."),
    )

    objects = SubscriptionQuerySet.as_manager()

    class Meta:
        verbose_name = _("subscription")
        verbose_name_plural = _("subscriptions")

    def __str__(self) -> str:
        return self.trigger

    def save(
        self,
        *args: Any,
        update_fields: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Save, but never with a callback URL that could not be called.

        ``InvalidCallBackURL`` where one is about to be written, as in 0.12. A 0.12 row whose URL is
        refused today can still have its other fields written, with ``update_fields``.

        What the delivery keeps of failures is not written along: a page of the Admin that was open
        when the subscription was suspended would take that back.
        """
        if update_fields is None and self.pk and not self._state.adding:
            unwritten = {"id", *_KEPT_BY_DELIVERY, *self.get_deferred_fields()}
            update_fields = [
                field.name
                for field in self._meta.concrete_fields
                if not {field.name, field.attname} & unwritten
            ]
        if self.callback_url and (update_fields is None or "callback_url" in update_fields):
            self.validate_callback_url()
        super().save(*args, update_fields=update_fields, **kwargs)

    def clean(self) -> None:
        """
        Refuse, in forms, what cannot be kept: each mistake with its mend beside the field.

        They are a bad callback URL, a second subscription to the same trigger, a payout that cannot
        be reckoned, and what contradicts itself.
        """
        super().clean()
        self.payout_currency = self.payout_currency.strip().upper()
        mistakes: dict[str, Any] = self.payout_mistakes()
        if self.callback_url:
            try:
                self.validate_callback_url()
            except InvalidCallBackURL as error:
                mistakes["callback_url"] = error.messages
        stored = Subscription.objects.filter(partner_id=self.partner_id, trigger=self.trigger)
        twins = {pk for pk, name in stored.values_list("pk", "trigger") if name == self.trigger}
        # One of several that are stored already was left there by 0.12, and may stay.
        if twins and self.pk not in twins:
            mistakes["trigger"] = _("This partner subscribes to this trigger already.")
        if self.approve_after is not None and self.approval != self.Approval.AUTOMATIC:
            mistakes["approve_after"] = _("Choose automatic approval, or leave this empty.")
        if self.call_on_rejection and not (self.call_on_conversion or self.call_on_approval):
            mistakes["call_on_rejection"] = _(
                "A rejection is told only where something was told before: call on conversion or "
                "on approval too."
            )
        if mistakes:
            raise ValidationError(mistakes)

    def payout_mistakes(self) -> dict[str, Any]:
        """Say, by field, what keeps the payout from being reckoned, and what to do about it."""
        kind, value, currency = self.payout_type, self.payout_value, self.payout_currency
        is_fixed = kind == self.PayoutType.FIXED
        is_known, decimals = is_currency(currency), get_currency_precision(currency)
        mistakes: dict[str, Any] = {}
        if kind == self.PayoutType.NONE:
            if value is not None:
                mistakes["payout_type"] = _(
                    "Choose a fixed amount or a percentage, or leave the payout value empty."
                )
        elif value is None or value <= 0:
            mistakes["payout_value"] = _("Write how much is paid: more than 0.")
        elif not is_fixed and value > 100:
            mistakes["payout_value"] = _("Write a percentage: at most 100.")
        elif is_fixed and is_known and round(value, decimals) != value:
            mistakes["payout_value"] = _(
                "Write at most %(decimals)s decimals: %(currency)s has no more."
            ) % {"decimals": decimals, "currency": currency}
        if is_fixed and not is_known:
            mistakes["payout_currency"] = _("Write the currency in three letters, such as EUR.")
        elif currency and not is_fixed:
            mistakes["payout_currency"] = _(
                "Leave this empty: it is the currency of a fixed amount."
            )
        return mistakes

    def validate_callback_url(self) -> None:
        """Raise ``InvalidCallBackURL`` unless a callback can be sent to ``callback_url``."""
        placeholders.validate(self.callback_url)
        if settings.callback_require_https and urlsplit(self.callback_url).scheme != "https":
            raise InvalidCallBackURL(_("This site calls partners over https:// only."))
