"""A multi-layer perceptron with ReLU."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from autofusion_jax.models.layers import build_head


class MLP(nn.Module):
    """Dense layers `dense_0`, `dense_1`, ... with ReLU, then a `head`.

    MuDSC's MLP for two labelings of MNIST (prime or not, odd or not), 784-1024x3-512, bias-free,
    is `widths` (1024, 1024, 1024), `use_bias` False, `head` "cosine" with `embed_dim` 512.

    Attributes:
        num_classes: outputs of the head.
        widths: units of the hidden layers.
        use_bias: whether the layers have biases, the head included.
        head: `"plain"` (dense) or `"cosine"`.
        embed_dim: size of the embedding of a cosine head.
    """

    num_classes: int
    widths: Sequence[int]
    use_bias: bool = True
    head: str = "plain"
    embed_dim: int = 512

    def setup(self) -> None:  # noqa: D102
        self.body = [
            nn.Dense(w, self.use_bias, name=f"dense_{i}", kernel_init=nn.initializers.he_normal())
            for i, w in enumerate(self.widths)
        ]
        self.readout = build_head(
            self.head, self.num_classes, embed_dim=self.embed_dim, use_bias=self.use_bias
        )

    def features(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch features"]:
        """The features: the input of the head."""
        x = x.reshape(x.shape[0], -1)
        for layer in self.body:
            x = jax.nn.relu(layer(x))
        return x

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        """The logits."""
        return self.readout(self.features(x))
