"""The small torch ResNets of the recorded ZipIt and MuDSC runs, as bare functions of their state dicts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import autofusion_jax as af

BLOCKS = {"layer1.0": 1, "layer2.0": 2, "layer3.0": 2}
"""Block -> stride; every layer has one block."""

GROUP_OF_NODE = {
    5: "layer1.0.conv1",
    9: "conv1",
    14: "layer2.0.conv1",
    18: "layer2.0.conv2",
    23: "layer3.0.conv1",
    27: "layer3.0.conv2",
}


def conv(params, name, x, stride=1):
    """A 3x3 convolution, `NCHW` and `OIHW`."""
    dims = ("NCHW", "OIHW", "NCHW")
    kernel = params[f"{name}.weight"]
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=dims)


def per_channel(vector):
    return vector[:, None, None]


def batch_norm(params, name, x):
    mean, var, scale, bias = (
        per_channel(params[f"{name}.{leaf}"]) for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias


def group_norm(params, name, x, num_groups=4):
    grouped = x.reshape(x.shape[0], num_groups, -1, *x.shape[2:])
    mean = grouped.mean((2, 3, 4), keepdims=True)
    var = jnp.square(grouped - mean).mean((2, 3, 4), keepdims=True)
    normed = ((grouped - mean) * jax.lax.rsqrt(var + 1e-5)).reshape(x.shape)
    return normed * per_channel(params[f"{name}.weight"]) + per_channel(params[f"{name}.bias"])


def resnet(norm, params, x):
    """Logits `[N, 10]` of images `[N, 3, 8, 8]`."""
    x = jax.nn.relu(norm(params, "bn1", conv(params, "conv1", x)))
    for block, stride in BLOCKS.items():
        out = jax.nn.relu(norm(params, f"{block}.bn1", conv(params, f"{block}.conv1", x, stride)))
        out = norm(params, f"{block}.bn2", conv(params, f"{block}.conv2", out))
        if f"{block}.shortcut.0.weight" in params:
            x = norm(params, f"{block}.shortcut.1", conv(params, f"{block}.shortcut.0", x, stride))
        x = jax.nn.relu(out + x)
    return x.mean((2, 3)) @ params["linear.weight"].T + params["linear.bias"]


bn_resnet = functools.partial(resnet, batch_norm)
gn_resnet = functools.partial(resnet, group_norm)


def networks(stored, prefixes=("model0", "model1")):
    """State dicts of an oracle file, flat dicts of leaves."""
    return [
        {
            key.removeprefix(f"{prefix}/"): jnp.asarray(np.asarray(value, np.result_type(value, np.int32)))
            for key, value in stored.items()
            if key.startswith(f"{prefix}/")
        }
        for prefix in prefixes
    ]


def group_of(spec: af.PermSpec, leaf: str, axis: int = 0) -> str:
    """The (innermost) group on an axis of a leaf."""
    return next(entry for entry in spec.leaves if entry.path == leaf).axes[axis].groups[-1]
