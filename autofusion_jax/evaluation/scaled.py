"""Scaled performance: how much of each network's own performance a merged network keeps (MuDSC)."""

from collections.abc import Mapping

from autofusion_jax.arguments import checked

PERCENT = 100.0


@checked
def scaled_performance(
    values: Mapping[str, float], own: Mapping[str, float], floors: Mapping[str, float]
) -> dict[str, float]:
    """Bring measures of different kinds onto one scale: `100 (v - floor) / (own - floor)`.

    Accuracies and errors then have a common mean. A network that does worse than the floor is below 0.

    Args:
        values: task -> the measure of a merged network, an accuracy or an error.
        own: task -> the same measure of the network that was trained on the task: it stands at 100.
        floors: task -> the same of an answer that does not look at the input, such as the most frequent
            class: it stands at 0.

    Returns:
        Task -> scaled performance in percent.

    Raises:
        ValueError: a network is no other than its floor.

    References:
        Xu et al., Training-Free Pretrained Model Merging (MuDSC), CVPR 2024, Eq. 9.

    Example:
        >>> values, own = {"digits": 60.0, "edges": 20.0}, {"digits": 90.0, "edges": 10.0}
        >>> scaled_performance(values, own, {"digits": 10.0, "edges": 50.0})
        {'digits': 62.5, 'edges': 75.0}
    """
    for task in values:
        if own[task] == floors[task]:
            raise ValueError(
                f"scaled_performance: own[{task!r}] must be another than the floor; got {own[task]:g} for "
                "both. A network that does no better than a constant answer has no scale."
            )
    return {
        task: PERCENT * (value - floors[task]) / (own[task] - floors[task]) for task, value in values.items()
    }
