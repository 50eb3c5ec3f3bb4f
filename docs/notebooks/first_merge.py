# %% [markdown]
# # A first merge
#
# Two networks, each trained on half of the digits from a random start of its own, become one network of the same
# size that knows all ten. No label is used for it. This takes about a minute.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import autofusion_jax as af

# %% [markdown]
# ## Two networks that know half each
#
# Scikit-learn's digits are 1,797 images of 8 x 8 pixels: 1,400 to train, the rest to test. The file is ordered by
# writer, so it is shuffled before.

# %%
pixels, classes = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(pixels))
x, y = jnp.asarray(pixels[order] / 16, jnp.float32), jnp.asarray(classes[order])
train_x, train_y, test_x, test_y = x[:1400], y[:1400], x[1400:], y[1400:]

fig, axes = plt.subplots(1, 10, figsize=(8, 1))
for digit, axis in enumerate(axes):
    axis.imshow(train_x[train_y == digit][0].reshape(8, 8), cmap="gray_r")
    axis.set_axis_off()

# %% [markdown]
# The network is a plain function of parameters and images. Any function that JAX can trace will do: see the notebooks
# on [flax.nnx](own_nnx_model.py) and [Equinox](equinox.py).


# %%
def apply_fn(params, x):
    hidden = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
    hidden = jax.nn.relu(
        hidden @ params["second"]["kernel"] + params["second"]["bias"]
    )
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def init(key):
    draw = jax.nn.initializers.he_normal()
    sizes = {"first": (64, 64), "second": (64, 64), "head": (64, 10)}
    return {
        name: {"kernel": draw(k, size), "bias": jnp.zeros(size[1])}
        for k, (name, size) in zip(jax.random.split(key, 3), sizes.items())
    }


@jax.jit
def fit(params, x, y):
    optimizer = optax.adam(3e-3)

    def loss(params):
        logits = apply_fn(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=300)[0][0]


# %%
low, high = train_y < 5, train_y >= 5
params_a = fit(init(jax.random.key(0)), train_x[low], train_y[low])
params_b = fit(init(jax.random.key(1)), train_x[high], train_y[high])


def accuracy(apply_fn, params):
    """In percent, over all ten digits of the test images."""
    return 100 * float((apply_fn(params, test_x).argmax(-1) == test_y).mean())


print(
    f"A {accuracy(apply_fn, params_a):.1f} %, B {accuracy(apply_fn, params_b):.1f} %"
)

# %% [markdown]
# Each answers with its own five digits only, so neither can be right on more than about half of the images.
#
# ## Merging them
#
# The order of hidden units means nothing, and two networks with starts of their own have different ones. The
# *permutation spec* says which axes of which parameters may be reordered. It is derived from the program itself.

# %%
spec = af.infer_perm_spec(apply_fn, params_a, train_x[:8])
print(spec)

# %% [markdown]
# Two groups of 64 units: the two hidden layers. Each is produced (`out`) by a kernel and a bias, and read (`in`) by the
# next kernel. [Reading a spec](reading_a_spec.py) has more.
#
# `merge` takes both networks, the spec and images *without labels*. The default method, AutoFusion, learns how to
# reorder B's units, and how much of each network every unit is made of.

# %%
result = af.merge(params_a, params_b, spec, train_x)
merged = accuracy(result.apply_fn, result.params)
print(f"merged {merged:.1f} %")

# %% [markdown]
# ## What to compare it with
#
# - The *average* of the weights as they are: what merging without reordering gives.
# - The *teacher*: the ensemble of both networks, which labels the images for the merge. It runs both networks, so it
#   costs twice as much, and a merge that learns from it will hardly be better.
# - The *control*: a fresh network that has seen no weight of A or B, trained on the same images with the teacher's
#   answers as labels.

# %%
average = af.merge(params_a, params_b, spec, method="average")
teacher = af.merge(params_a, params_b, spec, train_x, method="em_ensemble")
answers = teacher.apply_fn(teacher.params, train_x).argmax(-1)
control = fit(init(jax.random.key(2)), train_x, answers)

scores = {
    "network A": accuracy(apply_fn, params_a),
    "network B": accuracy(apply_fn, params_b),
    "average": accuracy(apply_fn, average.params),
    "merged": merged,
    "teacher (both)": accuracy(teacher.apply_fn, teacher.params),
    "control (fresh)": accuracy(apply_fn, control),
}
for name, score in scores.items():
    print(f"{name:16} {score:5.1f} %")

# %%
assert scores["merged"] > 90 > 60 > scores["average"]
assert scores["merged"] > scores["teacher (both)"] - 4
assert scores["control (fresh)"] > 90

# %% [markdown]
# The average has lost both tasks. The merged network is nearly as good as the teacher.
#
# So is the control: on these digits the images are many enough to learn everything from the teacher's answers. Where
# you can train, train a control before you trust that a merge was worth it. With few images, or without time to
# train, it is another matter: [choosing a method](../choosing-a-method.md#when-a-merge-is-worth-it).
#
# ## How far to trust it
#
# A result shows what was done, and for each diagnostic what is good and what is bad. Outside of a notebook,
# `result.summary()` prints the same.

# %%
result

# %% [markdown]
# AutoFusion learns *soft* permutations, matrices whose rows mix several units. `variants` has the network merged by
# them, and the one merged by the nearest real permutations.

# %%
for name, params in result.variants.items():
    print(f"{name} {accuracy(result.apply_fn, params):.1f} %")

# %% [markdown]
# ## Along the line between them
#
# `fuse` computes `gamma A + (1 - gamma) B`, with B in a given order. It is a pure function: here it is vmapped over
# gamma, once with B as it is and once with the permutations that were learned.

# %%
gammas = jnp.linspace(0, 1, 21)


@jax.jit
def along_the_line(params_a, params_b, perms, x):
    def logits(gamma):
        return apply_fn(af.fuse(params_a, params_b, perms, gamma, spec), x)

    return jax.vmap(logits)(gammas)


fig, axis = plt.subplots(figsize=(7, 4))
orders = {"B as it is": af.identity_perms(spec), "B reordered": result.perms}
curves = {}
for (name, perms), style in zip(orders.items(), ("o--", "s-")):
    predicted = along_the_line(params_a, params_b, perms, test_x).argmax(-1)
    curves[name] = 100 * (predicted == test_y).mean(-1)
    axis.plot(gammas, curves[name], style, label=name, markersize=4)
axis.plot(0.5, merged, "k*", markersize=14, label="merged: a share for every unit")
axis.set(xlabel="gamma: weight of A", ylabel="test accuracy (%)", ylim=(0, 100))
axis.grid(alpha=0.3)
axis.legend(loc="lower center")
plt.show()

# %%
assert curves["B reordered"].max() > curves["B as it is"].max() + 5

# %% [markdown]
# At both ends stands one network with half of the digits. Between them the average of unlike units knows little; with
# B reordered it knows more than either. One number gamma for the whole network cannot reach the star, though: it
# has weights for each network's share of every unit.
