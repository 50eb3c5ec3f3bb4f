"""The table of rules, primitive -> `Rule`, and the decorator that fills it."""

from collections.abc import Callable

from autofusion_jax.symmetry.trace import Rule, RuleFunction

RULES: dict[str, Rule] = {}


def rule(
    primitives: str, *, reads_index: bool = False, mixes: bool = False, is_call: bool = False
) -> Callable[[RuleFunction], RuleFunction]:
    """Enter a function in the table as the rule of each of the primitives that a text names; see `Rule`."""

    def enter(apply: RuleFunction) -> RuleFunction:
        entry = Rule(apply, reads_index=reads_index, mixes=mixes, is_call=is_call)
        RULES.update(dict.fromkeys(primitives.split(), entry))
        return apply

    return enter
