"""Record, screen and decide conversions, adjust their payouts, and settle with partners."""

from typing import TYPE_CHECKING

from affiliations.lazy import lazy_exports

__all__ = [
    "Balance",
    "LeftOut",
    "SettleResult",
    "StatementLine",
    "Unpaid",
    "adjust",
    "approve_due",
    "balances",
    "decide",
    "own_account",
    "settle",
    "settle_all",
    "statement",
    "stop_for_fraud",
]

if TYPE_CHECKING:
    from affiliations.conversions.adjustments import adjust
    from affiliations.conversions.decisions import approve_due, decide, stop_for_fraud
    from affiliations.conversions.screening import own_account
    from affiliations.conversions.settlements import SettleResult, settle, settle_all
    from affiliations.conversions.statement_lines import StatementLine, statement
    from affiliations.conversions.unpaid import Balance, LeftOut, Unpaid, balances
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "adjustments": ["adjust"],
            "decisions": ["approve_due", "decide", "stop_for_fraud"],
            "screening": ["own_account"],
            "settlements": ["SettleResult", "settle", "settle_all"],
            "statement_lines": ["StatementLine", "statement"],
            "unpaid": ["Balance", "LeftOut", "Unpaid", "balances"],
        },
    )
