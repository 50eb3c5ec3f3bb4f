"""Vision transformers, and variants of attention, with the symmetry groups of each derived by hand."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.symmetry.zoo.case import Case, Move, join, of_function, of_module
from tests.symmetry.zoo.sequence import (
    ALL,
    HEAD_UNIT,
    attend,
    attention_moves,
    exchange,
    factors,
    on,
    split_heads,
)

IMAGE = (2, 8, 8, 3)
MULTI = functools.partial(nn.MultiHeadDotProductAttention, 2, qkv_features=6)


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
    """A pre-norm transformer block; `attention(name=...)` makes its first half."""

    attention: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, h):
        h = h + self.attention(name="attn")(nn.LayerNorm(name="ln_1")(h))
        up = nn.gelu(nn.Dense(16, name="up")(nn.LayerNorm(name="ln_2")(h)))
        return h + nn.Dense(h.shape[-1], name="down")(up)


class ViT(nn.Module):
    """Patches of 4 x 4 pixels, class token, learned positions, blocks, norm and head."""

    attention: Callable[..., nn.Module]
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
            h = Block(functools.partial(WindowAttention, 3, i), name=f"block_{i}")(h)
        h = jnp.concatenate([h[:, i::2, j::2] for j in range(2) for i in range(2)], axis=-1)
        h = nn.Dense(10, use_bias=False, name="merge")(nn.LayerNorm(name="merge_ln")(h))
        h = Block(functools.partial(WindowAttention, 5), name="block_2")(h)
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


def grouped_query(p, x):
    q, k, v = (x @ p["embed"] @ p[name] for name in "qkv")
    weights = jnp.einsum("btkgd,bskd->bkgts", q.reshape(2, 5, 2, 3, 4), split_heads(k, 2))
    mixed = jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(weights, axis=-1), split_heads(v, 2))
    return mixed.reshape(2, 5, -1) @ p["o"]


def multi_head_moves(
    at: str, query: int = 8, key: int = 8, out: int = 8, lead: tuple[int, ...] = ()
) -> tuple[Move, ...]:
    """`attention_moves` of linen's and nnx's kernels [width, 2 heads, 3 units], behind fixed `lead` axes."""
    free = (ALL,) * len(lead)
    qk = factors("query/kernel@", (*lead, query, 2, 3), (*free, ALL, *HEAD_UNIT))
    qk += factors("key/kernel@", (*lead, key, 2, 3), (*free, ALL, *HEAD_UNIT))
    v = factors("value/kernel@", (*lead, key, 2, 3), (*free, ALL, *HEAD_UNIT))
    v += factors("out/kernel@", (*lead, 2, 3, out), (*free, *HEAD_UNIT, ALL))
    qk += factors("query/bias@ key/bias@", (*lead, 2, 3), (*free, *HEAD_UNIT))
    return attention_moves(qk, v + factors("value/bias@", (*lead, 2, 3), (*free, *HEAD_UNIT)), at=at)


def stream(size: int, blocks: int, attention: str, rest: str) -> Move:
    """Exchange two units of the residual stream in the first blocks and outside them."""
    inside = (on(size, BLOCK + attention, f"params/block_{i}/") for i in range(blocks))
    return join(on(size, rest, "params/"), *inside)


BLOCK = "ln_1/scale@0 ln_1/bias@0 ln_2/scale@0 ln_2/bias@0 up/kernel@0 down/kernel@1 down/bias@0 "
HIDDEN = on(16, "up/kernel@1 up/bias@0 down/kernel@0", "params/block_0/")
VIT = "patch/kernel@3 patch/bias@0 token_embed@2 pos_embed@2 ln/scale@0 ln/bias@0 head/kernel@0"
MULTI_HEAD = "attn/query/kernel@0 attn/key/kernel@0 attn/value/kernel@0 attn/out/kernel@2 attn/out/bias@0"
POOLED = "attn/out/kernel@2 attn/out/bias@0 ln/scale@0 ln/bias@0 up/kernel@0 down/kernel@1 down/bias@0"
FUSED = "attn/qkv/kernel@0 attn/out/kernel@1 attn/out/bias@0"
OUT, QKV = factors("out/kernel@0"), "qkv/kernel@1 qkv/bias@0"
THREE = ("3 x heads x units", factors(QKV, (3, 2, 4), ("part", *HEAD_UNIT)))
LAYOUTS = {
    "split": THREE,
    "index": THREE,
    "timm": THREE,
    "per_head": ("heads x 3 x units", factors(QKV, (2, 3, 4), ("head", "part", "unit"))),
    "general": (
        "3, heads and units on three axes",
        factors("qkv/kernel@", (10, 3, 2, 4), (ALL, "part", *HEAD_UNIT))
        + factors("qkv/bias@", (3, 2, 4), ("part", *HEAD_UNIT)),
    ),
}
WINDOWED = factors(QKV, (3, 2, 3), ("part", *HEAD_UNIT)) + factors("bias_table@1", (2,), ("head",))
MERGED = factors("merge_ln/scale@0 merge_ln/bias@0 merge/kernel@0", (4, 6), (ALL, "unit"))
LINEAR = {"embed": (3, 6), "q": (6, 2, 4), "k": (6, 2, 4), "v": (6, 2, 5), "o": (2, 5, 3)}
LINEAR_V = factors("v@", (6, 2, 5), (ALL, *HEAD_UNIT)) + factors("o@", (2, 5, 3), (*HEAD_UNIT, ALL))
TALKING = {"embed": (3, 6), "q": (6, 2, 5), "k": (6, 2, 5), "v": (6, 4, 7), "o": (4, 7, 3)}
TALKING_QK = factors("q@ k@", (6, 2, 5), (ALL, *HEAD_UNIT))
TALKING_V = factors("v@", (6, 4, 7), (ALL, *HEAD_UNIT)) + factors("o@", (4, 7, 3), (*HEAD_UNIT, ALL))
GROUPED = {"embed": (3, 8), "q": (8, 24), "k": (8, 8), "v": (8, 10), "o": (30, 3)}
GROUPED_Q = factors("q@1", (2, 3, 4), ("head", "query", "unit"))
GROUPED_O = factors("o@0", (2, 3, 5), ("head", "query", "unit"))

CASES: dict[str, Case] = {
    f"vit_fused_{layout}": Case(
        of_module(ViT(functools.partial(Fused, layout)), IMAGE),
        (2, 4, 4, 10, 16),
        f"The projection's columns are {form}; 3 is fixed. Heads are one group for queries, keys, values and "
        "output; query-key units and value units are nested in them. One stream; hidden units.",
        (4, 4),
        (*attention_moves([], OUT, places, "params/block_0/attn/"), stream(10, 1, FUSED, VIT), HIDDEN),
    )
    for layout, (form, places) in LAYOUTS.items()
} | {
    "vit": Case(
        of_module(ViT(MULTI, layers=2), IMAGE),
        (2, 2, 3, 3, 3, 3, 10, 16, 16),
        "One stream: patches, class token, positions, blocks, norm, head. Each block has heads, query-key "
        "units and value units nested in them, and hidden units.",
        (3, 3, 3, 3),
        (*multi_head_moves("params/block_1/attn/", 10, 10, 10), stream(10, 2, MULTI_HEAD, VIT), HIDDEN),
    ),
    "vit_map_pool": Case(
        of_module(MapPool(), IMAGE),
        (2, 3, 3, 7, 9, 10, 16),
        "Three widths that no residual ties: the patches', read by keys and values; the learned query's, "
        "read by its projection only; the pooled stream's. Heads, units nested in them, hidden units.",
        (3, 3),
        (
            *multi_head_moves("params/attn/", 7, 10, 9),
            on(10, "patch/kernel@3 patch/bias@0 attn/key/kernel@0 attn/value/kernel@0", "params/"),
            on(7, "probe_embed@2 attn/query/kernel@0", "params/"),
            on(9, POOLED + " head/kernel@0", "params/"),
            on(16, "up/kernel@1 up/bias@0 down/kernel@0", "params/"),
        ),
    ),
    "swin": Case(
        of_module(Swin(), IMAGE),
        (2, 2, 2, 3, 3, 3, 3, 5, 5, 6, 10, 16, 16, 16),
        "Two streams: merging puts four neighbours side by side, so its norm and kernel carry the first in "
        "four blocks, and it writes the second. Each block's table of position biases carries its heads.",
        (3, 3, 3, 3, 5, 5),
        (
            *attention_moves([], factors("out/kernel@0", (2, 3)), WINDOWED, "params/block_1/attn/"),
            stream(6, 2, FUSED, "patch/kernel@3 patch/bias@0")
            | exchange(MERGED, {"unit": 0}, {"unit": 5}, "params/"),
            HIDDEN,
        ),
    ),
    "linear_attention": Case(
        of_function(linear_attention, LINEAR, (2, 5, 3)),
        (2, 4, 5, 6),
        "As in softmax attention: the feature map acts on single units, and the state [heads, units, values] "
        "ties no two of these axes. Query-key and value units are nested in the heads.",
        (4, 5),
        (
            *attention_moves(factors("q@ k@", (6, 2, 4), (ALL, *HEAD_UNIT)), LINEAR_V),
            on(6, "embed@1 q@0 k@0 v@0"),
        ),
    ),
    "talking_heads": Case(
        of_function(talking_heads, TALKING | {"before": (2, 3), "after": (3, 4)}, (2, 5, 3)),
        (2, 3, 4, 5, 6, 7),
        "Three groups of heads, which only `before` and `after` mix: those that hold the query-key units, "
        "those of the softmax, those that hold the value units. And the stream.",
        (5, 7),
        (
            *(on(2, "q@1 k@1 before@0"), on(3, "before@1 after@0"), on(4, "after@1 v@1 o@0")),
            exchange(TALKING_QK, {"head": 0, "unit": 1}, {"head": 0, "unit": 3}),
            exchange(TALKING_V, {"head": 2, "unit": 1}, {"head": 2, "unit": 3}),
            on(6, "embed@1 q@0 k@0 v@0"),
        ),
    ),
    "cross_heads": Case(
        of_function(cross_heads, {"q": (3, 3, 4), "k": (3, 3, 4), "o": (3, 3, 2)}, (4, 3)),
        (3, 3, 4),
        "Every query head meets every key head: two groups of heads, and one group of units for them all.",
        moves=(on(3, "q@1 o@0"), on(3, "k@1 o@1"), on(4, "q@2 k@2")),
    ),
    "grouped_query": Case(
        of_function(grouped_query, GROUPED, (2, 5, 3)),
        (2, 3, 4, 5, 8),
        "Nested in the key-value heads: their three query heads, and the query-key and value units, which "
        "they share. Query-key and value units differ in number.",
        (3, 4, 5),
        (
            *attention_moves(GROUPED_Q + factors("k@1"), GROUPED_O + factors("v@1", (2, 5))),
            exchange([*GROUPED_Q, *GROUPED_O], {"head": 1, "query": 0}, {"head": 1, "query": 2}),
            on(8, "embed@1 q@0 k@0 v@0"),
        ),
    ),
}
