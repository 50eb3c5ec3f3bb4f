"""Vision transformers, and variants of attention, with the symmetry groups of each derived by hand."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.symmetry.zoo.case import Case, join, of_function, of_module
from tests.symmetry.zoo.sequence import ALL, attend, attention_moves, exchange, factors, on, split_heads

IMAGE = (2, 8, 8, 3)


class Fused(nn.Module):
    """Self attention of 2 heads x 4 units with one projection to queries, keys and values."""

    layout: str

    @nn.compact
    def __call__(self, h):
        if self.layout == "general":
            qkv = nn.DenseGeneral((3, 2, 4), name="qkv")(h)
        else:
            qkv = nn.Dense(24, name="qkv")(h)
        if self.layout == "split":
            q, k, v = (split_heads(part, 2) for part in jnp.split(qkv, 3, axis=-1))
        elif self.layout == "timm":
            q, k, v = (a.swapaxes(1, 2) for a in qkv.reshape(*h.shape[:2], 3, 2, 4).transpose(2, 0, 3, 1, 4))
        elif self.layout == "per_head":
            q, k, v = jnp.split(qkv.reshape(*h.shape[:2], 2, 12), 3, axis=-1)
        else:
            qkv = qkv.reshape(*h.shape[:2], 3, 2, 4)
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        return nn.Dense(h.shape[-1], name="out")(attend(q, k, v))


class Block(nn.Module):
    """A pre-norm transformer block; `attention(name)` makes its first half."""

    attention: Callable[[str], nn.Module]

    @nn.compact
    def __call__(self, h):
        h = h + self.attention("attn")(nn.LayerNorm(name="ln_1")(h))
        up = nn.gelu(nn.Dense(16, name="up")(nn.LayerNorm(name="ln_2")(h)))
        return h + nn.Dense(h.shape[-1], name="down")(up)


class ViT(nn.Module):
    """Patches of 4 x 4 pixels, class token, learned positions, blocks, norm and head."""

    attention: Callable[[str], nn.Module]
    layers: int = 1

    @nn.compact
    def __call__(self, x):
        h = nn.Conv(10, (4, 4), (4, 4), name="patch")(x).reshape(2, 4, 10)
        token = self.param("token_embed", nn.initializers.normal(), (1, 1, 10))
        h = jnp.concatenate([jnp.broadcast_to(token, (2, 1, 10)), h], axis=1)
        h = h + self.param("pos_embed", nn.initializers.normal(), (1, 5, 10))
        for i in range(self.layers):
            h = Block(self.attention, name=f"block_{i}")(h)
        return nn.Dense(3, name="head")(nn.LayerNorm(name="ln")(h)[:, 0])


class MapPool(nn.Module):
    """Attention pooling: a learned query attends over the patches; then a residual MLP."""

    @nn.compact
    def __call__(self, x):
        h = nn.Conv(10, (4, 4), (4, 4), name="patch")(x).reshape(2, 4, 10)
        probe = jnp.tile(self.param("probe_embed", nn.initializers.normal(), (1, 1, 7)), (2, 1, 1))
        h = nn.MultiHeadDotProductAttention(2, qkv_features=6, out_features=9, name="attn")(probe, h)
        up = nn.gelu(nn.Dense(16, name="up")(nn.LayerNorm(name="ln")(h)))
        return nn.Dense(3, name="head")((h + nn.Dense(9, name="down")(up))[:, 0])


def cut(h):
    """Cut images [batch, side, side, width] into windows of 2 x 2 tokens."""
    half = h.shape[1] // 2
    return h.reshape(-1, half, 2, half, 2, h.shape[-1]).swapaxes(2, 3).reshape(-1, 4, h.shape[-1])


REGION = np.add.outer(3 * np.array([0, 0, 1, 2]), np.array([0, 0, 1, 2]))  # of the rolled 4 x 4 tokens
MASK = np.where(cut(REGION[None, ..., None]) == cut(REGION[None, ..., None]).swapaxes(1, 2), 0.0, -100.0)
COORDS = np.stack(np.divmod(np.arange(4), 2), axis=-1)
RELATIVE = (COORDS[:, None] - COORDS + 1) @ np.array([3, 1])


class WindowAttention(nn.Module):
    """Swin's attention inside windows, rolled by `shift`, with a table of relative position biases."""

    units: int
    shift: int = 0

    @nn.compact
    def __call__(self, h):
        half, width = h.shape[1] // 2, h.shape[-1]
        n = cut(jnp.roll(h, (-self.shift, -self.shift), (1, 2)))
        qkv = nn.Dense(6 * self.units, name="qkv")(n).reshape(-1, 4, 3, 2, self.units)
        q, k, v = (part.swapaxes(1, 2) for part in qkv.transpose(2, 0, 3, 1, 4))
        bias = self.param("bias_table", nn.initializers.normal(), (9, 2))[RELATIVE].transpose(2, 0, 1)
        if self.shift:
            bias = bias + jnp.tile(MASK[:, None], (h.shape[0], 1, 1, 1))
        n = nn.Dense(width, name="out")(attend(q, k, v, bias)).reshape(-1, half, half, 2, 2, width)
        return jnp.roll(n.swapaxes(2, 3).reshape(h.shape), (self.shift, self.shift), (1, 2))


class Swin(nn.Module):
    """Two blocks of width 6 (the second shifted), patch merging, one block of width 10."""

    @nn.compact
    def __call__(self, x):
        h = nn.Conv(6, (2, 2), (2, 2), name="patch")(x)
        for i in range(2):
            h = Block(
                functools.partial(lambda shift, name: WindowAttention(3, shift, name=name), i),
                name=f"block_{i}",
            )(h)
        h = jnp.concatenate([h[:, i::2, j::2] for j in range(2) for i in range(2)], axis=-1)
        h = nn.Dense(10, use_bias=False, name="merge")(nn.LayerNorm(name="merge_ln")(h))
        h = Block(lambda name: WindowAttention(5, name=name), name="block_2")(h)
        return nn.Dense(3, name="head")(nn.LayerNorm(name="ln")(h).mean((1, 2)))


def linear_attention(p, x):
    q, k, v = (jnp.einsum("bti,id,dhe->bthe", x, p["embed"], p[name]) for name in "qkv")
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    state, total = jnp.einsum("bshd,bshe->bhde", k, v), jnp.einsum("bthd,bshd->bth", q, k)
    return jnp.einsum("bthd,bhde,heo->bto", q / total[..., None], state, p["o"])


def talking_heads(p, x):
    q, k, v = (jnp.einsum("bti,id,dhe->bthe", x, p["embed"], p[name]) for name in "qkv")
    scores = jnp.einsum("bthe,bshe,hg->bgts", q, k, p["before"])
    weights = jnp.einsum("bgts,gf->bfts", jax.nn.softmax(scores, axis=-1), p["after"])
    return jnp.einsum("bfts,bsfe,feo->bto", weights, v, p["o"])


def cross_heads(p, x):
    q, k = jnp.einsum("bi,ihk->bhk", x, p["q"]), jnp.einsum("bi,igk->bgk", x, p["k"])
    return jnp.einsum("bhg,hgo->bo", jnp.tanh(jnp.einsum("bhk,bgk->bhg", q, k)), p["o"])


def separate_dims(p, x):
    q, k, v = (split_heads(x @ p["embed"] @ p[name], 2) for name in "qkv")
    return attend(q, k, v) @ p["o"]


def grouped_query(p, x):
    q, k, v = (x @ p["embed"] @ p[name] for name in "qkv")
    weights = jnp.einsum("btkgd,bskd->bkgts", q.reshape(2, 5, 2, 3, 4), split_heads(k, 2))
    mixed = jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(weights, axis=-1), split_heads(v, 2))
    return mixed.reshape(2, 5, -1) @ p["o"]
