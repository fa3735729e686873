"""What a story tells of a callback: what the partner was to hear, and whether they did."""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from affiliations.models import Callback, CallbackAttempt
from affiliations.stories.lines import Line, by_key, written

#: So much is quoted of what a partner has answered.
_QUOTED = 200

#: How a callback stands.
_STANDS = {
    Callback.Status.QUEUED: gettext_noop("It waits (next attempt: %(next)s)."),
    Callback.Status.HELD: gettext_noop(
        "It is held, for callbacks are suspended (since %(since)s)."
    ),
    Callback.Status.DELIVERED: gettext_noop("The partner has taken it (%(delivered)s)."),
    Callback.Status.EXHAUSTED: gettext_noop("It has failed for good."),
    Callback.Status.CANCELLED: gettext_noop("It is cancelled. The reason: %(reason)s"),
}


def tell(callback: Callback) -> Iterator[Line]:
    """Tell of a callback: what it says, how it stands, and how each attempt ended."""
    names = {"callback": callback.pk, "event": callback.get_event_display(), "url": callback.url}
    if callback.url:
        sentences = [_("Callback %(callback)s tells of the %(event)s: %(url)s") % names]
    else:
        sentences = [_("Callback %(callback)s tells of the %(event)s. Its URL is blanked.") % names]
    sentences.append(
        _(_STANDS[Callback.Status(callback.status)])
        % {
            "next": written(callback.next_attempt_on),
            "since": written(callback.subscription.callbacks_suspended_on),
            "delivered": written(callback.delivered_on),
            "reason": _(callback.reason or "-"),
        }
    )
    yield Line(callback.created_on, " ".join(sentences), callback)
    for attempt in by_key(callback.attempts.all()):
        yield Line(attempt.started_on, _attempt(attempt), attempt)


def _attempt(attempt: CallbackAttempt) -> str:
    names = {
        "number": attempt.number,
        "callback": attempt.callback_id,
        "duration": attempt.duration_ms,
        "error": attempt.get_error_display(),
    }
    if attempt.error:
        text = _(
            "Attempt %(number)s of callback %(callback)s failed after %(duration)s ms: %(error)s."
        )
    else:
        text = _("Attempt %(number)s of callback %(callback)s was taken after %(duration)s ms.")
    sentences = [text % names]
    if attempt.manual:
        sentences.append(_("It was asked for by hand."))
    if attempt.status_code is not None:
        sentences.append(f"HTTP {attempt.status_code}.")
    if attempt.message:
        sentences.append(attempt.message)
    if attempt.response_excerpt:
        answer = Truncator(" ".join(attempt.response_excerpt.split())).chars(_QUOTED)
        sentences.append(_("The answer: %(answer)s") % {"answer": answer})
    return " ".join(sentences)
