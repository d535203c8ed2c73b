"""The contract suite for selectors: run `check_selector` on your own selector, as the tests of this package do."""

from zoo_exp.testing.contract import CHECKS, ContractError, check_selector
from zoo_exp.testing.outcomes import Outcome, outcomes
from zoo_exp.testing.sample_images import sample_tokens

__all__ = ["CHECKS", "ContractError", "Outcome", "check_selector", "outcomes", "sample_tokens"]
