"""A partner's code: a coupon on an order, a readable link, or an id of an earlier system."""

from __future__ import annotations

import re
from collections.abc import Collection

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Lower
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import links
from affiliations.models.partner import Partner

MAX_CODE = 40

#: How many codes one order or link is searched for.
_MAX_CODES = 20

_CODE = rf"[A-Za-z0-9][A-Za-z0-9_-]{{1,{MAX_CODE - 2}}}[A-Za-z0-9]"
_WHOLE_CODE = re.compile(_CODE)
#: A code in a link. Mail programs and chats add a full stop, a bracket or a space to its end.
_CODE_IN_LINK = re.compile(rb"(%s)[^A-Za-z0-9\0]*" % _CODE.encode())


def as_code(value: object) -> str:
    """Return a text or number, without blanks around it, if it can be a code; otherwise ``""``."""
    is_number = isinstance(value, int) and 0 <= value < 10**MAX_CODE
    text = str(value).strip() if is_number or isinstance(value, str) else ""
    return text if _WHOLE_CODE.fullmatch(text) else ""


class PartnerCodeQuerySet(models.QuerySet["PartnerCode"]):
    def of_texts(self, *texts: str) -> list[PartnerCode]:
        """
        Return the active codes among some texts, in the order of the texts, with their partners.

        Blanks around a text and its case do not matter. The partners may be inactive. Texts that
        cannot be codes cost no query; of many, the first 20 that can are looked up. The codes are
        compared again in Python, since ``é`` equals ``e`` on MariaDB.
        """
        keys = list(dict.fromkeys(code.lower() for code in map(as_code, texts) if code))
        if not keys:
            return []
        rows = self.filter(key__in=keys[:_MAX_CODES], active=True).select_related("partner")
        found = {row.code.lower(): row for row in rows}
        return [found[key] for key in keys if key in found]

    def find_partner(self, *readings: bytes) -> Partner | None:
        """
        Find the partner of the uid or the active code in a link; the partner may be inactive.

        All readings are tried as uids first, exactly. Text that cannot be a code costs no further
        query.
        """
        if (partner := Partner.objects.using(self.db).by_uid(*readings)) is not None:
            return partner
        matches = map(_CODE_IN_LINK.fullmatch, map(bytes.strip, readings))
        codes = self.of_texts(*[match[1].decode() for match in matches if match])
        return codes[0].partner if codes else None


class PartnerCode(models.Model):
    """A text that identifies its partner. It is unique, and case does not matter."""

    partner = models.ForeignKey(
        Partner, on_delete=models.CASCADE, related_name="codes", verbose_name=_("partner")
    )
    code = models.CharField(
        _("code"),
        max_length=MAX_CODE,
        validators=[
            RegexValidator(
                rf"\A{_CODE}\Z",
                _(
                    "Enter 3 to 40 characters: letters from a to z, digits, - and _. Begin and "
                    "end with a letter or a digit."
                ),
            )
        ],
        help_text=_("A coupon, the end of a readable link, or an id of an earlier system."),
    )
    # A column, since MariaDB has no unique keys on an expression.
    key = models.GeneratedField(
        expression=Lower("code"),
        output_field=models.CharField(max_length=MAX_CODE),
        db_persist=True,
        max_length=MAX_CODE,  # Django's check of unique columns on MariaDB reads it here.
        unique=True,
        serialize=False,
    )
    active = models.BooleanField(_("active"), default=True)

    objects = PartnerCodeQuerySet.as_manager()

    class Meta:
        verbose_name = _("partner code")
        verbose_name_plural = _("partner codes")

    def __str__(self) -> str:
        return self.code

    def link(self, url: str = "/") -> str:
        """
        Return a path or URL of this site as a readable link of the partner.

        >>> PartnerCode(code="steepnotes").link("/teas/")
        '/teas/?affiliate_id=steepnotes'
        """
        return links.tracking_link(url, self.code)

    def clean(self) -> None:
        super().clean()
        if as_code(self.code) and (mistake := self._mistake()):
            raise ValidationError({"code": mistake})

    def validate_unique(self, exclude: Collection[str] | None = None) -> None:
        # Django cannot check a generated field; ``clean()`` does.
        super().validate_unique({*(exclude or ()), "key"})

    def _mistake(self) -> str:
        others = PartnerCode.objects.exclude(pk=self.pk).select_related("partner")
        if (same := others.filter(key=self.code.lower()).first()) is not None:
            message = gettext("%(code)s is already a code of %(partner)s. Choose another one.")
            return message % {"code": same.code, "partner": same.partner}
        if (owner := Partner.objects.filter(uid__iexact=self.code).first()) is not None:
            message = gettext("%(code)s is the uid of %(partner)s. Choose another code.")
            return message % {"code": self.code, "partner": owner}
        return ""
