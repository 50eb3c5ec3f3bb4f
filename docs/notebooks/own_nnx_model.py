# %% [markdown]
# # Your own flax.nnx model
#
# Any module can be merged once it is a pure function of its parameters. With `flax.nnx` that is one `split`, and there
# are two things to get right: BatchNorm's statistics, and the random states of Dropout. Digits, about a minute.

# %%
import jax
import matplotlib.pyplot as plt
import optax
from digits import accuracy, test_x, train_x, train_y
from flax import nnx

import autofusion_jax as af

# %% [markdown]
# ## A network with BatchNorm and Dropout
#
# [digits.py](https://github.com/autofusion-jax/autofusion_jax/blob/main/docs/notebooks/digits.py) loads scikit-learn's
# digits. The model and its training are as you would write them anyway.


# %%
class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.second = nnx.Linear(64, 64, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        return self.head(self.drop(nnx.relu(self.second(x))))


@nnx.jit
def train_step(model, optimizer, x, y):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def fit(seed, x, y):
    model = Net(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    model.train()
    for _ in range(300):
        train_step(model, optimizer, x, y)
    model.eval()
    return model


low, high = train_y < 5, train_y >= 5
model_a = fit(0, train_x[low], train_y[low])
model_b = fit(1, train_x[high], train_y[high])

# %% [markdown]
# `model.eval()` matters: merge the network as it is evaluated. In training mode outputs depend on the whole batch and
# on random bits.
#
# ## Split it in the right place
#
# `nnx.split` sorts what a module holds by type. This one holds four types:

# %%
print(
    sorted(
        {type(leaf).__name__ for _, leaf in nnx.to_flat_state(nnx.state(model_a))}
    )
)

# %% [markdown]
# - `Param` and `BatchStat` have one number for each hidden unit. When units are reordered, these must be, too. They are
#   what is merged.
# - `RngKey` and `RngCount` belong to Dropout. They are no weights, and there is no average of two random keys. They
#   stay behind.

# %%
graph, params_a, rest = nnx.split(model_a, (nnx.Param, nnx.BatchStat), ...)
_, params_b, _ = nnx.split(model_b, (nnx.Param, nnx.BatchStat), ...)


def apply_fn(params, x):
    return nnx.merge(graph, params, rest)(x)


spec = af.infer_perm_spec(apply_fn, params_a, train_x[:8])
print(spec)

# %% [markdown]
# Two groups. The statistics `norm/mean` and `norm/var` carry the first one, like the kernel that produces its units.
#
# ### What goes wrong otherwise
#
# With everything on one side, the random key is among the parameters, and the merge refuses it:

# %%
whole_graph, everything = nnx.split(model_a)
wrong_spec = af.infer_perm_spec(
    lambda params, x: nnx.merge(whole_graph, params)(x), everything, train_x[:8]
)
refused = False
try:
    af.merge(everything, everything, wrong_spec, method="average")
except (TypeError, ValueError) as error:
    refused = True
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# With the statistics on the other side, they are constants of the function. Constants that differ from unit to unit
# fix the order of these units, and the group is gone. No error is raised, since the spec is right for that function:

# %%
graph_, only_params, others = nnx.split(model_a, nnx.Param, ...)
smaller = af.infer_perm_spec(
    lambda params, x: nnx.merge(graph_, params, others)(x), only_params, train_x[:8]
)
print(
    len(spec.groups), "groups with the statistics,", len(smaller.groups), "without"
)

# %%
assert refused
assert len(spec.groups) == 2
assert len(smaller.groups) == 1

# %% [markdown]
# Fewer groups than hidden layers: look for such constants.
#
# ## Merge
#
# The activations of an averaged network are not those that the averaged statistics describe.
# `correction="reset_norm"` measures them again on the unlabelled inputs.

# %%
calls = {
    "average": {"method": "average"},
    "weight_matching": {"method": "weight_matching"},
    "weight_matching, reset_norm": {
        "method": "weight_matching",
        "correction": "reset_norm",
    },
    "prune_concat": {"method": "prune_concat"},
}
results = {
    name: af.merge(params_a, params_b, spec, train_x, **options)
    for name, options in calls.items()
}
scores = {
    "network A": accuracy(apply_fn, params_a),
    "network B": accuracy(apply_fn, params_b),
    **{name: accuracy(apply_fn, result.params) for name, result in results.items()},
}

fig, axis = plt.subplots(figsize=(7, 3))
bars = axis.barh(list(scores), list(scores.values()), color="tab:blue")
axis.bar_label(bars, fmt="%.1f", padding=3)
axis.invert_yaxis()
axis.set(xlabel="test accuracy (%), all ten digits", xlim=(0, 105))
plt.show()

# %% [markdown]
# Reordering B's units (`weight_matching`) and measuring statistics again each help a little.
# `prune_concat` keeps the better half of the units of each network and fits the layers after them by least squares. It
# takes seconds, and is the first thing to try for networks with starts of their own.
#
# ## Back to a module
#
# The result's parameters have the type that went in, a `nnx.State`, so `nnx.merge` makes a module of them.

# %%
model = nnx.merge(graph, results["prune_concat"].params, rest)
print(type(model).__name__, model(test_x[:3]).argmax(-1))

# %%
assert scores["prune_concat"] > 93 > scores["weight_matching, reset_norm"] + 5
assert scores["weight_matching, reset_norm"] > scores["average"] + 2
assert jax.tree.structure(results["average"].params) == jax.tree.structure(params_a)
