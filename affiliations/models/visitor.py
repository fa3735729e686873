"""The visitor: one click on a partner's link."""

from __future__ import annotations

from datetime import datetime
from datetime import timezone as fixed
from hashlib import sha256
from typing import TYPE_CHECKING

from django.conf import settings as django_settings
from django.db import models
from django.db.models import Exists, F, Min, OuterRef, Q, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from affiliations import db
from affiliations.conf import settings
from affiliations.dates import in_active_zone
from affiliations.exceptions import Reason
from affiliations.logs import one_line
from affiliations.models.accounts import known_user
from affiliations.models.partner import Partner
from affiliations.models.subscription import Subscription

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import User


SUB_IDS = ("sub1", "sub2", "sub3", "sub4", "sub5")
#: The fields that come from the parameters of a tracking link.
CLICK_FIELDS = ("click_id", *SUB_IDS)
#: The longest click id. A longer one is not stored: its start may be that of another click.
MAX_CLICK_ID = 500
#: Why a click has no click id, by the code in ``lost_click_id``. As the reason of a callback it is
#: stored in English, and shown in the reader's language.
LOST_CLICK_IDS = {
    "too_long": gettext_noop("The visitor’s click id has more than 500 characters."),
    "not_text": gettext_noop("The visitor’s click id is not valid text."),
    "charset": gettext_noop(
        "The visitor’s click id has characters that the database cannot store."
    ),
    "erased": gettext_noop("The visitor’s click id was erased."),
}


class VisitorQuerySet(models.QuerySet["Visitor"]):
    def open(self, now: datetime) -> VisitorQuerySet:
        """Keep the visitors whose ``refusal()`` is ``None``, by the same conditions."""
        partner_window = Q(
            partner__window__isnull=False,
            referred_on__gt=Value(now, models.DateTimeField()) - F("partner__window"),
        )
        site_window = Q(partner__window=None)
        if (window := settings.attribution_window) is not None:
            site_window &= Q(referred_on__gt=now - window)
        return self.filter(partner_window | site_window, closed_on=None, partner__active=True)

    def clicks(self) -> VisitorQuerySet:
        """Keep those that reports count as clicks; see ``Visitor.is_click``."""
        return self.filter(is_test=False).exclude(source=Visitor.Source.CODE)

    def converted(self, trigger: str) -> VisitorQuerySet:
        """
        Keep those with a conversion of a trigger that is not rejected.

        ``first_on`` is the time of the first of these, with which an earning period begins.
        """
        return self.filter(conversions__trigger=trigger, conversions__released=0).annotate(
            first_on=Min("conversions__created_on")
        )

    def with_earning_period(self, trigger: str) -> VisitorQuerySet:
        """Keep the converted ones whose partner has an earning period, whether it runs or not."""
        rules = Subscription.objects.with_earning_period().filter(
            partner=OuterRef("partner"), trigger=trigger
        )
        return self.filter(Exists(rules), stopped_on=None, partner__active=True).converted(trigger)

    def close(self, now: datetime) -> int:
        """Close the open ones, as a conversion does, and return how many there were."""
        return self.filter(closed_on=None).update(closed_on=now)


class SubIds(models.Model):
    """The sub ids of a click. A conversion has a copy, so that reports need not join visitors."""

    #: The partner's sub ids, from the link; empty if it had none.
    sub1 = models.CharField(_("sub id 1"), max_length=255, blank=True, default="", db_default="")
    sub2 = models.CharField(_("sub id 2"), max_length=255, blank=True, default="", db_default="")
    sub3 = models.CharField(_("sub id 3"), max_length=255, blank=True, default="", db_default="")
    sub4 = models.CharField(_("sub id 4"), max_length=255, blank=True, default="", db_default="")
    sub5 = models.CharField(_("sub id 5"), max_length=255, blank=True, default="", db_default="")

    class Meta:
        abstract = True


class Visitor(SubIds):
    """
    A counted click on a partner's link. Each further click is another visitor.

    ``source`` tells how a visitor without a click came: by ``refer()``, or by a code on an order.

    ``successful_on`` is the time of the first conversion. Once ``closed_on`` is set, a conversion
    is credited only by staff or in an earning period. The ``entry_point`` of rows of 0.12 is a
    path, not a URL.
    """

    class Source(models.TextChoices):
        LINK = "link", _("Link")
        CODE = "code", _("Code on an order")
        API = "api", _("Without a landing page")

    partner = models.ForeignKey(
        Partner,
        on_delete=models.CASCADE,
        related_name="visitors",
        verbose_name=_("partner"),
    )
    #: The user who was logged in at the click, or who logged in or signed up later.
    user = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="visitors",
        verbose_name=_("user"),
    )
    referred_on = models.DateTimeField(_("clicked on"), default=timezone.now, editable=False)
    entry_point = models.URLField(
        _("landing page"),
        max_length=2048,
        help_text=_("The first page that the visitor opened, without the partner’s parameters."),
    )
    referrer = models.URLField(
        _("referrer"),
        max_length=2048,
        blank=True,
        default="",
        db_default="",
        help_text=_("The page with the partner’s link, without its query string."),
    )
    #: When the first conversion happened.
    successful_on = models.DateTimeField(_("first conversion on"), null=True, blank=True)
    #: Since then no conversion can be credited, apart from an earning period.
    closed_on = models.DateTimeField(_("tracking ended on"), null=True, blank=True)
    #: Since then nothing can be credited, for good.
    stopped_on = models.DateTimeField(
        _("tracking stopped by staff on"), null=True, blank=True, editable=False
    )
    source = models.CharField(
        _("source"),
        max_length=4,
        choices=Source.choices,
        default=Source.LINK,
        db_default=Source.LINK,
        editable=False,
        help_text=_("How the visitor came: by a link, a partner’s code, or your own code."),
    )
    click_id = models.CharField(
        _("click id"),
        max_length=MAX_CLICK_ID,
        blank=True,
        default="",
        db_default="",
        help_text=_("The partner’s own id of the click."),
    )
    #: A code of ``LOST_CLICK_IDS``; empty if there is a click id, or if the link had none.
    lost_click_id = models.CharField(
        _("why the click id is missing"),
        max_length=10,
        blank=True,
        default="",
        db_default="",
        editable=False,
    )

    previous = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="displaced_by",
        verbose_name=_("replaced click"),
        help_text=_("The earlier click that this click replaced."),
    )
    is_test = models.BooleanField(
        _("test"),
        default=False,
        db_default=False,
        help_text=_("Test: excluded from reports."),
    )
    is_internal = models.BooleanField(
        _("from this site"),
        default=False,
        db_default=False,
        editable=False,
        help_text=_("The link was on a page of this site. Any other click takes precedence."),
    )
    #: The nonce of the test link. It is unique, so one link makes one test. NULL for real visitors,
    #: since many rows may have it.
    test_nonce = models.CharField(  # noqa: DJ001 -- see above
        max_length=32, unique=True, null=True, default=None, editable=False
    )
    #: Prevents two simultaneous orders of one customer with a partner's code from creating two
    #: visitors.
    code_key = models.CharField(  # noqa: DJ001 -- as above
        max_length=32, unique=True, null=True, default=None, editable=False
    )

    objects = VisitorQuerySet.as_manager()

    class Meta:
        verbose_name = _("visitor")
        verbose_name_plural = _("visitors")
        indexes = [
            # For the last click of a partner, and for reports. The partner is not the first column,
            # or InnoDB would use this index for the foreign key and drop the index of 0.12.
            models.Index(
                fields=["is_test", "partner", "referred_on"], name="affiliations_visitor_partner"
            ),
            models.Index(fields=["referred_on"], name="affiliations_visitor_came"),
            models.Index(fields=["click_id"], name="affiliations_visitor_click"),
        ]

    def __str__(self) -> str:
        # Callbacks contain this id, so partners ask about it.
        return str(self.pk)

    def __repr__(self) -> str:
        """Describe the visitor without a query, whatever is loaded."""
        loaded, partner = self.__dict__, self._state.fields_cache.get("partner")
        whose = f"partner {loaded.get('partner_id')}" if partner is None else partner.name_and_uid
        clicked_on = in_active_zone(loaded.get("referred_on"))
        whose = one_line(whose)
        return f"<Visitor {loaded.get('id')} of {whose}, clicked {str(clicked_on)[:16]}>"

    @property
    def fingerprint(self) -> str:
        """
        The text that a browser remembers beside the id, to recognize the row.

        After the restore of a backup, or in the database of another tenant, the id may be that of
        another visitor. Neither staff nor an erasure change what the fingerprint is made of. The
        time is in UTC, since a database returns it in its own zone, and in milliseconds, since
        fixtures in JSON have no more.
        """
        clicked_on = self.referred_on
        if timezone.is_aware(clicked_on):
            clicked_on = timezone.make_naive(clicked_on, fixed.utc)
        facts = f"{self.pk} {self.partner_id} {clicked_on.isoformat(timespec='milliseconds')}"
        return sha256(facts.encode()).hexdigest()[:32]

    def refusal(self, now: datetime) -> Reason | None:
        """
        Return why no conversion can be credited to this visitor; ``None`` while it is open.

        A running earning period credits later conversions nevertheless, unless staff have stopped
        it or the partner is inactive.
        """
        if self.stopped_on is not None:
            return Reason.STOPPED
        if self.closed_on is not None:
            return Reason.REFERRAL_CLOSED
        if not self.is_in_window(now):
            return Reason.WINDOW_EXPIRED
        return None if self.partner.active else Reason.PARTNER_INACTIVE

    @property
    def is_click(self) -> bool:
        """Whether reports count it as a click."""
        return not (self.is_test or self.is_by_code)

    @property
    def is_by_code(self) -> bool:
        """Whether it was made for an order with a partner's code, without a click."""
        return self.source == self.Source.CODE

    @property
    def gives_way(self) -> bool:
        """Whether any click from elsewhere takes precedence, whichever came first."""
        return self.is_internal or self.is_by_code

    def is_in_window(self, now: datetime) -> bool:
        """Return whether the attribution window has not ended."""
        window = self.partner.attribution_window
        return window is None or now - self.referred_on < window

    @property
    def is_open(self) -> bool:
        return self.refusal(timezone.now()) is None

    def succeed(self, user: AbstractBaseUser | None = None) -> None:
        """
        Record a conversion that the app does not know of, and close the visitor, as 0.12 did.

        The visitor's user and the time of an earlier conversion are not replaced. ``user`` is set
        only if the visitor has none. A later rejection does not open the visitor again.
        """
        self.credit(timezone.now(), known_user(user), close=True, manual=True)
        self.refresh_from_db(using=db.write_alias(), fields=["successful_on", "closed_on", "user"])

    def stop(self) -> bool:
        """
        End the earning periods of this visitor and close it, for good.

        Returns:
            ``False``, with nothing changed, if it was stopped before.
        """
        now, alias = timezone.now(), db.write_alias()
        rows = Visitor.objects.using(alias).filter(pk=self.pk, stopped_on=None)
        is_stopped = bool(rows.update(stopped_on=now, closed_on=Coalesce("closed_on", now)))
        self.refresh_from_db(using=alias, fields=["stopped_on", "closed_on"])
        return is_stopped

    def first_conversion_on(self, trigger: str) -> datetime | None:
        """Return when the earning period of a trigger has begun; ``None`` if it has not."""
        rows = self.conversions.using(db.write_alias()).filter(trigger=trigger, released=0)
        first_on: datetime | None = rows.aggregate(first=Min("created_on"))["first"]
        return first_on

    def credit(
        self,
        now: datetime,
        user: User | None,
        *,
        close: bool,
        manual: bool = False,
        in_period: bool = False,
    ) -> bool:
        """
        Use the visitor for one conversion; ``False`` if another conversion has just closed it.

        A compare-and-set in the database; this instance is not changed. The row is locked until the
        transaction ends, so the conversions of a visitor are recorded one after the other. An empty
        user is filled in. ``manual`` accepts a closed visitor, which keeps its ``closed_on``, and
        so does ``in_period``, unless staff have stopped it.
        """
        changes: dict[str, object] = {"successful_on": Coalesce("successful_on", now)}
        if user is not None:
            # A Value, since a key that is text would be taken for the name of a field.
            key_field = Visitor._meta.get_field("user").target_field
            changes["user"] = Coalesce("user", Value(user.pk, key_field))
        if close:
            changes["closed_on"] = Coalesce("closed_on", now)
        row = Visitor.objects.filter(pk=self.pk)
        if in_period:
            row = row.filter(stopped_on=None)
        elif not manual:
            row = row.filter(closed_on=None)
        return bool(row.update(**changes))
