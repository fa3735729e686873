"""What a story tells of the referral itself: who came, what was not counted, how it stands now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from affiliations.conf import settings
from affiliations.exceptions import Reason
from affiliations.models import UncountedTrigger, Visitor
from affiliations.stories import conversions
from affiliations.stories.lines import Line, by_key, refers_to, written


def past(visitor: Visitor) -> list[Line]:
    """Return what has happened, in order; what has one time stays in the order of its causes."""
    lines = [*_arrival(visitor)]
    lines += [_refusal(row) for row in visitor.uncounted_triggers.all()]
    for conversion in by_key(visitor.conversions.all()):
        lines += conversions.tell(conversion)
    if visitor.closed_on is not None:
        text = _("The referral was closed: nothing more is counted for this visitor.")
        lines.append(Line(visitor.closed_on, text, visitor))
    lines += [
        Line(
            other.referred_on,
            _("Visitor %(visitor)s, sent by %(partner)s, took the place of this one.")
            % {"visitor": other, "partner": other.partner},
            other,
        )
        for other in by_key(visitor.displaced_by.all())
    ]
    return sorted(lines, key=lambda line: line.on or visitor.referred_on)


def _arrival(visitor: Visitor) -> Iterator[Line]:
    """Tell who came, how, and whose place they took."""
    names = {"visitor": visitor, "partner": visitor.partner, "url": visitor.entry_point}
    if visitor.entry_point:
        sentences = [
            _("Visitor %(visitor)s came through a link of %(partner)s to %(url)s.") % names
        ]
    else:
        sentences = [_("Visitor %(visitor)s was sent by %(partner)s.") % names]
    if visitor.referrer:
        sentences.append(_("The link stood on %(url)s.") % {"url": visitor.referrer})
    elif visitor.entry_point:
        sentences.append(_("On which page the link stood is not known."))
    labels = {name: getattr(visitor, name) for name in ("sub1", "sub2", "sub3", "sub4", "sub5")}
    labels = {_("click id"): visitor.click_id} | labels
    given = ", ".join(f"{name} {value}" for name, value in labels.items() if value)
    sentences.append(
        _("It had the labels: %(labels)s.") % {"labels": given} if given else _("It had no labels.")
    )
    if visitor.user is not None:
        sentences.append(_("The visitor is the user %(user)s.") % {"user": visitor.user})
    if visitor.is_test:
        sentences.append(_("This is a test of the deal, and in no number."))
    yield Line(visitor.referred_on, " ".join(sentences), visitor)
    if (previous := visitor.previous) is not None:
        text = _(
            "It took the place of visitor %(visitor)s, sent by %(partner)s, who was still open."
        )
        names = {"visitor": previous, "partner": previous.partner}
        yield Line(visitor.referred_on, text % names, previous)


def _refusal(row: UncountedTrigger) -> Line:
    """Tell of a trigger that fired and was not counted."""
    why = dict(Reason.choices).get(row.reason, row.reason)
    sentences = [
        _("“%(trigger)s” fired and was not counted: %(reason)s.")
        % {"trigger": row.trigger, "reason": why}
    ]
    if row.count > 1:
        times = ngettext(
            "%(count)s time (since %(on)s).", "%(count)s times (since %(on)s).", row.count
        )
        sentences.append(times % {"count": row.count, "on": written(row.first_on)})
    if row.reference:
        sentences.append(refers_to(row.reference))
    return Line(row.last_on, " ".join(sentences), row)


def present(visitor: Visitor, now: datetime) -> Line:
    """Say how the referral stands: open or not, until or since when, and why."""
    window = visitor.partner.attribution_window
    end = None if window is None else written(visitor.referred_on + window)
    sentences = []
    if not visitor.uncounted_triggers.all() and not visitor.conversions.all():
        sentences.append(_("No trigger has been heard of for this visitor."))
    if settings.first_click_wins and not visitor.is_test and not visitor.conversions.all():
        sentences.append(
            _("The first click wins: another that was open in the browser stays before this one.")
        )
    refusal = visitor.refusal(now)
    if refusal is None and end is None:
        sentences.append(_("The referral is open, for ever."))
    elif refusal is None:
        sentences.append(_("The referral is open (until %(end)s).") % {"end": end})
    elif refusal is Reason.WINDOW_EXPIRED:
        sentences.append(
            _("The referral is not open: %(reason)s (since %(end)s).")
            % {"reason": refusal.label, "end": end}
        )
    else:
        sentences.append(_("The referral is not open: %(reason)s.") % {"reason": refusal.label})
    return Line(None, " ".join(sentences), visitor)
