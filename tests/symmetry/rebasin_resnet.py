"""The ResNet20 of git-re-basin as a bare function, to hold inferred specs against its recorded one."""

import jax
import jax.numpy as jnp


def resnet20(params, x):
    """3 x 3 convolutions without biases, LayerNorm, 3 x 3 shortcuts; returns log-probabilities."""
    x = jax.nn.relu(norm(params, "norm1", conv(params, "conv1", x)))
    for group in range(3):
        for block in range(3):
            name = f"blockgroups_{group}/blocks_{block}"
            stride = 2 if group > 0 and block == 0 else 1
            y = jax.nn.relu(norm(params, f"{name}/norm1", conv(params, f"{name}/conv1", x, stride)))
            y = norm(params, f"{name}/norm2", conv(params, f"{name}/conv2", y))
            if f"{name}/shortcut/layers_0/kernel" in params:
                x = conv(params, f"{name}/shortcut/layers_0", x, stride)
                x = norm(params, f"{name}/shortcut/layers_1", x)
            x = jax.nn.relu(x + y)
    x = x.mean((1, 2))
    return jax.nn.log_softmax(x @ params["dense/kernel"] + params["dense/bias"])


def conv(params, name, x, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    kernel = params[f"{name}/kernel"]
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=numbers)


def norm(params, name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * params[f"{name}/scale"] + params[f"{name}/bias"]
