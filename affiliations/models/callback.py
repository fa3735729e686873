"""Callbacks, the HTTP requests that tell partners about conversions, and their attempts."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import models
from django.db.models import Min, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce, Greatest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations import db, placeholders
from affiliations.db import status_in
from affiliations.models.conversion import Conversion, HasReason
from affiliations.models.delivery_errors import DeliveryError, cure_for
from affiliations.models.partner import Partner
from affiliations.models.subscription import Subscription


def new_webhook_id() -> str:
    """
    Return 32 hexadecimal characters: the time in ms and 80 random bits.

    Like UUIDs of version 7 (RFC 9562, 5.7), new ids are neighbours in the index, which keeps
    inserts fast in a long table.
    """
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class IsTestField(models.BooleanField):  # type: ignore[type-arg] # not at run time
    """
    Whether a row is a test: the result of the row's ``of_test()`` when it is inserted.

    It is stored, because a list that is filtered by it would otherwise read all rows and their
    related rows. It never changes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"default": False, "db_default": False, "editable": False} | options)

    def deconstruct(self) -> Any:
        name, _path, arguments, options = super().deconstruct()
        return name, "django.db.models.BooleanField", arguments, options

    def pre_save(self, model_instance: Any, add: bool) -> bool:
        if add:
            setattr(model_instance, self.attname, model_instance.of_test())
        return bool(super().pre_save(model_instance, add))


class CallbackQuerySet(models.QuerySet["Callback"]):
    def queued(self) -> CallbackQuerySet:
        """
        Keep the callbacks that are still to be sent.

        They include those of suspended and paused subscriptions, which are sent later.
        """
        return self.filter(status=Callback.Status.QUEUED)

    def due(self, now: datetime) -> CallbackQuerySet:
        """Keep the queued callbacks whose next attempt is not in the future."""
        return self.queued().filter(next_attempt_on__lte=now)

    def in_flight(self, now: datetime) -> CallbackQuerySet:
        """Keep the queued callbacks that a worker has claimed."""
        return self.queued().filter(next_attempt_on__gt=now).exclude(lease_token="")

    def first_due(self) -> Subquery:
        """Return a subquery of subscriptions: when the first queued callback of each is due."""
        first = self.queued().filter(subscription=OuterRef("pk")).order_by("next_attempt_on")
        return Subquery(first.values("next_attempt_on")[:1])

    def next_attempt(self) -> datetime | None:
        """Return when the next callback can be sent: after a pause, and not while suspended."""
        pause = Coalesce("callbacks_paused_until", "due_on")
        endpoints = Subscription.objects.using(self.db).filter(callbacks_suspended_on=None)
        next_on = Min(Greatest("due_on", pause))
        due = endpoints.annotate(due_on=self.first_due())
        found: dict[str, datetime | None] = due.aggregate(on=next_on)
        return found["on"]

    def not_in_flight(self, now: datetime) -> CallbackQuerySet:
        """Exclude the callbacks that a worker is sending, whatever their status is by now."""
        return self.exclude(Q(next_attempt_on__gt=now) & ~Q(lease_token=""))

    def gave_up(self, since: datetime) -> CallbackQuerySet:
        """
        Keep the callbacks that the app gave up: no attempt is left, or the URL cannot be rendered.

        ``since`` is compared with ``next_attempt_on``, the end of the last attempt's lease, which
        has an index.
        """
        return self.filter(
            Q(status=Callback.Status.EXHAUSTED) | Q(reason=placeholders.CLIMBS),
            # Redundant, but it lets the database use the index.
            status__in=[Callback.Status.EXHAUSTED, Callback.Status.CANCELLED],
            next_attempt_on__gt=since,
        )

    def as_claimed(self, *callbacks: Callback) -> CallbackQuerySet:
        """Keep those of these callbacks that are still queued and whose claim still holds."""
        return self.filter(
            status_in(Callback.Status.QUEUED),
            pk__in=[callback.pk for callback in callbacks],
            lease_token__in={callback.lease_token for callback in callbacks},
        )


class Callback(HasReason, models.Model):
    """
    A callback (postback): one event of a conversion, for one subscription.

    The table is the queue, the schedule and the log. ``url`` and ``body`` are rendered when the row
    is created. They do not change once an attempt has begun, unless personal data is erased. A
    worker claims a row before it sends the callback: ``lease_token`` is then the id of the claim,
    and ``next_attempt_on`` the end of its lease.
    """

    class Event(models.TextChoices):
        CONVERSION = "conversion", _("conversion")
        APPROVAL = "approval", _("approval")
        REJECTION = "rejection", _("rejection")
        TEST = "test", _("test")

    class Status(models.TextChoices):
        QUEUED = "queued", _("queued")
        DELIVERED = "delivered", _("delivered")
        EXHAUSTED = "exhausted", _("gave up")
        CANCELLED = "cancelled", _("cancelled")

    id = models.BigAutoField(primary_key=True)
    conversion = models.ForeignKey(
        Conversion,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="callbacks",
        verbose_name=_("conversion"),
        help_text=_("A test callback has no conversion."),
    )
    subscription = models.ForeignKey(
        Subscription,
        on_delete=models.PROTECT,
        related_name="callbacks",
        verbose_name=_("subscription"),
    )
    #: A copy of the subscription's partner.
    partner = models.ForeignKey(
        Partner,
        on_delete=models.PROTECT,
        related_name="callbacks",
        # The first column of an index.
        db_index=False,
        verbose_name=_("partner"),
    )
    event = models.CharField(
        _("event"), max_length=10, choices=Event.choices, default=Event.CONVERSION
    )
    version = models.PositiveSmallIntegerField(
        _("version"),
        default=1,
        help_text=_("Above 1 if the event was sent again with a newer callback URL."),
    )
    method = models.CharField(
        _("method"),
        max_length=4,
        choices=Subscription.Method.choices,
        default=Subscription.Method.GET,
        db_default=Subscription.Method.GET,
    )
    #: The callback URL with the placeholders filled in.
    url = models.TextField(_("URL"))
    # Not db_default: for a text, MySQL accepts only expressions. A GET has no body.
    body = models.TextField(
        _("body"), blank=True, default="", help_text=_("The JSON that a POST sends.")
    )
    status = models.CharField(
        _("status"), max_length=9, choices=Status.choices, default=Status.QUEUED
    )
    reason = models.CharField(
        _("reason"), max_length=255, blank=True, help_text=_("Why the callback was cancelled.")
    )
    attempt_count = models.PositiveIntegerField(_("attempts"), default=0)
    resend_count = models.PositiveIntegerField(
        _("manual resends"), default=0, help_text=_("Each manual resend allows one more attempt.")
    )
    is_manual = models.BooleanField(
        default=False, editable=False, help_text=_("The next attempt was requested manually.")
    )
    #: While a worker has claimed the callback, this is the end of the lease.
    next_attempt_on = models.DateTimeField(_("next attempt on"), default=timezone.now)
    #: The id of the claim of a worker.
    lease_token = models.CharField(max_length=32, blank=True, editable=False)
    delivered_on = models.DateTimeField(_("delivered on"), null=True, blank=True)
    created_on = models.DateTimeField(_("created on"), default=timezone.now)
    is_test = IsTestField(verbose_name=_("test"))
    webhook_id = models.CharField(
        _("webhook id"),
        max_length=32,
        unique=True,
        default=new_webhook_id,
        help_text=_("The same in every attempt, so the partner can recognize a repeated callback."),
    )

    objects = CallbackQuerySet.as_manager()

    class Meta:
        verbose_name = _("callback")
        verbose_name_plural = _("callbacks")
        constraints = [
            models.UniqueConstraint(
                fields=["conversion", "subscription", "event", "version"],
                name="affiliations_callback_event_once",
            )
        ]
        indexes = [
            # Not conditional: MySQL would leave them out.
            models.Index(fields=["status", "next_attempt_on"], name="affiliations_callback_due"),
            # Not the subscription first: InnoDB would use it for the foreign key, and each change
            # of a status would take a shared lock of the subscription's row.
            models.Index(
                fields=["status", "subscription", "next_attempt_on"],
                name="affiliations_callback_endpoint",
            ),
            models.Index(fields=["created_on"], name="affiliations_callback_made"),
            # For the latest callbacks of a partner, without reading those of others.
            models.Index(fields=["partner", "id"], name="affiliations_callback_partner"),
            models.Index(fields=["is_test", "id"], name="affiliations_callback_test"),
        ]

    def __str__(self) -> str:
        # Not the URL, which has personal data: the Admin's history keeps this text.
        return f"{self.partner}: {self.pk}"

    def of_test(self) -> bool:
        """Return whether this is a test callback, or the callback of a test conversion."""
        if self.event == self.Event.TEST or self.conversion is None:
            return True
        return self.conversion.is_test

    @property
    def request_body(self) -> str | None:
        """The body to send; ``None`` for a GET."""
        return self.body if self.method == Subscription.Method.POST else None

    @property
    def conversion_status(self) -> str:
        """The status of the conversion as of this event; empty for a test callback."""
        if self.conversion is None:
            return ""
        decided = {
            Callback.Event.APPROVAL: Conversion.Status.APPROVED,
            Callback.Event.REJECTION: Conversion.Status.REJECTED,
        }
        return decided.get(Callback.Event(self.event), self.conversion.status)

    @property
    def conversion_amount(self) -> Decimal | None:
        """The amount to send: as recorded in the first callback, later after adjustments."""
        return self._of_event("amount")

    @property
    def conversion_payout(self) -> Decimal | None:
        """The payout to send: as recorded in the first callback, later after adjustments."""
        return self._of_event("payout")

    def _of_event(self, name: str) -> Decimal | None:
        if self.conversion is None or (self.event == self.Event.CONVERSION and self.version == 1):
            recorded: Decimal | None = getattr(self.conversion, name)
            return recorded
        # Not from a replica or an earlier read: the conversion may have been adjusted just now.
        return self.conversion.adjusted(name, self.conversion.adjustments.using(db.write_alias()))

    @property
    def waits_for(self) -> str:
        """Why a queued callback is not sent: ``"suspended"``, ``"paused"`` or empty."""
        if self.status != Callback.Status.QUEUED:
            return ""
        if self.subscription.is_suspended:
            return "suspended"
        return "paused" if self.subscription.is_paused else ""

    def attempts_allowed(self, schedule: Sequence[object]) -> int:
        """Return the maximum number of attempts: one for each step of the schedule and resend."""
        return len(schedule) + self.resend_count


class CallbackAttempt(models.Model):
    """One try to send a callback, with its result."""

    Error = DeliveryError

    #: The errors before anything is sent to the partner.
    NOT_SENT = (Error.DNS, Error.CONNECT, Error.TLS, Error.BLOCKED_ADDRESS, Error.CONFIGURATION)

    id = models.BigAutoField(primary_key=True)
    callback = models.ForeignKey(
        Callback,
        on_delete=models.CASCADE,
        related_name="attempts",
        verbose_name=_("callback"),
    )
    #: The first attempt of a callback has the number 1.
    number = models.PositiveIntegerField(_("number"))
    manual = models.BooleanField(_("sent manually"), default=False)
    started_on = models.DateTimeField(_("started on"))
    duration_ms = models.PositiveIntegerField(_("duration in ms"))
    status_code = models.PositiveSmallIntegerField(_("status code"), null=True, blank=True)
    #: Empty if the partner's server has accepted the callback.
    error = models.CharField(_("error"), max_length=15, choices=Error.choices, blank=True)
    #: The text of the error.
    message = models.TextField(_("message"), blank=True)
    #: The first 4 KiB of the response.
    response_excerpt = models.TextField(_("response excerpt"), blank=True)
    is_test = IsTestField(verbose_name=_("test"))

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        constraints = [
            models.UniqueConstraint(
                fields=["callback", "number"], name="affiliations_attempt_numbered_once"
            )
        ]
        indexes = [
            models.Index(fields=["started_on"], name="affiliations_attempt_began"),
            models.Index(fields=["is_test", "id"], name="affiliations_attempt_test"),
            models.Index(fields=["error", "started_on"], name="affiliations_attempt_error"),
        ]

    def __str__(self) -> str:
        return f"{self.number}"

    def of_test(self) -> bool:
        return bool(self.callback.is_test)

    @property
    def cure(self) -> str:
        """What the site can do about the error; empty if there was none."""
        return cure_for(self.error, self.status_code)

    @property
    def was_sent(self) -> bool:
        """Whether the request, or a part of it, has left for the partner."""
        return self.error not in self.NOT_SENT
