"""A small vision transformer."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from autofusion_jax.models.layers import build_head
from autofusion_jax.validation import require, unknown_name

POOLS = ("cls", "mean")


class Block(nn.Module):
    """`norm_0`, `attention`, `norm_1`, then `mlp_0`, GELU and `mlp_1`; a residual sum after each half."""

    num_heads: int
    mlp_dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch tokens dim"]:
        """The residual stream after the block."""
        y = nn.LayerNorm(name="norm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(self.num_heads, name="attention")(y)
        y = nn.LayerNorm(name="norm_1")(x)
        y = jax.nn.gelu(nn.Dense(self.mlp_dim, name="mlp_0")(y))
        return x + nn.Dense(x.shape[-1], name="mlp_1")(y)


class ViT(nn.Module):
    """Patches embedded by `embed`, positions, pre-norm blocks `block_0`, ..., `norm`, a `head`.

    Attributes:
        num_classes: outputs of the head.
        patch: height and width of a patch; divides those of the image.
        dim: size of the residual stream; `num_heads` divides it.
        depth: number of blocks.
        num_heads: heads of each attention.
        mlp_dim: hidden units of each block.
        pool: what the head reads: `"cls"` (a learned token) or `"mean"` (over patches).
        head: `"plain"` (dense) or `"cosine"`.
        embed_dim: size of the embedding of a cosine head.

    References:
        Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
    """

    num_classes: int
    patch: int = 4
    dim: int = 64
    depth: int = 4
    num_heads: int = 4
    mlp_dim: int = 128
    pool: str = "cls"
    head: str = "plain"
    embed_dim: int = 512

    def setup(self) -> None:  # noqa: D102
        if self.pool not in POOLS:
            raise unknown_name("build_model", "pool", self.pool, POOLS)
        self.embed = nn.Dense(self.dim)
        self.body = [Block(self.num_heads, self.mlp_dim, name=f"block_{i}") for i in range(self.depth)]
        self.norm = nn.LayerNorm()
        self.readout = build_head(self.head, self.num_classes, embed_dim=self.embed_dim)

    @nn.compact
    def features(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch dim"]:
        """What the head reads."""
        x = self.embed(_patches(x, self.patch))
        if self.pool == "cls":
            token = self.param("cls", nn.initializers.normal(0.02), (self.dim,))
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.dim)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), x.shape[1:])
        for block in self.body:
            x = block(x)
        x = self.norm(x)
        return x[:, 0] if self.pool == "cls" else x.mean(1)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """The logits."""
        return self.readout(self.features(x))


def _patches(x: Array, patch: int) -> Float[Array, "batch tokens numbers"]:
    batch, height, width, channels = x.shape
    fits = height % patch == 0 and width % patch == 0
    must_be = "a divisor of the image's height and width"
    require(fits, "build_model", "patch", must_be, f"{patch} for {height} x {width} pixels")
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)
