"""The visitor: one referral, a person arriving through a partner's link."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.conf import settings as django_settings
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from affiliations.conf import settings
from affiliations.exceptions import Reason
from affiliations.models.partner import Partner

if TYPE_CHECKING:
    from django.contrib.auth.models import User


#: The fields of the partner's own labels.
SUB_IDS = ("sub1", "sub2", "sub3", "sub4", "sub5")


class VisitorQuerySet(models.QuerySet["Visitor"]):
    """Questions about visitors."""

    def open(self, now: datetime) -> VisitorQuerySet:
        """Keep those that can be credited: not closed, inside the window, partner active."""
        own = Q(
            partner__window__isnull=False,
            referred_on__gt=Value(now, models.DateTimeField()) - F("partner__window"),
        )
        general = Q(partner__window=None)
        if (window := settings.attribution_window) is not None:
            general &= Q(referred_on__gt=now - window)
        return self.filter(own | general, closed_on=None, partner__active=True)


class Visitor(models.Model):
    """
    Somebody whom a partner referred to this site.

    One row a referral: who comes again through a link is a new visitor. ``successful_on`` tells
    when the conditions of a success were first met, if at all; ``closed_on`` decides whether
    anything more can be credited. Rows of 0.12 keep the path that they had in ``entry_point``.
    """

    partner = models.ForeignKey(
        Partner,
        on_delete=models.CASCADE,
        related_name="visitors",
        verbose_name=_("partner"),
    )
    user = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="visitors",
        verbose_name=_("user"),
    )
    referred_on = models.DateTimeField(_("referred on"), default=timezone.now, editable=False)
    entry_point = models.URLField(
        _("entry point"),
        max_length=2048,
        help_text=_("The URL at which the visitor entered the site, without the affiliate part."),
    )
    referrer = models.URLField(
        _("referrer"),
        max_length=2048,
        blank=True,
        default="",
        help_text=_("The page with the partner’s link, without its query."),
    )
    successful_on = models.DateTimeField(_("successful on"), null=True, blank=True)
    closed_on = models.DateTimeField(_("closed on"), null=True, blank=True)
    click_id = models.CharField(
        _("click id"),
        max_length=255,
        blank=True,
        default="",
        help_text=_("The partner’s own id of the click."),
    )
    sub1 = models.CharField(_("sub id 1"), max_length=255, blank=True, default="")
    sub2 = models.CharField(_("sub id 2"), max_length=255, blank=True, default="")
    sub3 = models.CharField(_("sub id 3"), max_length=255, blank=True, default="")
    sub4 = models.CharField(_("sub id 4"), max_length=255, blank=True, default="")
    sub5 = models.CharField(_("sub id 5"), max_length=255, blank=True, default="")

    previous = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="displaced_by",
        verbose_name=_("previous"),
        help_text=_("The open referral whose place this one took."),
    )
    is_test = models.BooleanField(
        _("test"),
        default=False,
        help_text=_("Came through a link for trying the deal, and is in no number."),
    )

    objects = VisitorQuerySet.as_manager()

    class Meta:
        verbose_name = _("visitor")
        verbose_name_plural = _("visitors")
        indexes = [
            # The last click of a partner, and their numbers. Not the partner first: InnoDB would
            # take it for the foreign key's and drop that of 0.12.
            models.Index(
                fields=["is_test", "partner", "referred_on"], name="affiliations_visitor_partner"
            ),
            models.Index(fields=["referred_on"], name="affiliations_visitor_came"),
            models.Index(fields=["click_id"], name="affiliations_visitor_click"),
        ]

    def __str__(self) -> str:
        # What callbacks call the visitor, and so what a partner asks about.
        return str(self.pk)

    def refusal(self, now: datetime) -> Reason | None:
        """Say why nothing can be credited to this referral; ``None`` while it is open."""
        if self.closed_on is not None:
            return Reason.REFERRAL_CLOSED
        window = self.partner.attribution_window
        if window is not None and now - self.referred_on >= window:
            return Reason.WINDOW_EXPIRED
        return None if self.partner.active else Reason.PARTNER_INACTIVE

    def succeed(self, user: User | None = None) -> None:
        """
        Record the first success, and the user who had it.

        Nothing happens to a visitor who has succeeded already, in this object or in the database.
        """
        now = timezone.now()
        changes: dict[str, object] = {"successful_on": now}
        if user is not None and user.is_authenticated:
            changes["user"] = user
        if Visitor.objects.filter(pk=self.pk, successful_on=None).update(**changes):
            for name, value in changes.items():
                setattr(self, name, value)

    def credit(
        self, now: datetime, user: User | None, *, close: bool, by_hand: bool = False
    ) -> bool:
        """
        Take the referral for one conversion; ``False`` where another has just closed it.

        One compare-and-set, in the database alone: it holds the row until the transaction ends, so
        the conversions of one visitor come one after the other. An empty user is filled.
        ``by_hand`` takes a closed one as well, which stays closed since when it was.
        """
        changes: dict[str, object] = {"successful_on": Coalesce("successful_on", now)}
        if user is not None:
            # As the column has it: a key that is a text would be the name of a field.
            key = Visitor._meta.get_field("user").target_field
            changes["user"] = Coalesce("user", Value(user.pk, key))
        if close:
            changes["closed_on"] = Coalesce("closed_on", now)
        referral = Visitor.objects.filter(pk=self.pk)
        if not by_hand:
            referral = referral.filter(closed_on=None)
        return bool(referral.update(**changes))


class PurgedClicks(models.Model):
    """
    How many visitors of one day were removed because they were too old: a report still has them.

    The sum of rows: each batch of a purge writes its own, so that two purges wait for nothing.
    """

    id = models.BigAutoField(primary_key=True)
    partner = models.ForeignKey(
        Partner,
        on_delete=models.CASCADE,
        related_name="purged_clicks",
        verbose_name=_("partner"),
    )
    day = models.DateField(_("day"), db_index=True, help_text=_("In the site’s time zone."))
    sub1 = models.CharField(_("sub id 1"), max_length=255, blank=True, default="")
    sub2 = models.CharField(_("sub id 2"), max_length=255, blank=True, default="")
    sub3 = models.CharField(_("sub id 3"), max_length=255, blank=True, default="")
    sub4 = models.CharField(_("sub id 4"), max_length=255, blank=True, default="")
    sub5 = models.CharField(_("sub id 5"), max_length=255, blank=True, default="")
    count = models.PositiveIntegerField(_("count"))

    class Meta:
        verbose_name = _("purged clicks")
        verbose_name_plural = _("purged clicks")

    def __str__(self) -> str:
        return f"{self.day}: {self.count}"
