"""What runs that share a budget have spent, and whether they may go on.

Asked when a request or an evaluation begins, once its turn has come: what is under way when a limit
is reached is finished and counted, and nothing further begins. A reply that was paid for is judged,
whatever it cost: that takes time alone.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kernel_generator.domain.budget import Budget, Price
from kernel_generator.domain.errors import BudgetSpent, InvalidInput
from kernel_generator.runs.settings import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.runs.journal import KnownRun


class Spending:
    """Counts what is spent; the wall clock runs from its making."""

    def __init__(self, budget: Budget | None = None, price: Price | None = None) -> None:
        self._budget = budget or Budget()
        self._price = price
        self._command = secrets.token_hex(8)
        self._began = time.monotonic()
        self._lock = threading.Lock()
        """Devices are counted from threads of their own."""
        self.usd = 0.0
        self.tokens = 0
        self.device_s = 0.0
        self.unpriced = ""
        """The model of a reply whose cost nobody knows; empty where there was none."""
        self.uncounted = ""
        """The model of a reply that came without its usage; empty where there was none."""

    @staticmethod
    def going_on(
        allowance: Allowance, known: Sequence[KnownRun], price: Price | None = None
    ) -> Spending:
        """What is left of an earlier command's budget: all of its runs among those that are known
        count. Wall time does from now on. `price`: in the place of the one that was stated."""
        if price is None and allowance.price is not None:
            price = Price(*allowance.price)
        limits = allowance.usd, allowance.tokens, allowance.device_s, allowance.wall_s
        spending = Spending(Budget(*limits), price)
        spending._command = allowance.command
        for run in known:
            noted = run.settings.allowance
            if noted is None or noted.command != allowance.command:
                continue
            for steps in run.history.steps.values():
                if steps.reply is not None:
                    spending.replied(spending.priced(steps.reply))
                if steps.evaluation is not None:
                    spending.judged(steps.evaluation)
        return spending

    @property
    def allowance(self) -> Allowance | None:
        """For runs to note that begin with it; None where nothing is limited."""
        budget, price = self._budget, self._price
        if budget == Budget():
            return None
        return Allowance(
            command=self._command,
            usd=budget.usd,
            tokens=budget.tokens,
            device_s=budget.device_s,
            wall_s=budget.wall_s,
            price=None if price is None else (price.prompt, price.completion),
        )

    @property
    def told(self) -> str:
        """What was spent of each limit."""
        budget, parts = self._budget, list[str]()
        if budget.usd is not None:
            parts.append(f"${self.usd:.4f} of ${budget.usd:g}")
        if budget.tokens is not None:
            parts.append(f"{self.tokens} of {budget.tokens} tokens")
        if budget.device_s is not None:
            parts.append(f"{self.device_s:.0f} of {budget.device_s:.0f} s of the judge's time")
        if budget.wall_s is not None:
            parts.append(f"0 of {budget.wall_s:.0f} s, which begin anew")
        return ", ".join(parts)

    def check_price(self, model: str, is_known: bool) -> None:
        """Raises `InvalidInput` where there is a budget in dollars and no price of the model."""
        if self._budget.usd is not None and self._price is None and not is_known:
            raise InvalidInput(_unpriced(model, self._budget.usd))

    def priced(self, reply: Reply) -> Reply:
        """The reply with its cost by the stated price, where no table knew it."""
        if reply.cost_usd is not None or self._price is None or reply.usage is None:
            return reply
        return replace(reply, cost_usd=self._price.of(reply.usage))

    def replied(self, reply: Reply) -> None:
        """Count a reply. One that is free, a replayed one for example, need not say its usage."""
        with self._lock:
            if reply.cost_usd is None:
                self.unpriced = self.unpriced or reply.model
            if reply.usage is None and reply.cost_usd != 0.0:
                self.uncounted = self.uncounted or reply.model
            self.usd += reply.cost_usd or 0.0
            if reply.usage is not None:
                self.tokens += reply.usage.prompt + reply.usage.completion

    def judged(self, evaluation: Evaluation) -> None:
        """Count an evaluation."""
        with self._lock:
            self.device_s += evaluation.seconds

    def permit(self, why_not: Callable[[], str]) -> SpendingPermit:
        """For what may begin as long as there is no reason against it."""
        return SpendingPermit(self, why_not)

    @property
    def left_s(self) -> float | None:
        """Seconds of the wall clock; None where they are not limited."""
        if self._budget.wall_s is None:
            return None
        return max(0.0, self._began + self._budget.wall_s - time.monotonic())

    @property
    def exhausted(self) -> str:
        """Why no model may be asked any more; empty where it may."""
        budget = self._budget
        if budget.usd is not None and self.unpriced and self.unpriced == self.uncounted:
            return _uncounted(self.uncounted, f"${budget.usd:g}")
        if budget.usd is not None and self.unpriced:
            return _unpriced(self.unpriced, budget.usd)
        if budget.usd is not None and self.usd >= budget.usd:
            return _spent(f"${self.usd:.4f} of ${budget.usd:g}")
        if budget.tokens is not None and self.uncounted:
            return _uncounted(self.uncounted, f"{budget.tokens} tokens")
        if budget.tokens is not None and self.tokens >= budget.tokens:
            return _spent(f"{self.tokens} of {budget.tokens} tokens")
        return self.out_of_time

    @property
    def out_of_time(self) -> str:
        """Why nothing may be judged any more; empty where it may."""
        budget, wall_s = self._budget, time.monotonic() - self._began
        if budget.device_s is not None and self.device_s >= budget.device_s:
            told = f"{self.device_s:.0f} of {budget.device_s:.0f} s of the judge's time"
            return _spent(told)
        if budget.wall_s is not None and wall_s >= budget.wall_s:
            return _spent(f"{wall_s:.0f} of {budget.wall_s:.0f} s")
        return ""


@dataclass(frozen=True)
class SpendingPermit:
    """A `Permit` and a `Meter` of what is spent together."""

    spending: Spending
    why_not: Callable[[], str]

    @property
    def left_s(self) -> float | None:
        """See `Permit.left_s`."""
        return self.spending.left_s

    def check(self) -> None:
        """See `Permit.check`."""
        if spent := self.why_not():
            raise BudgetSpent(spent)

    def judged(self, evaluation: Evaluation) -> None:
        """See `Meter.judged`."""
        self.spending.judged(evaluation)


@dataclass(frozen=True)
class Counted:
    """A `Meter` for what has begun: it is finished whatever was spent meanwhile."""

    spending: Spending
    left_s = None

    def check(self) -> None:
        """It goes on."""

    def judged(self, evaluation: Evaluation) -> None:
        """See `Meter.judged`."""
        self.spending.judged(evaluation)


def _spent(told: str) -> str:
    return f"the budget is spent: {told}"


def _unpriced(model: str, usd: float) -> str:
    return (
        f"the price of '{model}' is not known, so a budget of ${usd:g} cannot be kept to: state it "
        "with --price PROMPT,COMPLETION"
    )


def _uncounted(model: str, limit: str) -> str:
    return (
        f"'{model}' reports no usage, so a budget of {limit} cannot be kept to: limit the time "
        "instead, with --max-minutes or Budget(wall_s=...)"
    )
