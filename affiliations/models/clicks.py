"""Filtered clicks, opened test links, uncredited triggers, and daily totals for reports."""

from __future__ import annotations

import random
from datetime import date, datetime

from django.db import models
from django.db.models import F
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.dates import today
from affiliations.exceptions import Reason
from affiliations.models.conversion import Conversion
from affiliations.models.partner import Partner
from affiliations.models.visitor import Visitor

#: The number of rows that share a count, so that few requests wait for the same row.
_SLOTS = 8
#: The number of filtered clicks that are kept with their time and uid.
KEPT_CLICKS = 1_000
#: On average, one filtered click of this many deletes the oldest ones.
_CLICKS_PER_TRIM = 100


class FilteredClicksQuerySet(models.QuerySet["FilteredClicks"]):
    def add(
        self, partner: Partner | None, reason: Reason, *, day: date | None = None, count: int = 1
    ) -> None:
        """
        Count a filtered click; ``partner`` is ``None`` if the uid in the link is unknown.

        It costs one ``UPDATE``, except for the first click of its kind on a day. Outside of a
        transaction the row is locked only during the update. ``day`` is today by default.
        """
        day = day or today()
        slot = random.randrange(_SLOTS)  # noqa: S311 -- no secret
        key = f"{partner.pk if partner else 0}:{day:%Y%m%d}:{reason.value}:{slot}"
        db.update_or_insert(
            self.filter(key=key),
            {"count": F("count") + count},
            key=key,
            partner=partner,
            day=day,
            reason=reason.value,
            count=count,
        )


class FilteredClicks(models.Model):
    """
    The number of clicks of a partner that were filtered out on one day for one reason.

    It explains missing clicks to the partner. The counts of several rows are added up. A row
    without a partner counts links with an unknown uid.
    """

    id = models.BigAutoField(primary_key=True)
    key = models.CharField(max_length=64, unique=True, editable=False)
    #: Kept when the partner is deleted, so that past reports do not change.
    partner = models.ForeignKey(
        Partner,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="filtered_clicks",
        verbose_name=_("partner"),
    )
    day = models.DateField(_("day"))
    reason = models.CharField(_("reason"), max_length=20)
    count = models.PositiveIntegerField(_("count"))

    objects = FilteredClicksQuerySet.as_manager()

    class Meta:
        verbose_name = _("filtered clicks")
        verbose_name_plural = _("filtered clicks")
        indexes = [
            # For reports, which add up without reading the rows.
            models.Index(
                fields=["day", "reason", "partner", "count"],
                name="affiliations_filtered_sum",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.day}: {self.count} {self.reason}"


class RecentFilteredClickQuerySet(models.QuerySet["RecentFilteredClick"]):
    def add(self, partner: Partner | None, reason: Reason, uid: str, browser: str) -> None:
        """
        Keep a filtered click; ``uid`` is the text that stood in the link.

        It costs one ``INSERT``, which waits for no other click. One click in a hundred also removes
        the oldest ones, so there are a few more than ``KEPT_CLICKS``.
        """
        self.create(partner=partner, reason=reason.value, uid=uid, browser=browser)
        if random.randrange(_CLICKS_PER_TRIM) == 0:  # noqa: S311 -- no secret
            self.trim()

    def of(self, partner: Partner, since: datetime, limit: int) -> RecentFilteredClickQuerySet:
        """Return the clicks of a partner since a time, the latest first."""
        return self.filter(partner=partner, clicked_on__gte=since).order_by("-pk")[:limit]

    def trim(self) -> None:
        """Delete all but the last ``KEPT_CLICKS``."""
        # Counted, not calculated from the last key: some servers assign only every third key.
        keys = self.order_by("-pk").values_list("pk", flat=True)
        if (latest_to_delete := keys[KEPT_CLICKS : KEPT_CLICKS + 1].first()) is not None:
            self.filter(pk__lte=latest_to_delete).delete()


class RecentFilteredClick(models.Model):
    """
    One of the last filtered clicks, for support: ``FilteredClicks`` has no times and no uids.

    ``partner`` is ``None`` if no partner has the uid. The table has few rows and so no indexes.
    """

    id = models.BigAutoField(primary_key=True)
    clicked_on = models.DateTimeField(_("clicked on"), default=timezone.now)
    # Without a constraint: a click must not wait for a transaction that changes its partner.
    partner = models.ForeignKey(
        Partner,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
        related_name="+",
        verbose_name=_("partner"),
    )
    uid = models.CharField(
        _("uid in the link"),
        max_length=100,
        blank=True,
        help_text=_("As it was in the link, but shortened, and without e-mail addresses."),
    )
    #: A code of ``Reason``.
    reason = models.CharField(_("reason"), max_length=20)
    browser = models.CharField(
        _("browser"), max_length=20, blank=True, help_text=_("Its name, without a version.")
    )

    objects = RecentFilteredClickQuerySet.as_manager()

    class Meta:
        verbose_name = _("recent filtered click")
        verbose_name_plural = _("recent filtered clicks")

    def __str__(self) -> str:
        return f"{self.uid}: {self.reason_display}"

    @property
    def reason_display(self) -> str:
        return Reason.display(self.reason)


class FollowedTestLinkQuerySet(models.QuerySet["FollowedTestLink"]):
    def add(
        self, partner: Partner, nonce: str, reason: str, browser: str, visitor: Visitor | None
    ) -> None:
        """Record the time; only the latest for each reason, as anybody may follow a public link."""
        same = self.filter(nonce=nonce, reason=reason)
        again = {"browser": browser, "visitor": visitor, "followed_on": timezone.now()}
        db.update_or_insert(same, again, partner=partner, nonce=nonce, reason=reason, **again)


class FollowedTestLink(models.Model):
    """
    A test link that was followed: it made a test, or there was a reason why it did not.

    Staff see the result beside *Try this deal*. ``visitor`` is the test, or the open referral that
    prevented it.
    """

    id = models.BigAutoField(primary_key=True)
    partner = models.ForeignKey(
        Partner,
        on_delete=models.CASCADE,
        related_name="followed_test_links",
        verbose_name=_("partner"),
    )
    nonce = models.CharField(max_length=32, editable=False)
    #: A code of ``Reason``; empty if the link made a test.
    reason = models.CharField(_("reason"), max_length=20, blank=True)
    browser = models.CharField(
        _("browser"), max_length=20, blank=True, help_text=_("Its name, without a version.")
    )
    visitor = models.ForeignKey(
        Visitor,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="followed_test_links",
        verbose_name=_("visitor"),
    )
    followed_on = models.DateTimeField(_("opened on"))

    objects = FollowedTestLinkQuerySet.as_manager()

    class Meta:
        verbose_name = _("opened test link")
        verbose_name_plural = _("opened test links")
        constraints = [
            models.UniqueConstraint(
                fields=["nonce", "reason"], name="affiliations_test_link_followed_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.nonce}: {self.reason}"

    @property
    def reason_display(self) -> str:
        return Reason.display(self.reason)


class UncreditedTriggerQuerySet(models.QuerySet["UncreditedTrigger"]):
    def add(
        self, visitor: Visitor, trigger: str, reason: Reason, reference: str, now: datetime
    ) -> None:
        """
        Record that ``trigger`` fired for ``visitor`` and was not credited.

        Do not call it in the host's transaction: a new row takes a shared lock of its visitor's
        row, and two conversions of one visitor would deadlock.
        """
        same = self.filter(visitor=visitor, trigger=trigger, reason=reason.value)
        latest = {"last_on": now, "reference": reference[:255]}
        db.update_or_insert(
            same,
            {"count": F("count") + 1, **latest},
            visitor=visitor,
            trigger=trigger,
            reason=reason.value,
            first_on=now,
            **latest,
        )

    def of(self, partner: Partner, since: datetime, limit: int) -> UncreditedTriggerQuerySet:
        """Return the rows of a partner's visitors since a time, the latest first."""
        rows = self.filter(visitor__partner=partner, last_on__gte=since)
        return rows.select_related("visitor").order_by("-last_on")[:limit]


class UncreditedTrigger(models.Model):
    """A trigger that fired for a visitor and was not credited, with the reason."""

    id = models.BigAutoField(primary_key=True)
    visitor = models.ForeignKey(
        Visitor,
        on_delete=models.CASCADE,
        related_name="uncredited_triggers",
        verbose_name=_("visitor"),
    )
    trigger = models.CharField(_("trigger"), max_length=100)
    reason = models.CharField(_("reason"), max_length=20)
    reference = models.CharField(
        _("reference"),
        max_length=255,
        blank=True,
        help_text=_("The reference of the latest event."),
    )
    count = models.PositiveIntegerField(_("count"), default=1)
    first_on = models.DateTimeField(_("first fired on"))
    last_on = models.DateTimeField(_("last fired on"))

    objects = UncreditedTriggerQuerySet.as_manager()

    class Meta:
        verbose_name = _("uncredited trigger")
        verbose_name_plural = _("uncredited triggers")
        constraints = [
            models.UniqueConstraint(
                fields=["visitor", "trigger", "reason"],
                name="affiliations_uncredited_trigger_once",
            )
        ]
        indexes = [models.Index(fields=["reference"], name="affiliations_uncredited_ref")]

    def __str__(self) -> str:
        return f"{self.trigger}: {self.reason}"


class DailyClicks(models.Model):
    """
    The number of clicks of a partner on a day: in total, by each of the five sub ids, by source.

    ``sub_id`` is 0 for the total, 1 to 5 for a sub id, and 6 for the source. ``label`` is the value
    of the sub id or the source, or ``None`` for all values that a purge has added up. Several rows
    may have the same keys and are added up; a negative count subtracts.
    """

    id = models.BigAutoField(primary_key=True)
    #: Kept when the partner is deleted, so that past reports do not change.
    partner = models.ForeignKey(
        Partner,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="daily_clicks",
        verbose_name=_("partner"),
    )
    day = models.DateField(_("day"), help_text=_("In the site’s time zone."))
    sub_id = models.PositiveSmallIntegerField(_("sub id number"))
    # NULL differs from any value that a link can have, such as an empty one.
    label = models.CharField(_("sub id value"), max_length=255, blank=True, null=True)  # noqa: DJ001
    count = models.IntegerField(_("count"))
    #: The part of the count whose visitors were purged: a rebuild cannot count them again.
    purged = models.PositiveIntegerField(_("purged"), default=0)

    class Meta:
        verbose_name = _("daily clicks")
        verbose_name_plural = _("daily clicks")
        # For the sums in reports, which add up without reading the rows.
        indexes = [
            models.Index(
                fields=["sub_id", "day", "partner", "count"], name="affiliations_daily_clicks_sum"
            )
        ]

    def __str__(self) -> str:
        return f"{self.day}: {self.count}"


class RollupState(models.Model):
    """
    The state of ``DailyClicks``, in one row: visitors up to the key ``counted`` are in the totals.

    ``seen`` was the last key in the table at ``seen_on``. Keys are assigned before their
    transactions end, so rows up to this key are all committed only after a delay.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    counted = models.BigIntegerField(_("counted up to"), default=0)
    seen = models.BigIntegerField(_("seen up to"), default=0)
    seen_on = models.DateTimeField(_("seen on"), default=timezone.now)

    class Meta:
        verbose_name = _("rollup state")
        verbose_name_plural = _("rollup states")

    def __str__(self) -> str:
        return f"{self.counted}"


class Report(Conversion):
    """A proxy that gives the report a page in the Admin and a permission, ``view_report``."""

    class Meta:
        proxy = True
        default_permissions = ("view",)
        verbose_name = _("report")
        verbose_name_plural = _("report")


class Overview(Conversion):
    """A proxy that gives the overview a page in the Admin and a permission, ``view_overview``."""

    class Meta:
        proxy = True
        default_permissions = ("view",)
        verbose_name = _("overview")
        # The Admin can only sort the models of an app by this name. The space makes it the first in
        # each language; a page does not show it.
        verbose_name_plural = format_lazy(" {}", _("Overview"))
