"""The partner: somebody a deal was made with."""

from __future__ import annotations

import base64
import re
import secrets
from datetime import timedelta
from string import ascii_lowercase, digits

from django.conf import settings as django_settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.urls import reverse
from django.utils.crypto import get_random_string
from django.utils.translation import gettext_lazy as _

from affiliations import links, page_keys
from affiliations.conf import settings

UID_LENGTH = 8
#: A uid as it stands in a link: mail programs and chats put a full stop, a bracket or a blank
#: behind it. Upper case only because 0.12 made such uids.
_UID = re.compile(rb"([A-Za-z0-9]{1,%d})[^A-Za-z0-9\0]*" % UID_LENGTH)


def new_uid() -> str:
    """Return a random uid, lower case so that it survives being read out or typed."""
    return get_random_string(UID_LENGTH, ascii_lowercase + digits)


def new_signing_secret() -> str:
    """Return a random secret in the form of Standard Webhooks: ``whsec_`` and 24 bytes."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"


class PartnerQuerySet(models.QuerySet["Partner"]):
    """Questions about partners."""

    def by_uid(self, raw: bytes) -> Partner | None:
        """
        Find the partner whose uid stands in a link.

        ``raw`` is whatever the network brought; what cannot be a uid costs no query. The uid is
        compared again in Python, since MariaDB takes ``MOOX6ESI`` for ``moox6esi``.
        """
        if (match := _UID.fullmatch(raw)) is None:
            return None
        uid = match[1].decode()
        partner = self.filter(uid=uid).first()
        return partner if partner and partner.uid == uid else None

    def by_page_link(self, uid: str, token: str) -> Partner | None:
        """
        Find the partner whose page a private link opens: nobody's where it is none, or revoked.

        What cannot be such a link costs no query, any other one.
        """
        if not page_keys.is_token(token):
            return None
        partner = self.by_uid(uid.encode(errors="replace"))
        fits = page_keys.fits(token, partner.page_key if partner else "")
        return partner if fits else None


class Partner(models.Model):
    """
    Somebody with whom an affiliate deal was made, and who sends visitors here.

    ``active`` says whether there is a deal now: without it no new visitor is registered and none is
    credited, but what was earned stays.
    """

    uid = models.CharField(
        _("uid"),
        max_length=UID_LENGTH,
        unique=True,
        editable=False,
        default=new_uid,
        help_text=_("Stands in the partner’s links and says that a visitor came from there."),
    )
    name = models.CharField(_("name"), max_length=250)
    active = models.BooleanField(
        _("active"),
        default=False,
        help_text=_("Whether there is a deal now. Only then are new visitors counted."),
    )
    signing_secret = models.CharField(
        _("signing secret"),
        max_length=64,
        editable=False,
        default=new_signing_secret,
        help_text=_("Signs callbacks, so that the partner can see that they come from here."),
    )
    users = models.ManyToManyField(
        django_settings.AUTH_USER_MODEL,
        blank=True,
        related_name="affiliate_partners",
        verbose_name=_("users"),
        help_text=_("Their own accounts here. What these buy waits for somebody to decide."),
    )
    window = models.DurationField(
        _("attribution window"),
        null=True,
        blank=True,
        # Databases could not reckon with a date before the year 1.
        validators=[
            MinValueValidator(timedelta(seconds=1)),
            MaxValueValidator(timedelta(days=36_500)),
        ],
        help_text=_("How long a visitor of theirs counts. Empty: as for all partners."),
    )
    page_key = models.CharField(
        _("key to their page"),
        max_length=128,
        editable=False,
        blank=True,
        default="",
        help_text=_("What the private link of their own page is checked by. Empty: there is none."),
    )
    created_on = models.DateTimeField(_("created on"), auto_now_add=True, null=True)

    objects = PartnerQuerySet.as_manager()

    class Meta:
        verbose_name = _("partner")
        verbose_name_plural = _("partners")

    def __str__(self) -> str:
        return self.name

    def link(self, url: str = "/", *, click_id: str = "", **sub_ids: str) -> str:
        """
        Return a path or URL of this site as this partner's tracking link.

        ``click_id`` and ``sub1`` to ``sub5`` are the partner's own labels of the click. Other
        parameters and the fragment of ``url`` stay as they are.

        >>> Partner(uid="moox6esi").link("/path/?x=1", click_id="42")
        '/path/?x=1&affiliate_id=moox6esi&click_id=42'
        """
        return links.tracking_link(url, self.uid, click_id=click_id, **sub_ids)

    def link_with_macros(self, url: str = "/", **labels: str) -> str:
        """
        Return a tracking link for the partner's network to fill in before somebody follows it.

        ``labels`` are ``click_id`` and ``sub1`` to ``sub5``, as for ``link()``; the network's own
        macros in them, such as ``{clickid}``, stay as they are.
        """
        return links.link_with_macros(url, self.uid, **labels)

    def test_link(self, url: str = "/", **labels: str) -> str:
        """
        Return a link for trying the deal: whoever follows it within seven days is a test.

        What a test does runs through everything and is in no number. ``labels`` are ``click_id``
        and ``sub1`` to ``sub5``, as for ``link()``.
        """
        return links.tracking_link(url, links.signed_uid(self.uid), **labels)

    @property
    def attribution_window(self) -> timedelta | None:
        """How long a visitor of theirs counts; ``None`` for ever."""
        return settings.attribution_window if self.window is None else self.window

    def replace_signing_secret(self) -> str:
        """Sign with a new secret from now on, and return it: the old one verifies nothing more."""
        self.signing_secret = new_signing_secret()
        self.save(update_fields=["signing_secret"])
        return self.signing_secret

    def page_link(self) -> str | None:
        """
        Return the path of the private link to this partner's own page.

        ``None`` where there is no link, or where it works and cannot be shown any more, since the
        ``SECRET_KEY`` of its making is gone. ``NoReverseMatch`` where the host's URLs do not
        include ``affiliations.urls``.
        """
        token = page_keys.token(self.uid, self.page_key)
        return token and reverse("affiliations:page", args=[self.uid, token])

    def replace_page_link(self) -> None:
        """Make a private link to this partner's own page; the one before opens nothing more."""
        self.page_key = page_keys.new_key(self.uid)
        self.save(update_fields=["page_key"])

    def revoke_page_link(self) -> None:
        """Let nobody see this partner's own page."""
        self.page_key = ""
        self.save(update_fields=["page_key"])
