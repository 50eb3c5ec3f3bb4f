"""A multi-layer perceptron with ReLU."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Float


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
