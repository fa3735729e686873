"""Subscriptions of partners to triggers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from affiliations import placeholders, url_mistakes
from affiliations.amounts import decimals_mistake, is_currency
from affiliations.conf import settings
from affiliations.dates import day_of, midnight, months_after
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models.partner import Partner

#: The fields that only the delivery of callbacks writes.
DELIVERY_FIELDS = (
    "failure_count",
    "failing_since",
    "callbacks_suspended_on",
    "callbacks_paused_until",
    "pause_count",
    "last_error",
    "last_status_code",
)
#: The fields that ``save()`` leaves alone, since other processes write them.
_NOT_OF_FORMS = (*DELIVERY_FIELDS, "noticed_failing_since")
#: The longest earning period besides *Always*: a hundred years.
MAX_EARNS_MONTHS = 1_200
#: After this number of failures in a row a warning is logged, and a notice is due.
WARN_AFTER_FAILURES = 5


#: A host, up to a port or the end. It may have an underscore or no dot, as containers do.
_LOCAL_HOST = re.compile(r"(^|@)[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?(?=$|:\d+$)", re.IGNORECASE)


def validate_url(url: str) -> None:
    """Validate a URL; hosts of a local network are valid only if the site calls such networks."""
    if settings.callback_allowed_networks:
        with suppress(ValueError):  # No valid URL, as the validator says.
            parts = urlsplit(url)
            url = parts._replace(netloc=_LOCAL_HOST.sub(r"\1localhost", parts.netloc)).geturl()
    URLValidator(schemes=["http", "https"])(url)


class SubscriptionQuerySet(models.QuerySet["Subscription"]):
    def suspended(self) -> SubscriptionQuerySet:
        """Keep the subscriptions whose callbacks wait for staff, since too many failed."""
        return self.filter(callbacks_suspended_on__isnull=False)

    def paused(self) -> SubscriptionQuerySet:
        """Keep the subscriptions whose callbacks wait for a busy server, and not for staff."""
        return self.filter(callbacks_paused_until__isnull=False, callbacks_suspended_on=None)

    def failing(self) -> SubscriptionQuerySet:
        """Keep the subscriptions whose last callback failed, suspended and paused ones included."""
        return self.exclude(
            failure_count=0, callbacks_suspended_on=None, callbacks_paused_until=None
        )

    def notice_due(self) -> SubscriptionQuerySet:
        """Keep those whose callbacks keep failing, unless a notice has told the partner so."""
        is_known = Q(noticed_failing_since=F("failing_since"))
        # Not "exclude", which would also leave out those whose column is NULL.
        is_new = Q(noticed_failing_since=None) | ~is_known
        return self.failing().filter(
            is_new, failing_since__isnull=False, failure_count__gte=WARN_AFTER_FAILURES
        )

    def sendable(self, now: datetime) -> SubscriptionQuerySet:
        """Keep the subscriptions whose callbacks are neither suspended nor paused."""
        may_send = Q(callbacks_paused_until=None) | Q(callbacks_paused_until__lte=now)
        return self.filter(may_send, callbacks_suspended_on=None)

    def with_earning_period(self) -> SubscriptionQuerySet:
        """Keep the active subscriptions that earn for longer than the attribution window."""
        return self.filter(active=True).exclude(earns_for=Subscription.EarnsFor.WINDOW)

    def to_trigger(self, trigger: str) -> list[Subscription]:
        """
        Return the active subscriptions to a trigger, oldest first.

        Python compares the names again, since MariaDB ignores case, accents and trailing spaces.
        """
        found = self.filter(trigger=trigger, active=True).order_by("pk")
        return [subscription for subscription in found if subscription.trigger == trigger]

    def closing_too_early(self) -> list[str]:
        """
        Return the triggers of active subscriptions that end the tracking of a visitor too early.

        Call it on the subscriptions of one partner. A subscription ends the tracking too early if
        it loses conversions of another trigger or, if every reference counts, its own later ones.
        """
        active = list(self.filter(active=True).order_by("pk"))
        has_others = len({subscription.trigger for subscription in active}) > 1
        closing = (
            subscription.trigger
            for subscription in active
            if subscription.loses_own_conversions or (has_others and subscription.closes_referral)
        )
        return list(dict.fromkeys(closing))


class Subscription(models.Model):
    """
    A partner's agreement about a trigger: when it counts, the payout, and the callback URL.

    Without a ``callback_url``, conversions count but no callback is sent.
    """

    class Counting(models.TextChoices):
        ONCE = "once", _("Once per visitor")
        EVERY = "every", _("Every order (unique reference)")

    class EarnsFor(models.TextChoices):
        WINDOW = "window", _("The attribution window")
        MONTHS = "months", _("A number of months after the first conversion")
        ALWAYS = "always", _("Always, after the first conversion")

    class PayoutType(models.TextChoices):
        NONE = "none", _("No commission")
        FIXED = "fixed", _("Fixed amount")
        PERCENT = "percent", _("Percentage of the amount")

    class Approval(models.TextChoices):
        AUTOMATIC = "automatic", _("Automatic, after the hold period")
        MANUAL = "manual", _("Manual, or by your shop")

    class Method(models.TextChoices):
        GET = "GET", _("GET: all values in the URL")
        POST = "POST", _("POST: all values as JSON")

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
        help_text=_("The event that is credited. Set up by your developers in AFFILIATE_TRIGGERS."),
    )
    # No URLField: its form completes a missing scheme, and hosts without a dot may be allowed.
    callback_url = models.CharField(
        _("callback URL"),
        max_length=placeholders.MAX_LENGTH,
        blank=True,
        default="",
        validators=[validate_url],
        help_text=_(
            "The partner’s callback (postback) URL for this trigger. With GET it must contain "
            "{visitor_id} or {click_id}. Leave empty to record conversions without sending "
            "callbacks."
        ),
    )
    method = models.CharField(
        _("method"),
        max_length=4,
        choices=Method.choices,
        default=Method.GET,
        db_default=Method.GET,
        help_text=_("How the callback URL is called. Most partners expect GET."),
    )
    active = models.BooleanField(
        _("active"),
        default=True,
        db_default=True,
        help_text=_("Inactive: no new conversions are credited for this subscription."),
    )
    #: Whether each order counts, or only the first conversion of a visitor.
    counting = models.CharField(
        _("count conversions"),
        max_length=8,
        choices=Counting.choices,
        default=Counting.ONCE,
        db_default=Counting.ONCE,
    )
    closes_referral = models.BooleanField(
        _("stop tracking the visitor after the first conversion"),
        default=True,
        db_default=True,
        help_text=_("Later conversions of the same visitor are not credited, for any trigger."),
    )
    earns_for = models.CharField(
        _("earns for"),
        max_length=6,
        choices=EarnsFor.choices,
        default=EarnsFor.WINDOW,
        db_default=EarnsFor.WINDOW,
        help_text=_("How long later orders of the same customer are credited, such as renewals."),
    )
    #: For ``earns_for`` ``months``.
    earns_months = models.PositiveSmallIntegerField(_("earns for (months)"), null=True, blank=True)
    #: How the payout is calculated.
    payout_type = models.CharField(
        _("payout"),
        max_length=7,
        choices=PayoutType.choices,
        default=PayoutType.NONE,
        db_default=PayoutType.NONE,
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
        db_default="",
        help_text=_(
            "For a fixed amount only, such as EUR. A percentage is paid in the currency of the "
            "order."
        ),
    )
    #: Whether conversions are approved by themselves, or by staff and signals.
    approval = models.CharField(
        _("approval"),
        max_length=9,
        choices=Approval.choices,
        default=Approval.AUTOMATIC,
        db_default=Approval.AUTOMATIC,
    )
    approve_after = models.PositiveSmallIntegerField(
        _("hold period (days)"),
        null=True,
        blank=True,
        help_text=_(
            "How long automatic approval waits, for example for returned goods. Leave empty to "
            "approve immediately."
        ),
    )
    call_on_conversion = models.BooleanField(
        _("send callback when created"), default=True, db_default=True
    )
    call_on_approval = models.BooleanField(
        _("send callback when approved"), default=False, db_default=False
    )
    call_on_rejection = models.BooleanField(
        _("send callback when rejected"),
        default=False,
        db_default=False,
        help_text=_("Only if the partner was told about the conversion."),
    )

    #: Attempts that have failed since the last one that was accepted.
    failure_count = models.PositiveIntegerField(
        _("failures in a row"), default=0, db_default=0, editable=False
    )
    failing_since = models.DateTimeField(_("failing since"), null=True, blank=True, editable=False)
    callbacks_suspended_on = models.DateTimeField(
        _("callbacks suspended on"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("Callbacks have been waiting since then, because too many failed in a row."),
    )
    callbacks_paused_until = models.DateTimeField(
        _("callbacks paused until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_(
            "The partner’s server is busy. When the pause ends, one callback is sent to test the "
            "server."
        ),
    )
    pause_count = models.PositiveIntegerField(
        _("pauses in a row"), default=0, db_default=0, editable=False
    )
    #: The error and the status code of the last failed attempt, as in ``CallbackAttempt``. Both are
    #: cleared when an attempt is accepted.
    last_error = models.CharField(
        _("last error"), max_length=15, blank=True, default="", db_default="", editable=False
    )
    last_status_code = models.PositiveSmallIntegerField(
        _("last status code"), null=True, blank=True, editable=False
    )
    #: The ``failing_since`` of the failures that a notice has told the partner of.
    noticed_failing_since = models.DateTimeField(null=True, blank=True, editable=False)

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
        Save, or raise ``InvalidCallBackURL``, as in 0.12, if the callback URL is not valid.

        A row of an earlier version may have a URL that is refused today. It is kept, and the other
        fields can be saved.

        A change without ``update_fields`` does not write the fields of the delivery and of notices.
        Otherwise a form that was opened before a suspension would undo it.
        """
        if update_fields is None and self.pk and not self._state.adding:
            left_out = {"id", *_NOT_OF_FORMS, *self.get_deferred_fields()}
            update_fields = [
                field.name
                for field in self._meta.concrete_fields
                if not {field.name, field.attname} & left_out
            ]
        written = {"callback_url", "method"} & set(update_fields or ["callback_url"])
        if self.callback_url and written:
            try:
                self.validate_callback_url()
            except InvalidCallBackURL:
                if not self._keeps_callback_url():
                    raise
        super().save(*args, update_fields=update_fields, **kwargs)

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Report all mistakes in the callback URL, unless it is stored already."""
        left_out = set(exclude or ())
        mistakes: dict[str, Any] = {}
        try:
            super().clean_fields({*left_out, "callback_url"})
        except ValidationError as error:
            mistakes = error.error_dict
        if self.callback_url and "callback_url" not in left_out:
            found = self.callback_url_mistakes()
            if found and not self._keeps_callback_url():
                mistakes["callback_url"] = [mistake.message for mistake in found]
        if mistakes:
            raise ValidationError(mistakes)

    def validate_unique(self, exclude: Collection[str] | None = None) -> None:
        super().validate_unique(exclude)
        if "trigger" in (exclude or ()):
            return
        stored = Subscription.objects.filter(partner_id=self.partner_id, trigger=self.trigger)
        same = {pk for pk, name in stored.values_list("pk", "trigger") if name == self.trigger}
        # 0.12 allowed several subscriptions to one trigger. Those stay valid.
        if same and self.pk not in same:
            raise ValidationError(
                {
                    "trigger": _(
                        "This partner already subscribes to this trigger. Edit the existing "
                        "subscription instead."
                    )
                }
            )

    def clean(self) -> None:
        super().clean()
        self.payout_currency = self.payout_currency.strip().upper()
        mistakes: dict[str, Any] = {**self.payout_mistakes(), **self._earning_mistakes()}
        currency, value = self.payout_currency, self.payout_value
        if currency and value is not None and not mistakes:
            mistake = decimals_mistake(value, currency)
            mistakes |= {"payout_value": mistake} if mistake else {}
        if self.approve_after is not None and self.approval != self.Approval.AUTOMATIC:
            mistakes["approve_after"] = _(
                "Choose automatic approval, or leave the hold period empty."
            )
        if self.call_on_rejection and not (self.call_on_conversion or self.call_on_approval):
            mistakes["call_on_rejection"] = _(
                "A rejection is only sent after an earlier callback. Also send a callback when "
                "the conversion is created or approved."
            )
        if mistakes:
            raise ValidationError(mistakes)

    @property
    def is_suspended(self) -> bool:
        return self.callbacks_suspended_on is not None

    @property
    def is_paused(self) -> bool:
        """Whether the partner's server was busy, and has accepted no callback since."""
        return self.callbacks_paused_until is not None

    @property
    def is_failing(self) -> bool:
        return bool(self.failure_count) or self.is_suspended or self.is_paused

    def payout_mistakes(self) -> dict[str, Any]:
        """Return the errors of the payout's fields, as for ``ValidationError``."""
        kind, value, currency = self.payout_type, self.payout_value, self.payout_currency
        is_fixed = kind == self.PayoutType.FIXED
        mistakes: dict[str, Any] = {}
        if kind == self.PayoutType.NONE:
            if value is not None:
                mistakes["payout_type"] = _(
                    "Choose a fixed amount or a percentage, or leave the payout value empty."
                )
        elif value is None or value <= 0:
            mistakes["payout_value"] = _("Enter a value greater than 0.")
        elif not is_fixed and value > 100:
            mistakes["payout_value"] = _("Enter a percentage of at most 100.")
        if is_fixed and not is_currency(currency):
            mistakes["payout_currency"] = _("Enter the three-letter currency code, such as EUR.")
        elif currency and not is_fixed:
            mistakes["payout_currency"] = _(
                "Leave this empty: only a fixed amount has a payout currency."
            )
        return mistakes

    def _earning_mistakes(self) -> dict[str, Any]:
        """Return the errors of the earning period, as for ``ValidationError``."""
        mistakes: dict[str, Any] = {}
        months = self.earns_months
        if self.has_earning_period and self.counting == self.Counting.ONCE:
            mistakes["earns_for"] = _(
                "Later orders are credited only if every order counts. Choose “Every order” for "
                "“Count conversions”, or “The attribution window” here."
            )
        if self.earns_for != self.EarnsFor.MONTHS:
            if months is not None:
                mistakes["earns_months"] = _(
                    "Choose “A number of months after the first conversion”, or leave this empty."
                )
        elif months is None:
            mistakes["earns_months"] = _("Enter the number of months, such as 12.")
        elif not 1 <= months <= MAX_EARNS_MONTHS:
            mistakes["earns_months"] = _(
                "Enter a number of months from 1 to %(most)s, or choose “Always”."
            ) % {"most": MAX_EARNS_MONTHS}
        return mistakes

    @property
    def has_earning_period(self) -> bool:
        """Whether later conversions of a customer are credited after the attribution window."""
        return self.earns_for != self.EarnsFor.WINDOW

    @property
    def loses_own_conversions(self) -> bool:
        """Whether it would credit later conversions, had it not stopped tracking the visitor."""
        counts_all = self.counting == self.Counting.EVERY
        return self.closes_referral and counts_all and not self.has_earning_period

    def earning_ends_on(self, first: datetime) -> date | None:
        """
        Return the day on which the earning period ends, in the time zone of the site.

        The day itself is not in the period, which begins with the conversion at ``first``. ``None``
        if the period has no end.
        """
        if self.earns_for == self.EarnsFor.ALWAYS:
            return None
        return months_after(day_of(first), self.earns_months or 0)

    def is_earning(self, first: datetime, now: datetime) -> bool:
        """Return whether the earning period that begins at ``first`` runs."""
        if not self.has_earning_period:
            return False
        end = self.earning_ends_on(first)
        return end is None or day_of(now) < end

    def earliest_running(self, now: datetime) -> datetime:
        """Return the earliest start of an earning period that still runs, if it has months."""
        today, months = day_of(now), self.earns_months or 0
        first = months_after(today, -months)
        while months_after(first, months) <= today:
            first += timedelta(days=1)
        return midnight(first)

    @property
    def earns_display(self) -> str:
        """For how long it earns, in words."""
        if self.earns_for != self.EarnsFor.MONTHS:
            return self.get_earns_for_display()
        text = ngettext("%(count)s month", "%(count)s months", self.earns_months or 0)
        return text % {"count": self.earns_months or 0}

    @property
    def url_rules(self) -> url_mistakes.Rules:
        """What the callback URL must have: it depends on the method and on the settings."""
        return url_mistakes.Rules(
            identifying=() if self.method == self.Method.POST else placeholders.IDENTIFYING,
            require_https=settings.callback_require_https,
        )

    def validate_callback_url(self) -> None:
        """
        Raise ``InvalidCallBackURL`` unless a callback can be sent to ``callback_url``.

        :meta public:
        """
        url_mistakes.validate(self.callback_url, self.url_rules)

    def callback_url_mistakes(self) -> list[url_mistakes.Mistake]:
        """Return why forms refuse the callback URL, also what its corrections would leave wrong."""
        found = url_mistakes.mistakes(self.callback_url, self.url_rules)
        try:
            validate_url(url_mistakes.correct(self.callback_url, self.url_rules))
        except ValidationError as error:
            found += [url_mistakes.Mistake(message) for message in error.messages]
        return found

    def _keeps_callback_url(self) -> bool:
        """Tell whether URL and method are stored already, such as by an earlier version."""
        if self._state.adding:
            return False
        stored = Subscription.objects.filter(pk=self.pk).values_list("callback_url", "method")
        return stored.first() == (self.callback_url, self.method)
