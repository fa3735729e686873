"""
The e-mails: plain text, from the templates ``affiliations/notices/*.txt``, which a host overrides.

The templates get texts and numbers, never the models. They are rendered in the language and the
time zone of the settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from django.conf import settings as django_settings
from django.core.mail import EmailMessage
from django.template.loader import render_to_string
from django.urls import NoReverseMatch
from django.utils import timezone, translation

from affiliations import waiting
from affiliations.amounts import by_currency, money
from affiliations.callbacks.suspension import SUSPEND_AFTER
from affiliations.conf import settings
from affiliations.logs import one_line
from affiliations.models import Conversion
from affiliations.notices.news import LISTED, Decided, News
from affiliations.partner_pages.deliveries import error_text
from affiliations.partner_pages.serializers import conversion_row

Status = Conversion.Status

#: The longest subject; many names may be in it.
_SUBJECT = 150


def to_partners(news: Sequence[News]) -> EmailMessage:
    """Return the notice to the partners of one address."""
    with _of_settings():
        context = {"partners": [_partner(one) for one in news], "site_url": settings.site_url}
        return _message("partner", context, news[0].partner.email.strip())


def digest() -> Iterator[EmailMessage]:
    """Yield the digest for each of the recipients, if anything waits for staff."""
    # An address that is listed twice gets one e-mail.
    recipients = dict.fromkeys(settings.notice_recipients)
    if not recipients:
        return
    with _of_settings():
        found = [
            SimpleNamespace(
                text=str(kind.words % {"count": count}),
                count=count,
                label=str(kind.label),
                url=_admin_url(kind),
            )
            for kind in waiting.kinds()
            if (count := kind.rows.count())
        ]
        if not found:
            return
        context = {"waiting": found, "site_url": settings.site_url}
        messages = [_message("staff", context, recipient) for recipient in recipients]
    yield from messages


def text(message: EmailMessage) -> str:
    """Return an e-mail as ``--dry-run`` prints it."""
    return f"To: {one_line(', '.join(message.to))}\nSubject: {message.subject}\n\n{message.body}"


@contextmanager
def _of_settings() -> Iterator[None]:
    zone = timezone.get_default_timezone()
    with translation.override(django_settings.LANGUAGE_CODE), timezone.override(zone):
        yield


def _message(name: str, context: dict[str, Any], recipient: str) -> EmailMessage:
    template = f"affiliations/notices/{name}"
    # A subject is one line, whatever the names in it are.
    subject = " ".join(render_to_string(f"{template}_subject.txt", context).split())
    if len(subject) > _SUBJECT:
        subject = f"{subject[: _SUBJECT - 1]}…"
    # Template tags leave empty lines.
    body = re.sub(r"\n{3,}", "\n\n", render_to_string(f"{template}.txt", context)).strip()
    return EmailMessage(one_line(subject), f"{body}\n", to=[recipient])


def _partner(news: News) -> SimpleNamespace:
    page = _page_url(news)
    return SimpleNamespace(
        name=one_line(news.partner.name),
        page=page,
        approved=_decided(news.decided.get(Status.APPROVED)),
        rejected=_decided(news.decided.get(Status.REJECTED)),
        conversions=[_conversion(row) for row in news.listed],
        more=max(news.count - LISTED, 0),
        statements=[
            SimpleNamespace(
                number=one_line(row.number),
                total=money(row.total, row.currency),
                url=page and f"{page}settlements/{row.pk}/",
            )
            for row in news.statements
        ],
        failing=[
            SimpleNamespace(
                trigger=one_line(row.trigger),
                since=row.failing_since,
                failures=row.failure_count,
                error=error_text(row.last_error, row.last_status_code),
                is_suspended=row.is_suspended,
                hours=int(SUSPEND_AFTER.total_seconds() // 3600),
            )
            for row in news.failing
        ],
    )


def _decided(decided: Decided | None) -> SimpleNamespace | None:
    if decided is None:
        return None
    payout = by_currency(decided.payouts) if decided.payouts else ""
    return SimpleNamespace(count=len(decided.keys), payout=payout)


def _conversion(conversion: Conversion) -> SimpleNamespace:
    """Return the values of a conversion in a notice, which are also on the partner page."""
    row = conversion_row(conversion)
    paid = row.payout is not None
    return SimpleNamespace(
        trigger=one_line(row.trigger),
        reference=one_line(row.reference),
        status=str(row.status),
        is_rejected=row.is_rejected,
        payout=money(row.payout, row.payout_currency) if paid else "",
        reason=one_line(str(row.reason)),
    )


def _page_url(news: News) -> str:
    """Return the URL of the partner's page; empty if there is none, or the site is not known."""
    try:
        path = settings.site_url and news.partner.page_link()
    except NoReverseMatch:
        return ""
    return f"{settings.site_url}{path}" if path else ""


def _admin_url(kind: waiting.Kind) -> str:
    if not settings.site_url:
        return ""
    path = waiting.admin_path(kind.model, kind.page, query=kind.query)
    return f"{settings.site_url}{path}" if path else ""
