"""Basic residual networks: four norms and shortcuts, and what each leaves of the symmetry."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from tests.symmetry.zoo.case import Case, Move, blocked, join, norm_places, of_module, swap, tie

NORMS = {
    "batch": functools.partial(nn.BatchNorm, use_running_average=True),
    "layer": nn.LayerNorm,
    "group": functools.partial(nn.GroupNorm, num_groups=4),
}


class ResNet(nn.Module):
    """Stages of basic blocks `b{stage}{block}_*`; `pad` (`both`, `end`) gives option A shortcuts."""

    widths: tuple[int, ...] = (4, 8, 16)
    blocks: int = 3
    norm: str = "batch"
    pad: str = ""

    def shortcut(self, x: Array, width: int, name: str) -> Array:
        if not self.pad:
            x = nn.Conv(width, (1, 1), (2, 2), use_bias=False, name=f"{name}_proj")(x)
            return NORMS[self.norm](name=f"{name}_proj_norm")(x)
        extra = width - x.shape[-1]
        lo = extra // 2 if self.pad == "both" else 0
        return jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (lo, extra - lo)))

    @nn.compact
    def __call__(self, x: Array) -> Array:
        norm = NORMS[self.norm]
        x = nn.Conv(self.widths[0], (3, 3), use_bias=False, name="stem")(x)
        x = nn.relu(norm(name="stem_norm")(x))
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                name, stride = f"b{stage}{block}", 2 if stage and not block else 1
                y = nn.Conv(width, (3, 3), (stride, stride), use_bias=False, name=f"{name}_conv1")(x)
                y = nn.relu(norm(name=f"{name}_norm1")(y))
                y = norm(name=f"{name}_norm2")(
                    nn.Conv(width, (3, 3), use_bias=False, name=f"{name}_conv2")(y)
                )
                x = nn.relu(y + (x if stride == 1 else self.shortcut(x, width, name)))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


def hidden(block: str, norm: str) -> tuple[str, ...]:
    """The places of the channels between the two convolutions of a basic block."""
    norms = norm_places(f"{block}_norm1", norm)
    return (f"params/{block}_conv1/kernel@3", *norms, f"params/{block}_conv2/kernel@2")


def stream(module: ResNet, stage: int) -> tuple[str, ...]:
    """The places of the residual stream of a stage: all that write it, then all that read it."""
    blocks = [f"b{stage}{block}" for block in range(module.blocks)]
    written = [(f"{name}_conv2", f"{name}_norm2") for name in blocks]
    if stage == 0:
        written.insert(0, ("stem", "stem_norm"))
    elif not module.pad:
        written.insert(0, (f"{blocks[0]}_proj", f"{blocks[0]}_proj_norm"))
    read = [f"{name}_conv1" for name in blocks[stage > 0 :]]
    if stage + 1 < len(module.widths):
        read += [f"b{stage + 1}0_conv1"] + ([] if module.pad else [f"b{stage + 1}0_proj"])
    out = [
        place
        for conv, norm in written
        for place in (f"params/{conv}/kernel@3", *norm_places(norm, module.norm))
    ]
    out += [f"params/{conv}/kernel@2" for conv in read]
    return (*out, *(["params/head/kernel@0"] if stage + 1 == len(module.widths) else []))


def streams(module: ResNet, *swaps: tuple[int, int]) -> Move:
    """Exchange two channels of the last stages' streams, one pair for each stage, last stage last."""
    first = len(module.widths) - len(swaps)
    pairs = enumerate(swaps, first)
    return join(*(tie(swap(module.widths[s], *pair), *stream(module, s)) for s, pair in pairs))


BATCH, LAYER = ResNet(), ResNet(norm="layer")
GROUP = ResNet(norm="group", widths=(8, 16, 32))
PADDED, ONE_SIDED = ResNet(pad="both"), ResNet(pad="end")


CASES = {
    "resnet20_batch_norm": Case(
        of_module(BATCH),
        (4,) * 4 + (8,) * 4 + (16,) * 4,
        "Each of the 9 blocks has its own channels between its convolutions. The stem and all second "
        "convolutions of a stage write one stream, tied by the sums; projections start a new one.",
        moves=(
            tie(swap(4, 0, 3), *hidden("b00", "batch")),
            tie(swap(16, 2, 9), *hidden("b20", "batch")),
            tie(swap(4, 1, 2), *stream(BATCH, 0)),
            tie(swap(8, 0, 5), *stream(BATCH, 1)),
            tie(swap(16, 3, 15), *stream(BATCH, 2)),
        ),
    ),
    "resnet20_layer_norm": Case(
        of_module(LAYER),
        (4,) * 4 + (8,) * 4 + (16,) * 4,
        "As with BatchNorm: the statistics of LayerNorm are symmetric in the channels.",
        moves=(
            tie(swap(8, 0, 3), *hidden("b12", "layer")),
            tie(swap(4, 1, 2), *stream(LAYER, 0)),
            tie(swap(16, 3, 15), *stream(LAYER, 2)),
        ),
    ),
    "resnet20_group_norm": Case(
        of_module(GROUP),
        (2,) * 4 + (4,) * (12 + 4) + (8,) * 4,
        "Every axis of the BatchNorm network (9 inside blocks, 3 streams) is 4 groups of 2, 4 or 8 "
        "channels: the 4 groups may be reordered as a whole, and the channels within each of them.",
        nested=(2,) * 4 + (4,) * 4 + (8,) * 4,
        moves=(
            tie(swap(8, 2, 3), *hidden("b00", "group")),
            tie(blocked(swap(4, 0, 2), 2), *hidden("b00", "group")),
            tie(swap(8, 6, 7), *stream(GROUP, 0)),
            tie(blocked(swap(4, 0, 3), 4), *stream(GROUP, 1)),
            tie(swap(32, 8, 15), *stream(GROUP, 2)),
            tie(blocked(swap(4, 1, 3), 8), *stream(GROUP, 2)),
        ),
    ),
    "resnet20_padded_both_sides": Case(
        of_module(PADDED),
        (4,) * 5 + (8,) * 4 + (16,) * 3,
        "Padding cuts the streams into [2 | stage 0: 4 | 2] and [4 | stage 1: 8 | 4]. The middle is "
        "tied to the narrower stream; both pads are zero, so lo and hi are one group: 4, then 8. "
        "Streams 4, 4, 8; insides of blocks 3 x 4, 3 x 8, 3 x 16.",
        moves=(
            streams(PADDED, (0, 1), (2, 3), (6, 7)),  # stage 0, seen by all later stages
            streams(PADDED, (0, 7), (4, 11)),  # stage 1: a low pad with a high one
            streams(PADDED, (0, 1), (4, 5)),
            streams(PADDED, (2, 13)),  # stage 2: a low pad with a high one
            tie(swap(8, 0, 3), *hidden("b10", "batch")),
        ),
    ),
    "resnet20_padded_at_the_end": Case(
        of_module(ONE_SIDED),
        (4,) * 5 + (8,) * 4 + (16,) * 3,
        "Padding cuts the streams into [stage 0: 4 | 4] and [stage 1: 8 | 8]: 4, then 4 more, then 8.",
        moves=(
            streams(ONE_SIDED, (0, 3), (0, 3), (0, 3)),
            streams(ONE_SIDED, (4, 6), (4, 6)),
            streams(ONE_SIDED, (8, 15)),
        ),
    ),
}
