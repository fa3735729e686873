"""Why an attempt to send a callback fails, and what to do about it."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.conf import Settings

#: Too many requests, or a gateway whose server does not answer: the partner asks for a pause.
BUSY = (429, 502, 503, 504)
GONE = 410


class DeliveryError(models.TextChoices):
    """
    Why an attempt failed; ``CallbackAttempt.Error`` is this class.

    ``label`` tells staff the reason. ``advice`` tells the partner what to do, ``cure`` the site.
    """

    TIMEOUT = "timeout", _("the partner’s server did not respond in time")
    DEADLINE = "deadline", _("the request took too long")
    DNS = "dns", _("the host name was not found")
    CONNECT = "connect", _("the connection failed")
    TLS = "tls", _("the secure connection (TLS) failed")
    BLOCKED_ADDRESS = "blocked_address", _("the address is inside this site’s network")
    REDIRECTS = "redirects", _("too many redirects, or a redirect to an insecure address")
    PROTOCOL = "protocol", _("the response is not valid HTTP")
    HTTP_STATUS = "http_status", _("the partner’s server returned an error")
    CONFIGURATION = "configuration", _("this site’s settings prevented it")
    LOST = "lost", _("the connection was lost before the response was complete")

    @property
    def advice(self) -> Any:
        """What the partner can do, in the words of this site. See also ``advice_for()``."""
        return _ADVICE[self]

    @property
    def cure(self) -> str:
        """What the site can do about it: mostly, tell the partner."""
        return cure_for(self.value, None)


_ADVICE: dict[str, Any] = {
    DeliveryError.TIMEOUT: _(
        "Answer as soon as you have stored the callback, and do slow work afterwards. Check that "
        "your server can be reached from outside your network."
    ),
    DeliveryError.DEADLINE: _(
        "Answer as soon as you have stored the callback, and do slow work afterwards. Redirects "
        "take time, too: give us the final URL."
    ),
    DeliveryError.DNS: _(
        "Check the host name and its DNS records. If your server has moved, give us the new URL."
    ),
    DeliveryError.CONNECT: _(
        "Check that your server is running, and that no firewall blocks this site."
    ),
    DeliveryError.TLS: _(
        "Check the certificate of your server: it must be valid for this host name, not have "
        "expired, and come with its intermediate certificates."
    ),
    DeliveryError.BLOCKED_ADDRESS: _(
        "The host name leads to an address that is not public. Correct its DNS records, or give "
        "us another URL."
    ),
    DeliveryError.REDIRECTS: _("Give us the final URL, with https."),
    DeliveryError.PROTOCOL: _("Check that a web server answers at this host and port."),
    DeliveryError.HTTP_STATUS: _(
        "Answer with a 2xx status as soon as you have stored the callback."
    ),
    DeliveryError.CONFIGURATION: _(
        "You need not do anything. If it lasts, tell your contact at the site."
    ),
    DeliveryError.LOST: _(
        "Check in the log of your server why the response broke off. If it was not on your side, "
        "tell your contact at the site."
    ),
}
_REFUSED = _(
    "Your server refused the callback. Check the path and the parameters of the callback URL, and "
    "let callbacks pass without a login or a bot check."
)
_FAULTY = _("Look for the error in the log of your server.")
_NEVER_AGAIN = _(
    "With 410 your server says “never again”. To get such a callback once more, ask your contact "
    "at the site."
)
_BUSY = _(
    "Your server, or the gateway before it, is busy or down. Get it to answer with a 2xx status "
    "again."
)

#: What the site can do about errors that the partner cannot correct.
_OWN_CURES: dict[str, Any] = {
    DeliveryError.BLOCKED_ADDRESS: _(
        "If this is your own server, on a development machine, set %(line)s. Otherwise the partner "
        "must give you a public address."
    ),
    DeliveryError.CONFIGURATION: _(
        "The message names what is wrong: %(setting)s = False, the CA bundle, or the signing "
        "secret of the partner."
    ),
}


def advice_for(error: str, status_code: int | None) -> str:
    """Return what the partner can do about an error; a status of HTTP has advice of its own."""
    if error != DeliveryError.HTTP_STATUS or status_code is None:
        return str(_ADVICE.get(error, ""))
    if status_code == GONE:
        return str(_NEVER_AGAIN)
    if status_code in BUSY:
        return str(_BUSY)
    by_class = {3: _ADVICE[DeliveryError.REDIRECTS], 4: _REFUSED, 5: _FAULTY}
    return str(by_class.get(status_code // 100, _ADVICE[DeliveryError.HTTP_STATUS]))


def cure_for(error: str, status_code: int | None) -> str:
    """Return what the site can do about an error; empty for a code of another version."""
    if (cure := _OWN_CURES.get(error)) is not None:
        names = {
            "line": Settings.callback_allowed_networks.line,
            "setting": Settings.send_callbacks.name,
        }
        return str(cure % names)
    advice = advice_for(error, status_code)
    return advice and gettext("Tell the partner: “%(advice)s”") % {"advice": advice}
