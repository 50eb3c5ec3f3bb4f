"""The pre-norm transformer that ViT, CLIP and GPT-2 share: a block, and towers for images and tokens."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.validation import require, unknown_name

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""Activations by name: GELU itself, and its approximations by tanh (GPT-2) and by a sigmoid (CLIP)."""

POOLS = ("cls", "mean")
POSITIONS = nn.initializers.normal(0.02)


class Block(nn.Module):
    """`norm_0`, `attention`, `norm_1`, then `mlp_0`, activation and `mlp_1`; a residual sum after each half.

    Attributes:
        num_heads: heads of the attention; divides the size of the residual stream.
        mlp_dim: hidden units.
        activation: a key of `ACTIVATIONS`.
        epsilon: added to the variance in the norms.
        causal: whether a token sees only itself and those before it.
    """

    num_heads: int
    mlp_dim: int
    activation: str = "gelu_tanh"
    epsilon: float = 1e-6
    causal: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch tokens dim"]:
        """The residual stream after the block."""
        if self.activation not in ACTIVATIONS:
            raise unknown_name("build_model", "activation", self.activation, ACTIVATIONS)
        mask = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool)) if self.causal else None
        y = nn.LayerNorm(self.epsilon, name="norm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(self.num_heads, name="attention")(y, mask=mask)
        y = nn.LayerNorm(self.epsilon, name="norm_1")(x)
        y = ACTIVATIONS[self.activation](nn.Dense(self.mlp_dim, name="mlp_0")(y))
        return x + nn.Dense(x.shape[-1], name="mlp_1")(y)


class Tower(nn.Module):
    """The base of both towers: blocks `block_0`, ... and a `norm` after them.

    Attributes:
        dim: size of the residual stream; `num_heads` divides it.
        depth: number of blocks.
        num_heads: heads of each attention.
        mlp_dim: hidden units of each block.
        activation: a key of `ACTIVATIONS`.
        epsilon: added to the variance in the norms.
    """

    dim: int = 64
    depth: int = 4
    num_heads: int = 4
    mlp_dim: int = 128
    activation: str = "gelu_tanh"
    epsilon: float = 1e-6

    def add_blocks(self, *, causal: bool) -> None:
        """Make the layers; for `setup`."""
        options = (self.num_heads, self.mlp_dim, self.activation, self.epsilon, causal)
        self.body = [Block(*options, name=f"block_{i}") for i in range(self.depth)]
        self.norm = nn.LayerNorm(self.epsilon)

    def run_blocks(self, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch tokens dim"]:
        """The residual stream after all blocks."""
        for block in self.body:
            x = block(x)
        return x


class ImageTower(Tower):
    """Patches embedded by `embed`, `positions`, pre-norm blocks, `norm`: an image's features.

    Attributes:
        patch: height and width of a patch; divides those of the image.
        pool: what is read: `"cls"` (a learned token) or `"mean"` (over patches).
        norm_first: whether a `norm_first` stands before the blocks; then `embed` has no bias (CLIP).
    """

    patch: int = 4
    pool: str = "cls"
    norm_first: bool = False

    def setup(self) -> None:  # noqa: D102
        if self.pool not in POOLS:
            raise unknown_name("build_model", "pool", self.pool, POOLS)
        self.embed = nn.Dense(self.dim, use_bias=not self.norm_first)
        self.first = nn.LayerNorm(self.epsilon, name="norm_first") if self.norm_first else None
        self.add_blocks(causal=False)

    @nn.compact
    def features(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch dim"]:
        """The features of images."""
        x = self.embed(_patches(x, self.patch))
        if self.pool == "cls":
            token = self.param("cls", POSITIONS, (self.dim,))
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.dim)), x], axis=1)
        x = x + self.param("positions", POSITIONS, x.shape[1:])
        x = self.run_blocks(x if self.first is None else self.first(x))
        return self.norm(x)[:, 0] if self.pool == "cls" else self.norm(x).mean(1)


class TokenTower(Tower):
    """Tokens embedded by `embed`, `positions`, causal pre-norm blocks, `norm`: features of every token.

    Attributes:
        vocab: number of tokens.
        length: the largest number of tokens of an input.
    """

    vocab: int = 128
    length: int = 32

    def setup(self) -> None:  # noqa: D102
        self.embed = nn.Embed(self.vocab, self.dim, embedding_init=POSITIONS)
        self.add_blocks(causal=True)

    @nn.compact
    def token_features(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens dim"]:
        """The features of every token, from it and the tokens before it."""
        num = tokens.shape[1]
        must_be = "that of the longest input"
        require(num <= self.length, "build_model", "length", must_be, f"{self.length} for {num} tokens")
        positions = self.param("positions", POSITIONS, (self.length, self.dim))
        return self.norm(self.run_blocks(self.embed(tokens) + positions[:num]))


def at_token(x: Float[Array, "batch tokens dim"], index: Int[Array, " batch"]) -> Float[Array, "batch dim"]:
    """The features of one token of each input."""
    return jnp.take_along_axis(x, index[:, None, None], axis=1)[:, 0]


def _patches(x: Array, patch: int) -> Float[Array, "batch tokens numbers"]:
    batch, height, width, channels = x.shape
    fits = height % patch == 0 and width % patch == 0
    must_be = "a divisor of the image's height and width"
    require(fits, "build_model", "patch", must_be, f"{patch} for {height} x {width} pixels")
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)
