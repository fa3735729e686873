"""Why a callback is cancelled: stored in English, shown in the reader's language."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from affiliations import placeholders
from affiliations.models.visitor import LOST_CLICK_IDS

DECIDED_SINCE = gettext_noop("The status of the conversion changed before this callback was sent.")
NO_CLICK_ID = gettext_noop("The visitor came without a click id.")
SENDING_IS_OFF = gettext_noop("Sending was turned off (AFFILIATE_SEND_CALLBACKS was False).")
IS_TEST = gettext_noop("This is a test. Its callbacks are only sent manually.")

_WITHOUT_CLICK_ID = _(
    "The callback URL needs the partner’s click id: open a link that has one, such as "
    "&click_id=test-1, or use {visitor_id} in the callback URL."
)
_CURES: dict[str, Any] = {
    **dict.fromkeys((NO_CLICK_ID, *LOST_CLICK_IDS.values()), _WITHOUT_CLICK_ID),
    SENDING_IS_OFF: _("Set AFFILIATE_SEND_CALLBACKS = True, and send it again in the Admin."),
    IS_TEST: _("Send it with “Send again” on its page in the Admin."),
    placeholders.CLIMBS: _(
        "Ask the partner for a callback URL with this placeholder in its query."
    ),
}


def cure_of(reason: str) -> Any:
    """Return what to do about a cancelled callback; empty if staff have written the reason."""
    return _CURES.get(reason, "")
