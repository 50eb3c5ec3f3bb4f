"""T5 in the form of Flan-T5 (version 1.1): token sequences in, token sequences out."""

import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.types import Params
from autofusion_jax.validation import require

PAD, END = 0, 1
"""Tokens: padding, which is also the decoder's first input; and the end of a sequence."""

MASKED = float(np.finfo(np.float32).min)


def relative_buckets(
    queries: int, keys: int, *, num_buckets: int = 32, max_distance: int = 128, both_ways: bool = True
) -> Int[np.ndarray, "queries keys"]:
    """Sort the distances between positions into buckets: near ones exactly, far ones by their logarithm.

    Args:
        queries: number of query positions.
        keys: number of key positions.
        num_buckets: how many buckets there are.
        max_distance: distances from here on share the last bucket.
        both_ways: whether keys after the query have half of the buckets; else they share bucket 0.

    Example:
        >>> relative_buckets(1, 6, num_buckets=8, max_distance=16)
        array([[0, 5, 6, 6, 6, 6]])
    """
    distance = np.arange(queries)[:, None] - np.arange(keys)
    first = np.zeros_like(distance)
    if both_ways:
        num_buckets //= 2
        first = num_buckets * (distance < 0)
    distance = np.abs(distance) if both_ways else np.maximum(distance, 0)
    exact = num_buckets // 2
    octaves = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    far = octaves / np.float32(math.log(max_distance / exact)) * np.float32(num_buckets - exact)
    far = np.minimum(exact + far.astype(np.int64), num_buckets - 1)
    return first + np.where(distance < exact, distance, far)


class Attention(nn.Module):
    """Attention without biases and without the division of scores by the root of the head's size."""

    num_heads: int
    head_dim: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries dim"],
        context: Float[Array, "batch keys dim"],
        bias: Float[Array, "#batch #heads #queries keys"],
    ) -> Float[Array, "batch queries dim"]:
        """Attention of `x` over `context`; `bias` is added to the scores."""
        heads = functools.partial(nn.DenseGeneral, (self.num_heads, self.head_dim), use_bias=False)
        small = nn.initializers.variance_scaling(1 / self.head_dim, "fan_in", "normal")
        query = heads(kernel_init=small, name="query")(x)
        key, value = heads(name="key")(context), heads(name="value")(context)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) + bias)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), use_bias=False, name="out")(mixed)


class Block(nn.Module):
    """`attention`, in the decoder `cross_attention`, then the gated `mlp_0`, `mlp_gate`, `mlp_1`.

    Each part reads the residual stream after an RMSNorm (`norm_0`, `cross_norm`, `norm_1`).
    """

    num_heads: int
    head_dim: int
    mlp_dim: int
    epsilon: float

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens dim"],
        bias: Float[Array, "#batch heads tokens tokens"],
        memory: tuple[Float[Array, "batch keys dim"], Float[Array, "batch 1 1 keys"]] | None = None,
    ) -> Float[Array, "batch tokens dim"]:
        """The residual stream after the block; `memory` is the encoder's output and its bias."""
        norm = functools.partial(nn.RMSNorm, epsilon=self.epsilon)
        dense = functools.partial(nn.Dense, use_bias=False)
        y = norm(name="norm_0")(x)
        x = x + Attention(self.num_heads, self.head_dim, name="attention")(y, y, bias)
        if memory is not None:
            cross = Attention(self.num_heads, self.head_dim, name="cross_attention")
            x = x + cross(norm(name="cross_norm")(x), *memory)
        y = norm(name="norm_1")(x)
        y = jax.nn.gelu(dense(self.mlp_dim, name="mlp_gate")(y)) * dense(self.mlp_dim, name="mlp_0")(y)
        return x + dense(x.shape[-1], name="mlp_1")(y)


class Stack(nn.Module):
    """Blocks `block_0`, ..., a last `norm`, and `positions`: a bias for each bucket and head."""

    depth: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_buckets: int
    max_distance: int
    epsilon: float
    causal: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens dim"],
        mask: Array,
        memory: tuple[Float[Array, "batch keys dim"], Array] | None = None,
    ) -> Float[Array, "batch tokens dim"]:
        """The last norm's output; `memory` is the encoder's output and its mask (True: may be read)."""
        buckets = relative_buckets(
            x.shape[1], x.shape[1], num_buckets=self.num_buckets, max_distance=self.max_distance,
            both_ways=not self.causal,
        )  # fmt: skip
        bias = nn.Embed(self.num_buckets, self.num_heads, name="positions")(jnp.asarray(buckets))
        bias = jnp.where(mask, bias.transpose(2, 0, 1)[None], MASKED)
        memory = None if memory is None else (memory[0], jnp.where(memory[1], 0.0, MASKED))
        for i in range(self.depth):
            block = Block(self.num_heads, self.head_dim, self.mlp_dim, self.epsilon, name=f"block_{i}")
            x = block(x, bias, memory)
        return nn.RMSNorm(epsilon=self.epsilon, name="norm")(x)


class T5(nn.Module):
    """An `encoder` of the source and a `decoder` of the target over one `shared` embedding, and a `head`.

    One input is one row of tokens: the first `source_len` are the source, padded with `PAD`,
    the others are what the decoder reads: `PAD`, then the target without its last token. The
    outputs are the logits of the target's tokens. So it is an ordinary network to the library.

    Attributes:
        vocab: number of tokens.
        source_len: number of tokens of the source.
        dim: size of the residual stream.
        depth: blocks of the encoder.
        decoder_depth: blocks of the decoder.
        num_heads: heads of each attention.
        head_dim: size of each head.
        mlp_dim: hidden units of each block.
        num_buckets: buckets of the relative positions.
        max_distance: distances from here on share a bucket.
        epsilon: of the RMSNorms.
        tied: whether the head is the shared embedding.
        scale_outputs: whether the head reads the decoder's outputs divided by the root of `dim`.

    References:
        Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text
        Transformer, JMLR 2020; Chung et al., Scaling Instruction-Finetuned Language Models, 2022.
    """

    vocab: int
    source_len: int
    dim: int = 512
    depth: int = 8
    decoder_depth: int = 8
    num_heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1024
    num_buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    tied: bool = False
    scale_outputs: bool = False

    input_dtype: ClassVar = jnp.int32

    def setup(self) -> None:  # noqa: D102
        def stack(depth: int, causal: bool) -> Stack:
            return Stack(
                depth, self.num_heads, self.head_dim, self.mlp_dim, self.num_buckets, self.max_distance,
                self.epsilon, causal,
            )  # fmt: skip

        self.shared = nn.Embed(self.vocab, self.dim, embedding_init=nn.initializers.normal(1.0))
        self.encoder = stack(self.depth, causal=False)
        self.decoder = stack(self.decoder_depth, causal=True)
        if not self.tied:
            self.head = nn.Dense(self.vocab, use_bias=False)

    def encode(self, source: Int[Array, "batch source"]) -> Float[Array, "batch source dim"]:
        """The encoded source, which the decoder attends to."""
        return self.encoder(self.shared(source), _not_padding(source))

    def decode(
        self,
        inputs: Int[Array, "batch target"],
        encoded: Float[Array, "batch source dim"],
        source: Int[Array, "batch source"],
    ) -> Float[Array, "batch target dim"]:
        """The decoded target: the input of the head."""
        causal = jnp.tri(inputs.shape[1], dtype=bool)
        return self.decoder(self.shared(inputs), causal, (encoded, _not_padding(source)))

    def logits(self, decoded: Float[Array, "*positions dim"]) -> Float[Array, "*positions vocab"]:
        """The head's outputs."""
        decoded = decoded * self.dim**-0.5 if self.scale_outputs else decoded
        return self.shared.attend(decoded) if self.tied else self.head(decoded)

    def __call__(self, x: Int[Array, "batch tokens"]) -> Float[Array, "batch target vocab"]:
        """The logits of the target's tokens."""
        fits = x.shape[1] > self.source_len
        require(fits, "T5", "x", f"[N, {self.source_len} + target tokens]", f"shape {x.shape}")
        source, inputs = x[:, : self.source_len], x[:, self.source_len :]
        return self.logits(self.decode(inputs, self.encode(source), source))


def _not_padding(source: Array) -> Array:
    return (source != PAD)[:, None, None]


@functools.partial(jax.jit, static_argnames=("module", "max_len"))
def greedy_decode(
    module: T5, params: Params, source: Int[Array, "batch source"], *, max_len: int
) -> Int[Array, "batch max_len"]:
    """Decode greedily: append the likeliest token, until all sequences have ended.

    Every step runs the decoder on all positions: simple, and meant for short answers.

    Args:
        module: the network.
        params: its variables.
        source: the tokens to read, padded with `PAD`; any number of them.
        max_len: number of tokens after which it stops.

    Returns:
        The tokens after the decoder's first input; `PAD` after `END`.
    """
    encoded = module.apply(params, source, method="encode")

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        place, inputs, ended = state
        decoded = module.apply(params, inputs[:, :-1], encoded, source, method="decode")
        last = jax.lax.dynamic_index_in_dim(jnp.asarray(decoded), place, axis=1, keepdims=False)
        logits = jnp.asarray(module.apply(params, last, method="logits"))
        token = jnp.where(ended, PAD, jnp.argmax(logits, axis=-1).astype(inputs.dtype))
        inputs = jax.lax.dynamic_update_index_in_dim(inputs, token, place + 1, axis=1)
        return place + 1, inputs, ended | (token == END)

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        place, _, ended = state
        return (place < max_len) & ~jnp.all(ended)

    inputs = jnp.full((len(source), max_len + 1), PAD, source.dtype)
    ended = jnp.zeros(len(source), bool)
    return jax.lax.while_loop(unfinished, step, (jnp.zeros((), int), inputs, ended))[1][:, 1:]
