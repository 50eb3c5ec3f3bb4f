"""A multi-layer perceptron with ReLU, and its permutation spec."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from autofusion_jax.symmetry.axes import in_axis, out_axis
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params


class MLP(nn.Module):
    """Dense layers `dense_0`, `dense_1`, ... with ReLU, then a dense `head`.

    Attributes:
        widths: units of the hidden layers.
        num_classes: outputs of the head.
    """

    widths: Sequence[int]
    num_classes: int

    def setup(self) -> None:  # noqa: D102
        self.body = [
            nn.Dense(w, name=f"dense_{i}", kernel_init=nn.initializers.he_normal())
            for i, w in enumerate(self.widths)
        ]
        self.head = nn.Dense(self.num_classes)

    def features(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch features"]:
        """What the head reads."""
        x = x.reshape(x.shape[0], -1)
        for layer in self.body:
            x = jax.nn.relu(layer(x))
        return x

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        """The logits."""
        return self.head(self.features(x))


def mlp_perm_spec(module: MLP, params: Params) -> PermSpec:
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
