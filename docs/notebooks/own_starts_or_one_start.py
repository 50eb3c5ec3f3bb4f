# %% [markdown]
# # Own starts or one start
#
# The first question before any merge: were the networks fine-tuned from *one* network, or does each have a start of
# its own? It decides which methods can work at all. Here both cases stand side by side, on the same data and with the
# same six methods. Digits, about a minute.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from digits import accuracy, apply_fn, fit, init, test_x, test_y, train_x, train_y

import autofusion_jax as af

# %% [markdown]
# ## Two pairs of networks
#
# In both pairs one network learns the digits 0 to 4, the other 5 to 9
# ([digits.py](https://github.com/autofusion-jax/autofusion_jax/blob/main/docs/notebooks/digits.py) has network and
# training).
#
# - *Own starts*: each is trained from random weights of its own.
# - *One start*: a base sees 50 images of all digits and is about 80 % right. Two copies of it are fine-tuned for a
#   while, each on its half.

# %%
halves = [train_y < 5, train_y >= 5]
own_starts = [
    fit(apply_fn, init(jax.random.key(seed)), train_x[half], train_y[half])
    for seed, half in enumerate(halves)
]

base = fit(apply_fn, init(jax.random.key(0)), train_x[:50], train_y[:50], steps=50)
one_start = [
    fit(apply_fn, base, train_x[half], train_y[half], steps=50, learning_rate=1e-3)
    for half in halves
]
pairs = {"own starts": own_starts, "one start": one_start}

print(f"base {accuracy(apply_fn, base):.1f} %")
for name, (a, b) in pairs.items():
    print(
        f"{name}: A {accuracy(apply_fn, a):.1f} %, B {accuracy(apply_fn, b):.1f} %"
    )

# %% [markdown]
# ## Do units correspond?
#
# The cosine between a unit's incoming weights in A and in B: 1 means that unit *i* of both computes the same. From one
# start, they have hardly moved. From own starts, unit *i* of A has nothing to do with unit *i* of B.

# %%
fig, axis = plt.subplots(figsize=(7, 3))
cosines = {}
for name, (a, b) in pairs.items():
    left, right = (p["dense_0"]["kernel"] for p in (a, b))
    norms = jnp.linalg.norm(left, axis=0) * jnp.linalg.norm(right, axis=0)
    cosines[name] = (left * right).sum(0) / norms
    axis.hist(cosines[name], bins=jnp.linspace(-1, 1, 41), alpha=0.7, label=name)
axis.set(
    xlabel="cosine of unit i in A and unit i in B",
    ylabel="units of the first layer",
)
axis.legend(loc="upper left")
plt.show()

# %% [markdown]
# ## The same methods on both
#
# - `average`, `task_arithmetic` and `regmean` take unit *i* of one network for unit *i* of the other.
#   `task_arithmetic` also needs the base, which networks with own starts do not have.
# - `weight_matching` reorders B's units first, `autofusion` learns an order and shares, `prune_concat` puts the better
#   half of either's units side by side.

# %%
spec = af.infer_perm_spec(apply_fn, base, train_x[:8])
options = {
    "average": {},
    "task_arithmetic": {"base": base, "scale": 0.7},
    "regmean": {},
    "weight_matching": {},
    "autofusion": {"epochs": 32},
    "prune_concat": {},
}
scores = {name: {} for name in pairs}
for name, (a, b) in pairs.items():
    for method, given in options.items():
        if not (name == "own starts" and "base" in given):
            result = af.merge(a, b, spec, train_x, method=method, **given)
            scores[name][method] = accuracy(result.apply_fn, result.params)

print(f"{'':16}", *(f"{name:>12}" for name in pairs))
for method in options:
    cells = [scores[name].get(method) for name in pairs]
    shown = [f"{'-':>12}" if cell is None else f"{cell:12.1f}" for cell in cells]
    print(f"{method:16}", *shown)

# %%
fig, axis = plt.subplots(figsize=(8, 3.5))
places = jnp.arange(len(options))
for shift, (name, found) in zip((-0.2, 0.2), scores.items()):
    heights = [found.get(method, 0) for method in options]
    bars = axis.bar(places + shift, heights, width=0.4, label=name)
    axis.bar_label(
        bars, [f"{h:.0f}" if h else "no base" for h in heights], fontsize=8
    )
axis.axhline(accuracy(apply_fn, base), color="k", linestyle=":", label="the base")
axis.set_xticks(places, [method.replace("_", "\n") for method in options])
axis.set(ylabel="test accuracy (%)", ylim=(0, 125), yticks=range(0, 101, 20))
axis.legend(ncols=3, loc="upper center")
plt.show()

# %% [markdown]
# From one start the plain average is better than the base, at no cost: fine-tuning moved both networks a little, and
# the moves add up. Reordering finds nothing to reorder.
#
# From own starts the average is lost. `weight_matching` helps, but the two networks do different things, and no order
# of B's units makes them like A's. What works is to learn shares, or to fit layers anew.
#
# ## Along the line
#
# The same can be seen between the networks of each pair, without any reordering: from one start the way from A to B
# rises, from own starts it falls into a hole.


# %%
@jax.jit
def along_the_line(a, b, x):
    def logits(gamma):
        params = jax.tree.map(lambda p, q: gamma * p + (1 - gamma) * q, a, b)
        return apply_fn(params, x)

    return jax.vmap(logits)(jnp.linspace(0, 1, 21))


fig, axis = plt.subplots(figsize=(7, 3.5))
for (name, (a, b)), style in zip(pairs.items(), ("o--", "s-")):
    curve = 100 * (along_the_line(a, b, test_x).argmax(-1) == test_y).mean(-1)
    axis.plot(jnp.linspace(0, 1, 21), curve, style, label=name, markersize=4)
axis.set(xlabel="weight of A", ylabel="test accuracy (%)", ylim=(0, 100))
axis.grid(alpha=0.3)
axis.legend(loc="lower right")
plt.show()

# %%
own, one = scores["own starts"], scores["one start"]
assert one["average"] > accuracy(apply_fn, base) + 3
assert own["average"] < 50 < own["weight_matching"] < 80
assert min(own["autofusion"], own["prune_concat"]) > 90
assert cosines["one start"].mean() > 0.9 > 0.1 > abs(cosines["own starts"].mean())

# %% [markdown]
# Not sure which case yours is? Look at the cosines. [Choosing a method](../choosing-a-method.md) goes on from here.
