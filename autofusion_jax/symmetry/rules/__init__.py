"""How each primitive relates the axes of its inputs and outputs: one table, name -> rule.

A rule is `rule(tracer, eqn, inputs) -> outputs` over `symmetry.trace.Value`s. A primitive
without one is treated as depending on the order of everything that meets it.
"""

from autofusion_jax.symmetry.rules import contract, control, elementwise, index, shape, window
from autofusion_jax.symmetry.trace import Rule

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **shape.RULES,
    **contract.RULES,
    **window.RULES,
    **index.RULES,
    **control.RULES,
}


def register_rule(primitive: str, rule: Rule) -> None:
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
    RULES[primitive] = rule
