"""Programs on which an earlier state of the inference, or a reviewer, went wrong; sizes by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import autofusion_jax as af

N = 6
X = jax.random.normal(jax.random.key(0), (5, 3))


def draw(**shapes):
    keys = jax.random.split(jax.random.key(1), len(shapes))
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items())}


W, U, V = (3, N), (N, 2), (3, N)


def tokens(p, x):
    return jnp.tanh(jnp.einsum("bd,dtn->btn", x, p["w"]) + p["c"][:, None])


def mixed_and_added(mix):
    return lambda p, x: jnp.einsum("btn,tno->bo", tokens(p, x) + mix(tokens(p, x)), p["u"])


def pooled(h):
    return lax.reduce_window(h, -jnp.inf, lax.max, (1, 3, 1), (1, 1, 1), "SAME")


def rolled(h):
    return jnp.roll(h, (h.sum() * 0).astype(int) + 1, axis=1)


TOKENS = {"w": (3, 4, 3), "c": (4,), "u": (4, 3, 2)}
MIXES = {
    "flip": lambda h: h[:, ::-1],
    "cumsum": lambda h: jnp.cumsum(h, 1),
    "sort": lambda h: jnp.sort(h, 1),
    "pool": pooled,
    "fft": lambda h: jnp.fft.fft(h, axis=1).real,
    "scatter": lambda h: h.at[:, jnp.array([2, 0])].add(1.5 * h[:, :2]),
    "segments": lambda h: jax.vmap(lambda r: jax.ops.segment_sum(r, jnp.array([0, 1, 0, 2]), 4))(h),
    "dynamic": rolled,
}


def by_units(fn):
    return lambda p, x: fn(p, jnp.tanh(x @ p["w"]), x) @ p["u"]


def look_up(v, h):
    chosen = v[:, jnp.argmax(h, -1)]
    return jnp.einsum("mb,mo->bo", chosen, jnp.ones((v.shape[0], 1)))


def padded(p, x):
    y = jnp.pad(jnp.tanh(x @ p["w"]), ((0, 0), (3, 3))) + jnp.tanh(x @ p["k"])
    return jnp.concatenate([y, jnp.sin(y)], 1) @ p["o"]


def loop_of_masks(p, x):
    a, b = jnp.tanh(x @ p["w"]), jnp.tanh(x @ p["v"])

    def step(_, carry):
        mask, total = carry
        return ~mask, total + jnp.where(mask, a, b) @ p["u"]

    return lax.fori_loop(0, 3, step, (jnp.arange(N) < 0, jnp.zeros((5, 2))))[1]


def masked_by_padding(p, x):
    mask = jnp.pad(jnp.arange(4), (0, 2), constant_values=-1) < 0
    return jnp.where(mask, jnp.tanh(x @ p["w"]), jnp.tanh(x @ p["v"])) @ p["u"]


def two_level(p, x):
    h = (x @ p["w"]).reshape(-1, 2, 3)
    return jax.nn.one_hot(jnp.argmax(h, -1), 3).reshape(-1, N) @ p["u"]


PROGRAMS = {
    **{f"mixed_{name}": (mixed_and_added(mix), TOKENS, (3,)) for name, mix in MIXES.items()},
    "cumsum_of_ones": (by_units(lambda p, h, x: h * jnp.cumsum(jnp.ones(N))), {"w": W, "u": U}, ()),
    "sort_by_position": (
        by_units(lambda p, h, x: lax.sort((jnp.broadcast_to(jnp.arange(N), h.shape), h), num_keys=1)[1]),
        {"w": W, "u": U},
        (),
    ),
    "ranks": (by_units(lambda p, h, x: jax.nn.one_hot(jnp.argsort(jnp.argsort(h)), N)[:, 0]),
              {"w": W, "u": U}, ()),
    "argmax_of_booleans": (
        by_units(lambda p, h, x: jax.nn.one_hot(jnp.argmax(h > 0, -1), N) * h), {"w": W, "u": U}, ()
    ),
    "argmax_gate": (
        by_units(lambda p, h, x: jax.nn.one_hot(jnp.argmax(h, -1), N) * h), {"w": W, "u": U}, (N,)
    ),
    "argmax_of_an_inner_factor": (two_level, {"w": W, "u": U}, (2, 3)),
    "positions_as_booleans": (
        by_units(lambda p, h, x: (h.argmax(-1).astype(bool)[:, None] == jnp.arange(N).astype(bool)) * h),
        {"w": W, "u": U},
        (),
    ),
    "sum_group_twice_on_an_axis": (padded, {"w": (3, 4), "k": (3, 10), "o": (20, 2)}, (4, 6)),
    "masks_round_a_loop": (loop_of_masks, {"w": W, "v": V, "u": U}, (N,)),
    "padded_positions": (masked_by_padding, {"w": W, "v": V, "u": U}, (2,)),  # 4 are fixed
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_hard_programs(name):
    apply_fn, shapes, sizes = PROGRAMS[name]
    params = draw(**shapes)
    spec = af.infer_perm_spec(apply_fn, params, X, check=False)
    before = apply_fn(params, X)
    for seed in range(4):
        permuted = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(seed)))
        np.testing.assert_allclose(apply_fn(permuted, X), before, atol=1e-4)
    assert sorted(group.size for group in spec.groups.values()) == sorted(sizes)
    assert "no rule" not in str(af.infer_perm_spec(apply_fn, params, X).notes)


def test_weights_that_are_looked_up_keep_their_roles():
    """The experts of a top-k router: what is read is `in`, what is made is `out`."""

    def apply_fn(p, x):
        chosen = jax.lax.top_k(x @ p["router"], 1)[1][:, 0]
        h = jnp.einsum("bd,bdn->bn", x, p["up"][chosen])
        return jnp.einsum("bn,bno->bo", h, p["down"][chosen])

    params = draw(router=(3, 4), up=(4, 3, 5), down=(4, 5, 2))
    spec = af.infer_perm_spec(apply_fn, params, X)
    roles = {leaf.path: [axis.role for axis in leaf.axes] for leaf in spec.leaves}
    assert roles["up"][2] == "out" and roles["down"][1] == "in"
    group = spec.leaves[-1].axes[1].groups[0]
    rng = np.random.default_rng(0)
    merge = {n: jnp.eye(g.size) for n, g in spec.groups.items()}
    matrix = rng.normal(size=(5, 5)) + 3 * np.eye(5)
    merged = af.apply_merge(
        spec, params, {**merge, group: jnp.asarray(matrix, jnp.float32)},
        {**merge, group: jnp.asarray(np.linalg.inv(matrix), jnp.float32)},
    )  # fmt: skip
    np.testing.assert_allclose(apply_fn(merged, X), apply_fn(params, X), atol=1e-3)


def test_zero_heads_and_biases_hide_nothing():
    def apply_fn(p, x):
        return (jnp.tanh(x @ p["w"]) * jnp.arange(1.0, N + 1)) @ p["u"]

    params = {**draw(w=W), "u": jnp.zeros(U)}
    table = {"w": (None, af.out_axis("w")), "u": (af.in_axis("w"), None)}
    wrong = af.PermSpec.from_table(table, params, apply_fn=apply_fn)
    with pytest.raises(ValueError, match="group 'w' must leave the outputs as they are"):
        af.check_perm_spec(wrong, params, X)


def test_complex_outputs_and_keys():
    def apply_fn(p, x):
        return jnp.exp(1j * (x @ p["w"])) @ p["u"], jax.random.key(0)

    params = draw(w=W, u=U)
    assert [g.size for g in af.infer_perm_spec(apply_fn, params, X).groups.values()] == [N]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((lambda p, x: x, {"act": "relu"}, X), r"params must be a pytree of arrays; got a str"),
        ((lambda p, x: x @ p, jax.ShapeDtypeStruct(W, "float32"), X), "Pass check=False"),
    ],
)
def test_first_mistakes(args, message):
    with pytest.raises(ValueError, match=message):
        af.infer_perm_spec(*args)
