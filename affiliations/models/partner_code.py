"""A partner's code: a coupon on an order, a readable link, or an id of an earlier system."""

from __future__ import annotations

from typing import Any

from django.core.validators import RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from affiliations.models.partner import Partner

MAX_CODE = 40


class PartnerCode(models.Model):
    """A text that stands for its partner. ``key`` is the code in lower case, unique on any site."""

    partner = models.ForeignKey(
        Partner, on_delete=models.CASCADE, related_name="codes", verbose_name=_("partner")
    )
    code = models.CharField(
        _("code"),
        max_length=MAX_CODE,
        validators=[
            RegexValidator(
                r"\A[A-Za-z0-9][A-Za-z0-9_-]{1,38}[A-Za-z0-9]\Z",
                _(
                    "Enter 3 to 40 characters: letters from a to z, digits, - and _. Begin and "
                    "end with a letter or a digit."
                ),
            )
        ],
    )
    # MariaDB has no unique keys on an expression.
    key = models.CharField(max_length=MAX_CODE, unique=True, editable=False)
    active = models.BooleanField(_("active"), default=True)

    class Meta:
        verbose_name = _("partner code")
        verbose_name_plural = _("partner codes")

    def __str__(self) -> str:
        return self.code

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.key = self.code.lower()
        super().save(*args, **kwargs)
