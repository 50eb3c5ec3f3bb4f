# %% [markdown]
# # Task vectors and files
#
# Networks that were fine-tuned from one base differ from it by *task vectors*, `params - base`. They can be added,
# trimmed and thinned. All of it works on arrays in memory, as pure functions under `vmap`, and on safetensors files
# that are never loaded whole. Digits, under a minute.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from digits import accuracy, apply_fn, fit, init, test_x, test_y, train_x, train_y
from safetensors.numpy import load_file, save_file

import autofusion_jax as af

# %% [markdown]
# ## A base and three fine-tuned networks
#
# The base has seen 50 images. Each of three copies is fine-tuned on some of the digits, and forgets others meanwhile
# ([digits.py](https://github.com/autofusion-jax/autofusion_jax/blob/main/docs/notebooks/digits.py)).

# %%
tasks = {"0 to 3": (0, 3), "4 to 6": (4, 6), "7 to 9": (7, 9)}
base = fit(apply_fn, init(jax.random.key(0)), train_x[:50], train_y[:50], steps=50)
models = []
for first, last in tasks.values():
    own = (train_y >= first) & (train_y <= last)
    models.append(
        fit(
            apply_fn, base, train_x[own], train_y[own], steps=50, learning_rate=1e-3
        )
    )

scores = {"base": accuracy(apply_fn, base)}
for name, params in zip(tasks, models):
    scores[f"fine-tuned on {name}"] = accuracy(apply_fn, params)
for name, score in scores.items():
    print(f"{name:22} {score:5.1f} %")

# %% [markdown]
# ## Methods
#
# These methods look at no data and move no units, so neither a spec nor images are needed: `None` takes the spec's
# place, and `base=` is the network that all came from.
#
# - `task_arithmetic` adds the task vectors, times `scale`.
# - `ties` keeps the largest fifth of each, and of these what agrees in sign.
# - `dare` drops half of the entries at random and doubles the rest: the same in expectation. It uses a `key`.

# %%
calls = {
    "average": {"method": "average"},
    "task_arithmetic": {"method": "task_arithmetic", "base": base, "scale": 0.3},
    "ties": {"method": "ties", "base": base, "density": 0.2},
    "dare": {
        "method": "dare",
        "base": base,
        "density": 0.5,
        "key": jax.random.key(1),
    },
}
merged = {
    name: af.merge_many(models, None, **call).params for name, call in calls.items()
}
for name, params in merged.items():
    scores[name] = accuracy(apply_fn, params)
    print(f"{name:22} {scores[name]:5.1f} %")

# %%
best_fine_tuned = max(scores[f"fine-tuned on {name}"] for name in tasks)
assert scores["task_arithmetic"] > scores["base"] + 2 > best_fine_tuned + 20
assert abs(scores["dare"] - scores["task_arithmetic"]) < 5

# %% [markdown]
# Each fine-tuned network is worse than the base over all ten digits, since it has forgotten those that it no longer
# saw. Their sum is better than the base.
#
# ## The scale, all at once
#
# How much of the task vectors should be added? `af.functional` has the formulas as pure functions. `vmap` over the
# scale gives 41 merged networks, and their answers, in one program.

# %%
scales = jnp.linspace(0, 2, 41)


@jax.jit
def answers(base, models, scales, x):
    def one(scale):
        return apply_fn(af.functional.add_task_vectors(base, models, scale), x)

    return jax.vmap(one)(scales).argmax(-1)


right = answers(base, models, scales, test_x) == test_y
curve = 100 * right.mean(-1)

fig, axis = plt.subplots(figsize=(7, 4))
axis.plot(scales, curve, "k-", linewidth=2, label="all digits")
for name, (first, last) in tasks.items():
    own = (test_y >= first) & (test_y <= last)
    axis.plot(scales, 100 * right[:, own].mean(-1), "--", label=name)
axis.axvline(
    scales[curve.argmax()], color="grey", linestyle=":", label="best scale"
)
axis.set(xlabel="scale", ylabel="test accuracy (%)", ylim=(0, 103))
axis.grid(alpha=0.3)
axis.legend(ncols=2)
plt.show()

# %% [markdown]
# Scale 0 is the base. A third is the average of three networks; near it is the best. Beyond 1 the task vectors
# disturb one another. In earnest, choose the scale on images that you do not test on.
#
# The same goes for the other formulas. DARE's mask is an argument, so its expectation can be looked at: over 500
# masks, the mean of the thinned task vectors comes back to the task vector itself.

# %%
delta = jax.tree.map(jnp.subtract, models[0], base)["dense_1"]["kernel"]
origin, tuned = base["dense_1"], models[0]["dense_1"]


@jax.jit
@jax.vmap
def thinned(key):
    mask = jax.tree.map(lambda w: jax.random.bernoulli(key, 0.5, w.shape), tuned)
    return af.functional.drop_and_rescale(origin, tuned, mask, 0.5)["kernel"]


many = thinned(jax.random.split(jax.random.key(2), 500))
size = jnp.abs(delta).mean()
one_error = float(jnp.abs(many[0] - delta).mean() / size)
mean_error = float(jnp.abs(many.mean(0) - delta).mean() / size)
print(f"error of one mask {one_error:.2f}, of the mean over 500 {mean_error:.3f}")

# %%
assert 0.2 <= scales[curve.argmax()] <= 0.6
assert one_error > 0.9 > 0.1 > mean_error

# %% [markdown]
# ## Files
#
# `merge_files` reads safetensors files block by block and writes one: no network is ever in memory as a whole. It takes
# the methods that look at entries or leaves by themselves, `ties` among them. Files hold a flat dict of names.


# %%
def flat(params):
    leaves = jax.tree.leaves_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }


folder = Path(tempfile.mkdtemp())
paths = [folder / f"tuned_{number}.safetensors" for number in range(3)]
for path, params in zip(paths, models):
    save_file(flat(params), path)
save_file(flat(base), folder / "base.safetensors")

out = af.merge_files(
    paths,
    folder / "merged.safetensors",
    base=folder / "base.safetensors",
    method="ties",
    density=0.2,
)
from_files = load_file(out)
for name, leaf in from_files.items():
    print(f"{name:16} {leaf.shape!s:10} {leaf.dtype}")

# %% [markdown]
# It is what `merge_many` gives in memory, and these are the same names that went in.

# %%
in_memory = flat(merged["ties"])
assert from_files.keys() == in_memory.keys()
assert all(np.allclose(from_files[name], in_memory[name]) for name in in_memory)

# %% [markdown]
# ## Save and load
#
# A result writes itself as a checkpoint, with its spec if there is one and with what was done. Every file of it has a
# checksum, which `load` verifies.

# %%
result = af.merge_many(models, None, method="task_arithmetic", base=base, scale=0.3)
result.save(folder / "merged")
params, _, meta = af.load(folder / "merged")
print(meta["recipe"])

# %%
same = jax.tree.map(np.array_equal, params, result.params)
assert all(jax.tree.leaves(same))
assert accuracy(apply_fn, params) == scores["task_arithmetic"]

# %% [markdown]
# [Your own checkpoints](../your-own-checkpoints.md) has sharded files, those of `transformers`, and LoRA adapters.
