"""Permutation specs of the bundled models written by hand: oracles of the inferred ones."""

from autofusion_jax.models.mlp import MLP
from autofusion_jax.models.vgg import VGG
from autofusion_jax.symmetry.axes import in_axis, out_axis
from autofusion_jax.symmetry.spec import PermSpec


def mlp_perm_spec(module: MLP, params: dict) -> PermSpec:
    """The symmetries of an `MLP`: one group for every hidden layer, named after it.

    Args:
        module: the network.
        params: its variables, `{"params": {"dense_0": {"kernel", "bias"}, ...}}`.
    """
    names = [f"dense_{i}" for i in range(len(module.widths))]
    table = {}
    previous = None
    for name in names:
        table[f"params/{name}/kernel"] = (previous, out_axis(name))
        table[f"params/{name}/bias"] = (out_axis(name),)
        previous = in_axis(name)
    table["params/head/kernel"] = (previous, None)
    table["params/head/bias"] = (None,)
    return PermSpec.from_table(table, params, apply_fn=module.apply)


def vgg_perm_spec(module: VGG, params: dict) -> PermSpec:
    """The symmetries of a `VGG`: one group for every convolution's channels, named after it.

    The head reads the flattened map, `(pixels) x (channels of the last convolution)`.

    Args:
        module: the network.
        params: its variables, `{"params": {"conv_0": {"kernel", "bias"}, ..., "head": ...}}`.
    """
    names = [f"conv_{i}" for i in range(len(module.widths))]
    table = {}
    previous = None
    for name in names:
        table[f"params/{name}/kernel"] = (None, None, previous, out_axis(name))
        table[f"params/{name}/bias"] = (out_axis(name),)
        previous = in_axis(name)
    pixels = params["params"]["head"]["kernel"].shape[0] // module.widths[-1]
    table["params/head/kernel"] = (in_axis(pixels, names[-1]), None)
    table["params/head/bias"] = (None,)
    return PermSpec.from_table(table, params, apply_fn=module.apply)


HAND_SPECS = {MLP: mlp_perm_spec, VGG: vgg_perm_spec}
