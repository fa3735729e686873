"""The subscription: what ties a partner to a trigger."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from affiliations import placeholders
from affiliations.conf import settings
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models.partner import Partner


class SubscriptionQuerySet(models.QuerySet["Subscription"]):
    """Questions about subscriptions."""

    def to_trigger(self, trigger: str) -> list[Subscription]:
        """
        Return the active ones to a trigger, oldest first.

        Names are compared again in Python, since MariaDB folds case, accents and blanks.
        """
        found = self.filter(trigger=trigger, active=True).order_by("pk")
        return [subscription for subscription in found if subscription.trigger == trigger]


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
        """
        if self.callback_url and (update_fields is None or "callback_url" in update_fields):
            self.validate_callback_url()
        super().save(*args, update_fields=update_fields, **kwargs)

    def clean(self) -> None:
        """Refuse, in forms, a bad callback URL and a second subscription to the same trigger."""
        super().clean()
        if self.callback_url:
            try:
                self.validate_callback_url()
            except InvalidCallBackURL as error:
                raise ValidationError({"callback_url": error.messages}) from error
        stored = Subscription.objects.filter(partner_id=self.partner_id, trigger=self.trigger)
        twins = {pk for pk, name in stored.values_list("pk", "trigger") if name == self.trigger}
        # One of several that are stored already was left there by 0.12, and may stay.
        if twins and self.pk not in twins:
            message = _("This partner subscribes to this trigger already.")
            raise ValidationError({"trigger": message})

    def validate_callback_url(self) -> None:
        """Raise ``InvalidCallBackURL`` unless a callback can be sent to ``callback_url``."""
        placeholders.validate(self.callback_url)
        if settings.callback_require_https and urlsplit(self.callback_url).scheme != "https":
            raise InvalidCallBackURL(_("This site calls partners over https:// only."))
