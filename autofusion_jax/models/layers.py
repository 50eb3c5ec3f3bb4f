"""Layers that several models share: convolutions, norms by name, and the two heads."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from autofusion_jax.models.conv import conv_same
from autofusion_jax.validation import unknown_name


class Conv(nn.Module):
    """A convolution, zero padded; stride 1 keeps height and width.

    Attributes:
        width: channels of the output.
        size: height and width of the kernel, odd.
        stride: of rows and columns.
        use_bias: whether it has a bias.
    """

    width: int
    size: int = 3
    stride: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 width"]:
        """The feature map."""
        shape = (self.size, self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        x = conv_same(x, kernel, stride=self.stride)
        return x + self.param("bias", nn.initializers.zeros, (self.width,)) if self.use_bias else x


NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": lambda groups, name: nn.BatchNorm(momentum=0.9, name=name),
    "group": lambda groups, name: nn.GroupNorm(num_groups=groups, name=name),
    "layer": lambda groups, name: nn.LayerNorm(name=name),
}
"""Norms over channels by name; `groups` is for GroupNorm alone, LayerNorm is over each pixel's channels."""


def build_norm(kind: str, name: str, *, groups: int = 4) -> nn.Module:
    """Build a norm layer by name.

    Raises:
        ValueError: unknown name; lists the known ones.
    """
    if kind not in NORMS:
        raise unknown_name("build_model", "norm", kind, NORMS)
    return NORMS[kind](groups, name)


def apply_norm(norm: nn.Module, x: Array, train: bool) -> Array:
    """Normalise; BatchNorm uses the batch's own statistics in training, and updates the running ones."""
    if isinstance(norm, nn.BatchNorm):
        return norm(x, use_running_average=not train)
    return norm(x)  # pyright: ignore[reportCallIssue]


LOGIT_SCALE = 100.0
"""Factor from cosines to logits, CLIP's."""


def class_vectors(num_classes: int, embed_dim: int) -> Float[np.ndarray, "embed_dim classes"]:
    """Draw one fixed random unit vector for each class: always the same ones.

    They stand in for the text embeddings of a CLIP model. The first k of n vectors are those of
    k classes, so tasks that share a joint class space agree on them.

    Example:
        >>> bool((class_vectors(4, 8)[:, :2] == class_vectors(2, 8)).all())
        True
    """
    drawn = np.random.default_rng(0).standard_normal((num_classes, embed_dim))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).T.astype(np.float32)


def unit(x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """Vectors scaled to length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


class CosineHead(nn.Module):
    """A dense `projection`, normalised; the logits are scaled cosines with `class_vectors`.

    Attributes:
        num_classes: outputs.
        embed_dim: size of the embedding that is compared.
        use_bias: whether the projection has a bias.

    References:
        Stoica et al., ZipIt! Merging Models from Different Tasks without Training, ICLR 2024: nets
        trained with a CLIP-style loss against fixed class embeddings.
    """

    num_classes: int
    embed_dim: int = 512
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        """The logits."""
        x = nn.Dense(self.embed_dim, use_bias=self.use_bias, name="projection")(x)
        return LOGIT_SCALE * unit(x) @ class_vectors(self.num_classes, self.embed_dim)


HEADS = ("plain", "cosine")


def build_head(kind: str, num_classes: int, *, embed_dim: int = 512, use_bias: bool = True) -> nn.Module:
    """Build the layer named `head` by the name of its kind.

    Raises:
        ValueError: unknown name; lists the known ones.
    """
    if kind not in HEADS:
        raise unknown_name("build_model", "head", kind, HEADS)
    if kind == "plain":
        return nn.Dense(num_classes, use_bias=use_bias, name="head")
    return CosineHead(num_classes, embed_dim, use_bias, name="head")
