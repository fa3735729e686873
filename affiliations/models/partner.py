"""The partner: somebody a deal was made with."""

from __future__ import annotations

import base64
import re
import secrets
from string import ascii_lowercase, digits

from django.db import models
from django.utils.crypto import get_random_string
from django.utils.translation import gettext_lazy as _

from affiliations import links

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

    def replace_signing_secret(self) -> str:
        """Sign with a new secret from now on, and return it: the old one verifies nothing more."""
        self.signing_secret = new_signing_secret()
        self.save(update_fields=["signing_secret"])
        return self.signing_secret
