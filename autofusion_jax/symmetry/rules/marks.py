"""What the tracer must know about a rule before it calls it."""

from autofusion_jax.symmetry.trace import Rule


def names(text: str) -> list[str]:
    """The primitives named in a text."""
    return text.split()


def reads_index(rule: Rule) -> Rule:
    """The rule knows about entries that are positions; otherwise their axis is fixed first."""
    rule.reads_index = True  # type: ignore[attr-defined]
    return rule


def mixes(rule: Rule) -> Rule:
    """The rule puts new fixed axes where positions were mixed: what is left is recorded on its own."""
    rule.mixes = True  # type: ignore[attr-defined]
    return rule


def is_call(rule: Rule) -> Rule:
    """The rule walks over a jaxpr inside the equation, which is what uses the inputs."""
    rule.is_call = True  # type: ignore[attr-defined]
    rule.reads_index = True  # type: ignore[attr-defined]
    return rule
