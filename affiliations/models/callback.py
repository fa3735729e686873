"""The callback: the HTTP GET that tells a partner about a conversion, and each attempt at it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.db import models, router, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations.models.conversion import Conversion
from affiliations.models.subscription import Subscription


def new_webhook_id() -> str:
    """Return 32 random hexadecimal characters, by which a partner knows a callback again."""
    return uuid4().hex


class CallbackQuerySet(models.QuerySet["Callback"]):
    """Questions about callbacks."""

    def due(self, now: datetime) -> CallbackQuerySet:
        """Keep those that somebody should send now."""
        return self.filter(status=Callback.Status.QUEUED, next_attempt_on__lte=now)


class Callback(models.Model):
    """
    One row of the outbox: the queue, the schedule and the audit log in one.

    ``url`` was rendered when the conversion was recorded and never changes. Who sends it claims it
    first: ``lease_token`` says whose it is, and ``next_attempt_on`` until when.
    """

    class Event(models.TextChoices):
        """What the partner is told."""

        CONVERSION = "conversion", _("conversion")

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
        related_name="callbacks",
        verbose_name=_("conversion"),
    )
    subscription = models.ForeignKey(
        Subscription,
        on_delete=models.PROTECT,
        related_name="callbacks",
        verbose_name=_("subscription"),
    )
    event = models.CharField(
        _("event"), max_length=10, choices=Event.choices, default=Event.CONVERSION
    )
    url = models.TextField(_("URL"))
    status = models.CharField(
        _("status"), max_length=9, choices=Status.choices, default=Status.QUEUED
    )
    reason = models.CharField(
        _("reason"), max_length=255, blank=True, help_text=_("Why it was cancelled.")
    )
    attempt_count = models.PositiveIntegerField(_("attempts"), default=0)
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
                fields=["conversion", "subscription", "event"],
                name="affiliations_callback_event_told_once",
            )
        ]
        indexes = [
            models.Index(fields=["status", "next_attempt_on"], name="affiliations_callback_due")
        ]

    def __str__(self) -> str:
        return self.url

    def claim(self, now: datetime, lease: timedelta) -> bool:
        """
        Take the callback for one attempt; ``False`` where it is not due or somebody else's.

        One compare-and-set, on the number of attempts too: whoever has claimed since this row was
        read makes it fail. The attempt counts from here, so that a callback which kills whoever
        sends it still comes to an end.
        """
        claim = {
            "lease_token": uuid4().hex,
            "next_attempt_on": now + lease,
            "attempt_count": self.attempt_count + 1,
        }
        still = Callback.objects.due(now).filter(pk=self.pk, attempt_count=self.attempt_count)
        if not still.update(**claim):
            return False
        for name, value in claim.items():
            setattr(self, name, value)
        return True

    def record(self, *, now: datetime, delivered: bool, **result: Any) -> None:
        """
        Write down how the claimed attempt ended, with the fields of ``CallbackAttempt``.

        A success always wins. A failure is due again, unless the lease has passed to another.
        """
        with transaction.atomic(using=router.db_for_write(Callback)):
            self.attempts.create(number=self.attempt_count, **result)
            row = Callback.objects.filter(pk=self.pk)
            if delivered:
                row.exclude(status=Callback.Status.DELIVERED).update(
                    status=Callback.Status.DELIVERED, delivered_on=now
                )
            else:
                row.filter(lease_token=self.lease_token).update(next_attempt_on=now)


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

    def __str__(self) -> str:
        return f"{self.number}"
