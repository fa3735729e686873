"""Register the visitors whom partners send, and find them in later requests."""

from typing import TYPE_CHECKING

from affiliations.lazy import lazy_exports

__all__ = [
    "acurrent_visitor",
    "aforget_visitor",
    "arefer",
    "aregister_visitor",
    "current_visitor",
    "forget_visitor",
    "refer",
    "register_visitor",
]

if TYPE_CHECKING:
    from affiliations.tracking.consent import (
        aforget_visitor,
        aregister_visitor,
        forget_visitor,
        register_visitor,
    )
    from affiliations.tracking.referrals import arefer, refer
    from affiliations.tracking.visitors import acurrent_visitor, current_visitor
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "consent": [
                "aforget_visitor",
                "aregister_visitor",
                "forget_visitor",
                "register_visitor",
            ],
            "referrals": ["arefer", "refer"],
            "visitors": ["acurrent_visitor", "current_visitor"],
        },
    )
