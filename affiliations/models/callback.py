"""The callback: the HTTP GET that tells a partner about a conversion, and each attempt at it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from datetime import datetime

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations.models.conversion import Conversion
from affiliations.models.partner import Partner
from affiliations.models.status import has_status
from affiliations.models.subscription import Subscription


def new_webhook_id() -> str:
    """
    Return 32 hexadecimal characters, by which a partner knows a callback again.

    The time in ms and 80 random bits, much as in a UUID of version 7 (RFC 9562, 5.7): what is
    written together stands together in the index too, however long the table is.
    """
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class CallbackQuerySet(models.QuerySet["Callback"]):
    """Questions about callbacks."""

    def due(self, now: datetime) -> CallbackQuerySet:
        """Keep those that somebody should send now."""
        return self.filter(status=Callback.Status.QUEUED, next_attempt_on__lte=now)

    def queued(self) -> CallbackQuerySet:
        """Keep those that are waiting for their next attempt, now or later."""
        return self.filter(status=Callback.Status.QUEUED)

    def as_claimed(self, callback: Callback) -> CallbackQuerySet:
        """Keep that one's row, as long as it waits and its lease has not passed to another."""
        return self.filter(
            has_status(Callback.Status.QUEUED), pk=callback.pk, lease_token=callback.lease_token
        )


class Callback(models.Model):
    """
    One row of the outbox: the queue, the schedule and the audit log in one.

    ``url`` was rendered when the conversion was recorded and never changes. Who sends it claims it
    first: ``lease_token`` says whose it is, and ``next_attempt_on`` until when.
    """

    class Event(models.TextChoices):
        """What the partner is told."""

        CONVERSION = "conversion", _("conversion")
        APPROVAL = "approval", _("approval")
        REJECTION = "rejection", _("rejection")
        TEST = "test", _("test")

    class Status(models.TextChoices):
        """How far it has come."""

        QUEUED = "queued", _("queued")
        HELD = "held", _("held")
        DELIVERED = "delivered", _("delivered")
        EXHAUSTED = "exhausted", _("exhausted")
        CANCELLED = "cancelled", _("cancelled")

    id = models.BigAutoField(primary_key=True)
    conversion = models.ForeignKey(
        Conversion,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="callbacks",
        verbose_name=_("conversion"),
        help_text=_("Empty for a test callback."),
    )
    subscription = models.ForeignKey(
        Subscription,
        on_delete=models.PROTECT,
        related_name="callbacks",
        verbose_name=_("subscription"),
    )
    # The subscription's, again: who claims looks at it for every row and must lock no other table.
    partner = models.ForeignKey(
        Partner,
        on_delete=models.PROTECT,
        related_name="callbacks",
        verbose_name=_("partner"),
    )
    event = models.CharField(
        _("event"), max_length=10, choices=Event.choices, default=Event.CONVERSION
    )
    edition = models.PositiveSmallIntegerField(
        _("edition"),
        default=1,
        help_text=_("Above 1: sent again with the callback URL of a later day."),
    )
    url = models.TextField(_("URL"))
    status = models.CharField(
        _("status"), max_length=9, choices=Status.choices, default=Status.QUEUED
    )
    reason = models.CharField(
        _("reason"), max_length=255, blank=True, help_text=_("Why it was cancelled.")
    )
    attempt_count = models.PositiveIntegerField(_("attempts"), default=0)
    resend_count = models.PositiveIntegerField(
        _("sent again by hand"), default=0, help_text=_("Each time allows for one more attempt.")
    )
    is_manual = models.BooleanField(
        default=False, editable=False, help_text=_("The next attempt was asked for by hand.")
    )
    next_attempt_on = models.DateTimeField(_("next attempt on"), default=timezone.now)
    lease_token = models.CharField(max_length=32, blank=True, editable=False)
    delivered_on = models.DateTimeField(_("delivered on"), null=True, blank=True)
    created_on = models.DateTimeField(_("created on"), default=timezone.now)
    webhook_id = models.CharField(
        _("webhook id"),
        max_length=32,
        unique=True,
        default=new_webhook_id,
        help_text=_("The same over every attempt, so that the partner can tell them apart."),
    )

    objects = CallbackQuerySet.as_manager()

    class Meta:
        verbose_name = _("callback")
        verbose_name_plural = _("callbacks")
        constraints = [
            models.UniqueConstraint(
                fields=["conversion", "subscription", "event", "edition"],
                name="affiliations_callback_event_told_once",
            )
        ]
        indexes = [
            # Not conditional: MySQL would leave them out.
            models.Index(fields=["status", "next_attempt_on"], name="affiliations_callback_due"),
            # Not the partner first: InnoDB would take it for the foreign key's, and each change of
            # a status would hold a share of the partner's row.
            models.Index(
                fields=["status", "partner", "next_attempt_on"],
                name="affiliations_callback_partner",
            ),
            models.Index(fields=["created_on"], name="affiliations_callback_made"),
        ]

    def __str__(self) -> str:
        return self.url

    def attempts_allowed(self, schedule: Sequence[object]) -> int:
        """Return how often it is tried: once for each step of the schedule, and when asked to."""
        return len(schedule) + self.resend_count


class CallbackAttempt(models.Model):
    """How one attempt at sending a callback ended."""

    class Error(models.TextChoices):
        """The closed list of ways in which an attempt can fail."""

        TIMEOUT = "timeout", _("the partner did not answer in time")
        DEADLINE = "deadline", _("the whole call took too long")
        DNS = "dns", _("the name of the host was not found")
        CONNECT = "connect", _("no connection")
        TLS = "tls", _("no trustworthy encrypted connection")
        BLOCKED_ADDRESS = "blocked_address", _("an address inside this site’s network")
        REDIRECTS = "redirects", _("redirected too often, or to an insecure address")
        PROTOCOL = "protocol", _("not an HTTP answer")
        HTTP_STATUS = "http_status", _("the partner’s server answered with an error")
        LOST = "lost", _("the connection was lost before the answer was complete")

    id = models.BigAutoField(primary_key=True)
    callback = models.ForeignKey(
        Callback,
        on_delete=models.CASCADE,
        related_name="attempts",
        verbose_name=_("callback"),
    )
    number = models.PositiveIntegerField(_("number"))
    manual = models.BooleanField(_("sent by hand"), default=False)
    started_on = models.DateTimeField(_("started on"))
    duration_ms = models.PositiveIntegerField(_("duration in ms"))
    status_code = models.PositiveSmallIntegerField(_("status code"), null=True, blank=True)
    error = models.CharField(_("error"), max_length=15, choices=Error.choices, blank=True)
    message = models.TextField(_("message"), blank=True)
    response_excerpt = models.TextField(_("start of the answer"), blank=True)

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        constraints = [
            models.UniqueConstraint(
                fields=["callback", "number"], name="affiliations_attempt_numbered_once"
            )
        ]
        indexes = [models.Index(fields=["started_on"], name="affiliations_attempt_began")]

    def __str__(self) -> str:
        return f"{self.number}"
