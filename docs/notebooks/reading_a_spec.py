# %% [markdown]
# # Reading a spec
#
# A permutation spec says which axes of which parameters can be reordered without changing the function. Every method
# that moves hidden units goes by it. It is derived from your program, and it is worth reading before a merge: what is
# not in a group stays where it is. Random weights will do here. Half a minute.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import autofusion_jax as af
from autofusion_jax.models.registry import build_model
from autofusion_jax.plots.spec_drawing import perm_spec_figure

# %% [markdown]
# ## A convolution and a dense layer


# %%
def conv_net(params, x):
    layout = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(
        x, params["conv"], (1, 1), "SAME", dimension_numbers=layout
    )
    h = jax.nn.relu(h + params["bias"])
    return h.reshape(len(h), -1) @ params["head"]


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


images = normal(0, 4, 8, 8, 1)
params = {
    "conv": normal(1, 3, 3, 1, 6),
    "bias": normal(2, 6),
    "head": normal(3, 384, 10),
}
spec = af.infer_perm_spec(conv_net, params, images)
print(spec)

# %% [markdown]
# Line by line:
#
# - There is one *group*, of 6 units, named after the parameter that produces it: the channels.
# - Each parameter has one entry for each of its axes. A bare number is *fixed*: kernel height and width, the input's
#   channel, the ten classes.
# - `out conv:6`: the parameter *produces* the units along this axis. `in ...`: it *reads* them.
# - `64 x conv:6`: an axis that is a product. The flattened image has 64 places, which are fixed, of 6 channels, which
#   may move. So rows of the head move in the pattern that fits.
#
# ## Reordering
#
# `random_perms` draws a permutation for each group, `apply_perm` applies them. The parameters are others, and the
# function is the same.

# %%
perms = af.random_perms(spec, jax.random.key(0))
moved = af.apply_perm(spec, params, perms)
print(perms)
print("head changed by", float(jnp.abs(moved["head"] - params["head"]).max()))

change = jnp.abs(conv_net(moved, images) - conv_net(params, images)).max()
print("outputs changed by", float(change))

# %%
fig, axes = plt.subplots(2, 6, figsize=(7, 2.6), layout="constrained")
for row, (name, network) in zip(axes, {"before": params, "after": moved}.items()):
    row[0].set_ylabel(name)
    for unit, axis in enumerate(row):
        axis.imshow(network["conv"][:, :, 0, unit], cmap="gray", vmin=-2, vmax=2)
        axis.set(
            xticks=[], yticks=[], title=f"channel {unit}" * (network is params)
        )
plt.show()

# %% [markdown]
# The six filters of the convolution: the same ones, in another order.
#
# The small change of the outputs is rounding. `check_perm_spec` does this with several random permutations and
# returns the largest relative change. `infer_perm_spec` has done so already.

# %%
print(af.check_perm_spec(spec, params, images))

# %%
assert spec.groups["conv"].size == 6
assert jnp.abs(moved["head"] - params["head"]).max() > 1
assert change < 1e-3

# %% [markdown]
# ## A wrong spec is found out
#
# A spec can be written by hand, too. Here the head, which reads the channels, has been forgotten. The check names the
# group and what carries it.

# %%
table = {
    "conv": (None, None, None, af.out_axis("conv")),
    "bias": (af.out_axis("conv"),),
    "head": (None, None),
}
wrong = af.PermSpec.from_table(table, params, apply_fn=conv_net)
message = ""
try:
    af.check_perm_spec(wrong, params, images)
except ValueError as error:
    message = str(error)
print(message)

# %% [markdown]
# ## Groups nested in groups: attention
#
# The smallest vision transformer: one block, two heads of four units each.

# %%
vit = build_model(
    "vit",
    (8, 8, 1),
    num_classes=10,
    patch=4,
    dim=8,
    depth=1,
    num_heads=2,
    mlp_dim=16,
)
vit_params = vit.init(jax.random.key(0))
vit_spec = vit.perm_spec
for group in vit_spec.groups.values():
    print(
        group.name,
        group.size,
        "in each of" if group.nested_in else "",
        *group.nested_in,
    )

# %% [markdown]
# - `embed`: the residual stream, one group through the whole network, since sums connect all that write to it.
# - `attention.heads`: the two heads can change places, but only in queries, keys, values and output together.
# - `query.head_dim`, *in each of* `attention.heads`: every head has an order of its own for its four units. Queries and
#   keys share it, as their dot product pairs unit with unit.
# - `value.head_dim`: likewise for values and the output's rows.
# - `mlp_0`: the hidden units of the block's MLP.
#
# The permutation of a nested group has one row for each head:

# %%
vit_perms = af.random_perms(vit_spec, jax.random.key(1))
print(vit_perms["block_0/attention.heads"])
print(vit_perms["block_0/attention/query.head_dim"])

# %% [markdown]
# ## The drawing
#
# `perm_spec_figure` draws it, layers from top to bottom. A cell is filled where a parameter produces a group, framed
# where it reads one, grey where it is fixed. Every group is a lane on the right. `draw_perm_spec` writes the same to
# a file.

# %%
perm_spec_figure(vit_spec, title="A vision transformer of one block")

# %%
vit_moved = af.apply_perm(vit_spec, vit_params, vit_perms)
before, after = (vit.apply(p, images) for p in (vit_params, vit_moved))
assert jnp.allclose(before, after, atol=1e-4)
assert vit_perms["block_0/attention/query.head_dim"].shape == (2, 4)
assert "reordering group 'conv' must leave the outputs as they are" in message

# %% [markdown]
# ## Fewer groups than expected
#
# Two usual reasons. The first: `apply_fn` closes over numbers, such as statistics, that differ from unit to unit. They
# are constants, and fix the order. Put them among the parameters.

# %%
mean = jnp.arange(6.0)


def centred(params, x):
    return jax.nn.relu(x @ params["up"] - mean) @ params["down"]


def centred_by_params(params, x):
    return jax.nn.relu(x @ params["up"] - params["mean"]) @ params["down"]


x = normal(4, 8, 3)
layers = {"up": normal(5, 3, 6), "down": normal(6, 6, 2)}
closed_over = af.infer_perm_spec(centred, layers, x)
in_params = af.infer_perm_spec(centred_by_params, {**layers, "mean": mean}, x)
print(closed_over, in_params, sep="\n\n")

# %% [markdown]
# The second: an operation that inference has no rule for. It then takes the safe side, fixes what meets the operation,
# and says so in `notes`, with the place in your file.


# %%
def orthonormal(params, x):
    q, _ = jnp.linalg.qr(x @ params["up"])
    return q @ params["down"]


noted = af.infer_perm_spec(orthonormal, layers, x)
for note in noted.notes:
    print(note.partition(" at ")[0])

# %%
assert len(closed_over.groups) == 0
assert len(in_params.groups) == 1
assert noted.notes

# %% [markdown]
# Here that is right: a QR decomposition takes columns in their order. Where it is not, you can
# [add a rule](../extending/rule.md).
