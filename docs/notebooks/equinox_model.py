# %% [markdown]
# # Your own Equinox model
#
# An Equinox module is a pytree of arrays *and* of other things: activation functions, sizes, flags. `eqx.partition`
# puts the arrays on one side, `eqx.combine` brings both together again. Digits, about half a minute.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from digits import accuracy, fit, test_x, test_y, train_x, train_y

import autofusion_jax as af

# %% [markdown]
# ## Partition
#
# [digits.py](https://github.com/autofusion-jax/autofusion_jax/blob/main/docs/notebooks/digits.py) loads scikit-learn's
# digits and trains a function of parameters and images. An Equinox module takes one image, so `vmap` stands in
# `apply_fn`. `eqx.is_inexact_array` keeps floats only: integers and flags are not averaged.


# %%
def init(seed):
    return eqx.nn.MLP(64, 10, width_size=64, depth=2, key=jax.random.key(seed))


static = eqx.partition(init(0), eqx.is_inexact_array)[1]


def apply_fn(params, x):
    return jax.vmap(eqx.combine(params, static))(x)


def train(seed, own):
    params = eqx.filter(init(seed), eqx.is_inexact_array)
    return fit(apply_fn, params, train_x[own], train_y[own])


params_a, params_b = train(0, train_y < 5), train(1, train_y >= 5)

# %% [markdown]
# `static` is the same for both networks, since they have one architecture. What is merged has to be arrays alone: the
# module itself is refused, and the message says what to do.

# %%
try:
    af.infer_perm_spec(lambda module, x: jax.vmap(module)(x), init(0), train_x[:8])
except ValueError as error:
    print(error)

# %% [markdown]
# ## Spec and merge
#
# Equinox stores weights as `[outputs, inputs]`, flax as `[inputs, outputs]`. Nothing has to be said about that: the
# spec is read off the program.

# %%
spec = af.infer_perm_spec(apply_fn, params_a, train_x[:8])
print(spec)

# %%
result = af.merge(params_a, params_b, spec, train_x, method="prune_concat")
average = af.merge(params_a, params_b, spec, method="average")
networks = {
    "network A": params_a,
    "network B": params_b,
    "average": average.params,
    "prune_concat": result.params,
}
scores = {name: accuracy(apply_fn, params) for name, params in networks.items()}
for name, score in scores.items():
    print(f"{name:14} {score:5.1f} %")

# %% [markdown]
# ## What each network says
#
# Rows are the true digits, columns the answers. A knows the first five columns only, B the others.

# %%
fig, axes = plt.subplots(1, 4, figsize=(11, 3.2), sharey=True, layout="constrained")
for axis, (name, params) in zip(axes, networks.items()):
    answers = apply_fn(params, test_x).argmax(-1)
    counts = jnp.zeros((10, 10)).at[test_y, answers].add(1)
    image = axis.imshow(counts / counts.sum(1, keepdims=True), cmap="Blues", vmax=1)
    axis.set(title=f"{name}: {scores[name]:.1f} %", xlabel="answer")
    axis.set(xticks=range(10), yticks=range(10))
axes[0].set_ylabel("true digit")
fig.colorbar(image, ax=axes, label="share of the row")
plt.show()

# %% [markdown]
# ## Back to a module
#
# `eqx.combine` makes a module of the merged parameters, which goes on like any other.

# %%
module = eqx.combine(result.params, static)
print(type(module).__name__, jax.vmap(module)(test_x[:5]).argmax(-1), test_y[:5])

# %%
assert isinstance(module, eqx.nn.MLP)
assert scores["prune_concat"] > 90 > scores["average"] + 20

# %% [markdown]
# Layers with a state, such as `eqx.nn.BatchNorm`, hold it apart from the module. Make both by
# `eqx.nn.make_with_state`, switch to evaluation by `eqx.nn.inference_mode`, and give the pair `(module, state)` as one
# pytree: the statistics have the order of the units, too.
