"""The two reference arms of every table: all visual tokens, and no visual tokens."""

from dataclasses import dataclass
from typing import ClassVar

from zoo_exp.core.budget import Budget, BudgetLike
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.allocation import Group, Plan
from zoo_exp.selectors.base import Selector


@dataclass(frozen=True)
class Full(Selector):
    """Keeps every visual token (the unpruned model). Needs no budget (N and 1.0 are allowed)."""

    name: ClassVar[str] = "full"
    paper: ClassVar[str] = "reference"

    def plan(self, tokens: VisualTokens, budget: BudgetLike) -> Plan:
        """All tokens, newlines included."""
        if budget is not None and Budget.parse(budget).resolve(tokens.count) != tokens.count:
            raise InvalidValueError(
                f"budget {budget} of selector full: it keeps all {tokens.count} visual tokens, remove the budget"
            )
        return Plan((Group(None, tokens.count),))

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """No matrix product."""
        return 0


@dataclass(frozen=True)
class Blind(Selector):
    """Keeps no visual token: accuracy of the language model without the image. Needs no budget."""

    name: ClassVar[str] = "blind"
    paper: ClassVar[str] = "sanity baseline"

    def plan(self, tokens: VisualTokens, budget: BudgetLike) -> Plan:
        """No tokens."""
        if budget is not None and Budget.parse(budget) != Budget(count=0):
            raise InvalidValueError(
                f"budget {budget} of selector blind: it keeps no visual token, remove the budget"
            )
        return Plan((Group(None, 0),))

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """No matrix product."""
        return 0
