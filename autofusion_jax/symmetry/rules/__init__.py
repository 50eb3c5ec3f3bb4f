"""Rules of primitives: how each relates the axes of its inputs and outputs.

A rule is `rule(tracer, eqn, inputs) -> outputs` over `symmetry.trace.Value`s. A primitive
without one is treated as depending on the order of everything that meets it. There is a file
for each family of primitives; importing it enters its rules in the one table `RULES`.
"""

from autofusion_jax.symmetry.rules import contract, control, elementwise, index, shape, window
from autofusion_jax.symmetry.rules.table import RULES
from autofusion_jax.symmetry.trace import Rule, RuleFunction

__all__ = ["RULES", "contract", "control", "elementwise", "index", "register_rule", "shape", "window"]


def register_rule(primitive: str, rule: RuleFunction) -> None:
    """Teach `infer_perm_spec` a primitive, or replace what it knows about one.

    Args:
        primitive: the primitive's name, as in a jaxpr and in `spec.notes`.
        rule: `rule(tracer, eqn, inputs) -> outputs`, each a `symmetry.trace.Value`. For a
            primitive that works entry by entry it is `symmetry.rules.elementwise.elementwise`.

    Example:
        >>> from autofusion_jax.symmetry.rules import elementwise
        >>> register_rule("my_activation", elementwise.elementwise)
        >>> _ = RULES.pop("my_activation")
    """
    RULES[primitive] = Rule(rule)
