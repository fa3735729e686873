"""The partner, who sends visitors and is paid for their conversions."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from datetime import timedelta
from decimal import Decimal
from string import ascii_lowercase, digits
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ValidationError
from django.core.signing import Signer
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.urls import reverse
from django.utils import formats, timezone
from django.utils.crypto import constant_time_compare, get_random_string
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import db, links
from affiliations.amounts import TOO_MUCH, decimals_mistake, is_currency
from affiliations.conf import settings
from affiliations.dates import in_active_zone
from affiliations.query_strings import UID_LENGTH

#: A uid in a link. Mail programs and chats add a full stop, a bracket or a space to its end. 0.12
#: made uids in upper case.
_UID = re.compile(rb"([A-Za-z0-9]{1,%d})[^A-Za-z0-9\0]*" % UID_LENGTH)

#: How long callbacks are signed with an old and a new secret, as Standard Webhooks recommends.
_SECRETS_OVERLAP = timedelta(hours=24)
_PREVIOUS_SECRET = ("previous_signing_secret", "previous_secret_until")

#: The number of partners that a field suggests.
_SUGGESTED = 100

#: The token of a private link: a signature of Django, 32 bytes in base64.
_PAGE_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


def new_uid() -> str:
    """Return a random uid in lower case, which is easy to read out and to type."""
    return get_random_string(UID_LENGTH, ascii_lowercase + digits)


def new_signing_secret() -> str:
    """Return a random secret in the form of Standard Webhooks: ``whsec_`` and 24 bytes."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"


def new_page_key(uid: str) -> str:
    """
    Return the stored form of a new private link: ``seed:hash``.

    The token at the end of the link is a signature of the random seed, so that the link can be
    shown again. The token is checked by its hash, so that the link still works after ``SECRET_KEY``
    was replaced. Neither seed nor hash opens the page.
    """
    seed = secrets.token_urlsafe(24)
    return f"{seed}:{_hash(_page_token(uid, seed, django_settings.SECRET_KEY))}"


def page_token(uid: str, key: str) -> str | None:
    """Return the token of ``key``; ``None`` if no current ``SECRET_KEY`` has signed it."""
    seed, _, _ = key.partition(":")
    for secret in (django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS):
        if opens_page(token := _page_token(uid, seed, secret), key):
            return token
    return None


def opens_page(token: str, key: str) -> bool:
    _, _, stored = key.partition(":")
    return constant_time_compare(_hash(token), stored)


def _page_token(uid: str, seed: str, secret: str | bytes) -> str:
    signer = Signer(key=secret, salt="affiliations.page", fallback_keys=[])
    return signer.signature(f"{uid}:{seed}")


def _hash(token: str) -> str:
    # Neither salted nor slow: a token of 32 bytes cannot be guessed.
    return hashlib.sha256(token.encode()).hexdigest()


class PartnerQuerySet(models.QuerySet["Partner"]):
    def matching(self, term: str, limit: int) -> list[Partner]:
        """Find partners by uid, else by name, else by a part of the name."""
        partners = self.order_by("name", "pk")
        return (
            list(partners.filter(uid=term)[:1])
            or list(partners.filter(name=term)[:limit])
            or list(partners.filter(name__icontains=term)[:limit])
        )

    def groups(self) -> list[str]:
        """Return the names of the existing groups, for a field that suggests them."""
        names = self.exclude(group="").order_by("group").values_list("group", flat=True)
        return list(names.distinct()[:_SUGGESTED])

    def noticed(self) -> PartnerQuerySet:
        """Keep the partners who get notices: not those who were stopped for fraud."""
        return self.filter(notify=True, stopped_on=None).exclude(email="")

    def suggested_names(self) -> list[str]:
        partners = self.order_by("-active", "name", "pk")
        return list(partners.values_list("name", flat=True)[:_SUGGESTED])

    def by_uid(self, *readings: bytes) -> Partner | None:
        """
        Find the partner of the uid in a link; of several readings, the first that has a partner.

        Text that cannot be a uid costs no query. The uid is compared again in Python, since
        ``MOOX6ESI`` equals ``moox6esi`` on MariaDB.
        """
        uids = [match[1].decode() for match in map(_UID.fullmatch, readings) if match]
        partners = {row.uid: row for row in self.filter(uid__in=uids)} if uids else {}
        return next((partners[uid] for uid in uids if uid in partners), None)

    def by_page_link(self, uid: str, token: str) -> Partner | None:
        """
        Find the partner of a private link; ``None`` if the link is wrong or revoked.

        Text that cannot be a private link costs no query.
        """
        if not _PAGE_TOKEN.fullmatch(token):
            return None
        partner = self.by_uid(uid.encode(errors="replace"))
        # Compared even for an unknown partner, so that the response time reveals nothing.
        return partner if opens_page(token, partner.page_key if partner else "") else None


class Partner(models.Model):
    """
    A partner, who sends visitors to this site.

    While a partner is not ``active``, no visitor is registered and nothing new is credited. Earlier
    conversions stay.
    """

    uid = models.CharField(
        _("uid"),
        max_length=UID_LENGTH,
        unique=True,
        editable=False,
        default=new_uid,
        help_text=_("The partner’s public id in tracking links."),
    )
    name = models.CharField(_("name"), max_length=250)
    active = models.BooleanField(
        _("active"),
        default=False,
        help_text=_("Inactive: clicks are not tracked and nothing new is credited."),
    )
    signing_secret = models.CharField(
        _("signing secret"),
        max_length=64,
        editable=False,
        default=new_signing_secret,
        db_default="",
        help_text=_("Signs callbacks, so the partner can verify that they come from this site."),
    )
    previous_signing_secret = models.CharField(
        _("old signing secret"),
        max_length=64,
        editable=False,
        blank=True,
        default="",
        db_default="",
    )
    previous_secret_until = models.DateTimeField(
        _("old signing secret valid until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("Until then callbacks are signed with both secrets."),
    )
    users = models.ManyToManyField(
        django_settings.AUTH_USER_MODEL,
        blank=True,
        related_name="affiliate_partners",
        verbose_name=_("users"),
        help_text=_("The partner’s own accounts. Their own purchases need review."),
    )
    window = models.DurationField(
        _("attribution window"),
        null=True,
        blank=True,
        # Databases cannot calculate with dates before the year 1.
        validators=[
            MinValueValidator(timedelta(seconds=1)),
            MaxValueValidator(timedelta(days=36_500)),
        ],
        help_text=_(
            "How long after a click a conversion can be credited. Leave empty to use this site’s "
            "default."
        ),
    )
    email = models.EmailField(
        _("contact e-mail"),
        blank=True,
        default="",
        db_default="",
        help_text=_("Not shown on the partner page."),
    )
    notify = models.BooleanField(
        _("notify by e-mail"),
        default=False,
        db_default=False,
        help_text=_("The partner agreed to notices about conversions, statements and callbacks."),
    )
    group = models.CharField(
        _("group"),
        max_length=100,
        blank=True,
        default="",
        db_default="",
        db_index=True,
        help_text=_("A label of your own, such as “Bloggers”, for filters and reports."),
    )
    notes = models.TextField(
        _("notes"), blank=True, default="", db_default="", help_text=_("For staff only.")
    )
    terms = models.TextField(
        _("terms"),
        blank=True,
        default="",
        db_default="",
        help_text=_("Shown to the partner on the partner page."),
    )
    payment_details = models.TextField(
        _("payment details"),
        blank=True,
        default="",
        db_default="",
        help_text=_("Where the partner is paid, such as a bank account."),
    )
    minimum_payout = models.DecimalField(
        _("minimum payout"),
        max_digits=19,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_("A balance below this amount is not paid yet. Leave empty for no minimum."),
    )
    minimum_payout_currency = models.CharField(
        _("currency of the minimum payout"), max_length=3, blank=True, default="", db_default=""
    )
    page_key = models.CharField(
        _("partner page key"),
        max_length=128,
        editable=False,
        blank=True,
        default="",
        db_default="",
        help_text=_("Verifies the private link to the partner page. Empty if there is no link."),
    )
    created_on = models.DateTimeField(_("created on"), auto_now_add=True, null=True)
    #: Set by ``stop_for_fraud()``. A stopped partner gets no payout statements.
    stopped_on = models.DateTimeField(_("stopped on"), null=True, blank=True, editable=False)
    stopped_reason = models.CharField(
        _("reason for the stop"),
        max_length=255,
        blank=True,
        default="",
        db_default="",
        editable=False,
    )
    stopped_by = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        editable=False,
        verbose_name=_("stopped by"),
    )
    #: Kept when the account is deleted.
    stopped_by_name = models.CharField(
        _("stopped by (name)"),
        max_length=150,
        blank=True,
        default="",
        db_default="",
        editable=False,
    )

    objects = PartnerQuerySet.as_manager()

    class Meta:
        verbose_name = _("partner")
        verbose_name_plural = _("partners")
        permissions = [("payment_details", "Can view and change payment details of partners")]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        # Links are tried as uids first, so the code would lead to the wrong partner.
        while self._state.adding and Partner.objects.filter(codes__key=self.uid.lower()).exists():
            self.uid = new_uid()
        super().save(*args, **kwargs)

    @property
    def name_and_uid(self) -> str:
        return f"{self.name} ({self.uid})"

    def clean(self) -> None:
        super().clean()
        self.minimum_payout_currency = self.minimum_payout_currency.strip().upper()
        if self.is_stopped and self.active:
            raise ValidationError(
                _("This partner was stopped for fraud. Use “Reactivate” on the partner’s page.")
            )
        if mistakes := self._record_mistakes():
            raise ValidationError(mistakes)

    def _record_mistakes(self) -> dict[str, Any]:
        mistakes: dict[str, Any] = {}
        amount, currency = self.minimum_payout, self.minimum_payout_currency
        if amount is None and currency:
            mistakes["minimum_payout"] = _(
                "Enter the minimum payout, or leave its currency empty as well."
            )
        elif amount is not None and not is_currency(currency):
            mistakes["minimum_payout_currency"] = _(
                "Enter the three-letter currency code, such as EUR."
            )
        elif amount is not None and amount >= TOO_MUCH:
            mistakes["minimum_payout"] = _("Enter a smaller amount.")
        elif amount is not None and (mistake := decimals_mistake(Decimal(amount), currency)):
            mistakes["minimum_payout"] = mistake
        if self.notify and not self.email:
            mistakes["email"] = _(
                "Enter the address that notices are sent to, or clear “Notify by e-mail”."
            )
        return mistakes

    @property
    def is_stopped(self) -> bool:
        """Whether the partner was stopped for fraud, and not reactivated since."""
        return self.stopped_on is not None

    @property
    def stopped_display(self) -> str:
        """When the partner was stopped for fraud, by whom and why; empty if not stopped."""
        if self.stopped_on is None:
            return ""
        names = {
            "on": formats.date_format(in_active_zone(self.stopped_on), "SHORT_DATETIME_FORMAT"),
            "user": self.stopped_by_name,
            "reason": self.stopped_reason,
        }
        if not self.stopped_by_name:
            return gettext("Stopped for fraud on %(on)s: %(reason)s") % names
        return gettext("Stopped for fraud on %(on)s by %(user)s: %(reason)s") % names

    def reactivate(self) -> bool:
        """
        Work again with a partner who was stopped for fraud.

        The partner becomes active, and can be settled with again. Conversions stay rejected,
        callbacks cancelled, and the private link revoked.

        Returns:
            ``False``, with nothing changed, if the partner is not stopped, or was stopped again
            since it was read.
        """
        changes: dict[str, Any] = {
            "active": True,
            "stopped_on": None,
            "stopped_reason": "",
            "stopped_by": None,
            "stopped_by_name": "",
        }
        partners = Partner.objects.filter(pk=self.pk, stopped_on=self.stopped_on)
        if not self.is_stopped or not partners.update(**changes):
            return False
        for name, value in changes.items():
            setattr(self, name, value)
        return True

    def link(self, url: str = "/", *, click_id: str = "", **sub_ids: str) -> str:
        """
        Return a path or URL of this site as this partner's tracking link.

        ``click_id`` and ``sub1`` to ``sub5`` are the partner's own ids of the click. Other
        parameters and the fragment of ``url`` stay as they are.

        >>> Partner(uid="moox6esi").link("/path/?x=1", click_id="42")
        '/path/?x=1&affiliate_id=moox6esi&click_id=42'

        :meta public:
        """
        return links.tracking_link(url, self.uid, click_id=click_id, **sub_ids)

    def link_with_macros(self, url: str = "/", **ids: str) -> str:
        """
        Return a tracking link for the partner's network to fill in before it is followed.

        ``ids`` are ``click_id`` and ``sub1`` to ``sub5``, as for ``link()``. The network's own
        macros in them, such as ``{clickid}``, stay as they are.

        :meta public:
        """
        return links.link_with_macros(url, self.uid, **ids)

    def test_link(self, url: str = "/", **ids: str) -> str:
        """
        Return a test link: the first browser that follows it within an hour makes a test.

        Its visitor and the visitor's conversions are tests, which reports exclude. ``ids`` are
        ``click_id`` and ``sub1`` to ``sub5``, as for ``link()``.

        :meta public:
        """
        return links.tracking_link(url, links.signed_uid(self.uid), **ids)

    @property
    def attribution_window(self) -> timedelta | None:
        """
        The attribution window of this partner, or else of the site; ``None`` means no limit.

        :meta public:
        """
        return settings.attribution_window if self.window is None else self.window

    def replace_signing_secret(self) -> str:
        """
        Sign callbacks with a new secret from now on, and return it.

        For 24 hours they are signed with the old one too, so that the partner can change it at any
        time; ``end_previous_secret()`` ends this.

        :meta public:
        """
        self.previous_signing_secret = self.signing_secret
        self.previous_secret_until = timezone.now() + _SECRETS_OVERLAP
        self.signing_secret = new_signing_secret()
        self.save(update_fields=["signing_secret", *_PREVIOUS_SECRET])
        return self.signing_secret

    def end_previous_secret(self) -> None:
        """
        Stop signing callbacks with the secret that was replaced.

        :meta public:
        """
        self.previous_signing_secret, self.previous_secret_until = "", None
        self.save(update_fields=_PREVIOUS_SECRET)

    def signing_secrets(self) -> list[str]:
        """Return the secrets that sign a callback now, the newest first."""
        until = self.previous_secret_until
        is_overlap = until is not None and timezone.now() < until
        return [self.signing_secret, *([self.previous_signing_secret] if is_overlap else [])]

    def ensure_signing_secret(self) -> None:
        """Create a secret for a partner without one, as a process of 0.12 inserts a partner."""
        if not self.signing_secret:
            rows = Partner.objects.using(db.write_alias()).filter(pk=self.pk)
            rows.filter(signing_secret="").update(signing_secret=new_signing_secret())
            self.signing_secret = rows.values_list("signing_secret", flat=True).get()

    def page_link(self) -> str | None:
        """
        Return the path of the private link to this partner's own page.

        ``None`` if there is no link, or if it still works but cannot be shown, since it was made
        with an earlier ``SECRET_KEY``. It raises ``NoReverseMatch`` if the host's URLs do not
        include ``affiliations.urls``.

        :meta public:
        """
        token = page_token(self.uid, self.page_key)
        return token and reverse("affiliations:page", args=[self.uid, token])

    def replace_page_link(self) -> None:
        """
        Make a new private link to this partner's own page; an earlier link stops working.

        :meta public:
        """
        self.page_key = new_page_key(self.uid)
        self.save(update_fields=["page_key"])

    def revoke_page_link(self) -> None:
        """
        Revoke the private link to this partner's own page, which stops working.

        :meta public:
        """
        self.page_key = ""
        self.save(update_fields=["page_key"])
