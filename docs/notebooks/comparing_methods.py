# %% [markdown]
# # Comparing methods on your own data
#
# Which method is best for *your* networks? A loop tells. What makes the comparison fair is what stands beside the
# merges: the teacher, a control, more than one pair of networks, and images that no merge has seen. Digits stand in
# for your data. Two minutes.

# %%
import os
import tempfile
import time

import jax
import matplotlib.pyplot as plt
import numpy as np
from digits import apply_fn, fit, init, test_x, test_y, train_x, train_y

import autofusion_jax as af
from autofusion_jax.evaluation import compare, evaluate

# %% [markdown]
# ## Your networks, your data
#
# What a comparison needs: `apply_fn`, pairs of parameters, unlabelled inputs, and labelled test inputs. Replace this
# cell by yours. Here each of three pairs has one network for the digits 0 to 4 and one for 5 to 9, all from starts of
# their own ([digits.py](https://github.com/autofusion-jax/autofusion_jax/blob/main/docs/notebooks/digits.py)).

# %%
tasks = [range(5), range(5, 10)]


def specialist(seed, task):
    own = np.isin(train_y, task)
    return fit(apply_fn, init(jax.random.key(seed)), train_x[own], train_y[own])


pairs = [
    [specialist(10 * number + k, task) for k, task in enumerate(tasks)]
    for number in range(3)
]
spec = af.infer_perm_spec(apply_fn, pairs[0][0], train_x[:8])

# %% [markdown]
# ## Methods
#
# A method is a name, or a factory of `af.methods` with options; `help(af.methods.zipit)` lists them. `align=` reorders
# the networks' units before a method that takes them as they are.

# %%
calls = {
    "average": {"method": "average"},
    "weight_matching": {"method": "weight_matching"},
    "zipit": {"method": af.methods.zipit(a=0.3, b=0.1)},
    "regmean, aligned": {"method": "regmean", "align": "activation_matching"},
    "autofusion": {"method": af.methods.autofusion(epochs=32)},
    "prune_concat": {"method": "prune_concat"},
    "em_ensemble (teacher)": {"method": "em_ensemble"},
}

# %% [markdown]
# ## The loop
#
# `evaluate` gives accuracies in percent, always by the largest of all ten logits: `joint` over all test images,
# `task_a` and `task_b` over those of each half. For each pair there are the networks themselves, every method, and two
# networks that saw neither A nor B: the *control*, trained on the teacher's answers for the same images, and one
# trained on their *real labels*, which a merge does not have.

# %%
rows = {}


def record(name, function, params, seconds):
    measured = evaluate(function, params, test_x, test_y, tasks)
    rows.setdefault(name, []).append({**measured, "seconds": seconds})


for number, pair in enumerate(pairs):
    record("network A", apply_fn, pair[0], 0.0)
    record("network B", apply_fn, pair[1], 0.0)
    for name, call in calls.items():
        result = af.merge(*pair, spec, train_x, key=jax.random.key(number), **call)
        record(name, result.apply_fn, result.params, result.seconds)
    answers = result.apply_fn(result.params, train_x).argmax(
        -1
    )  # the last is the teacher
    for name, labels in {"control": answers, "real labels": train_y}.items():
        start = time.perf_counter()
        fresh = fit(apply_fn, init(jax.random.key(100 + number)), train_x, labels)
        record(
            name,
            apply_fn,
            jax.block_until_ready(fresh),
            time.perf_counter() - start,
        )

# %% [markdown]
# ## The table
#
# Means over the pairs; ± is the standard deviation over pairs, not over repeats of one merge. Seconds are those of the
# last pair: the first compiles.

# %%
print(f"{'':22} {'joint':>13} {'task_a':>7} {'task_b':>7} {'seconds':>8}")
for name, found in rows.items():
    joint, task_a, task_b = (
        np.array([row[metric] for row in found])
        for metric in ("joint", "task_a", "task_b")
    )
    print(
        f"{name:22} {joint.mean():6.1f} ± {joint.std(ddof=1):4.1f} "
        f"{task_a.mean():7.1f} {task_b.mean():7.1f} {found[-1]['seconds']:8.2f}"
    )

# %%
fig, axis = plt.subplots(figsize=(8, 4))
for place, found in enumerate(rows.values()):
    joint = [row["joint"] for row in found]
    axis.barh(place, np.mean(joint), color="tab:blue", alpha=0.5)
    axis.plot(joint, [place] * len(joint), "k.", markersize=6)
axis.set_yticks(range(len(rows)), rows)
axis.invert_yaxis()
axis.set(xlabel="joint test accuracy (%): mean, and one dot a pair", xlim=(0, 100))
axis.grid(axis="x", alpha=0.3)
plt.show()

# %%
mean = {
    name: np.mean([row["joint"] for row in found]) for name, found in rows.items()
}
assert mean["average"] < 40 < mean["weight_matching"] < 60
assert min(mean["autofusion"], mean["prune_concat"]) > 90
assert mean["em_ensemble (teacher)"] > mean["prune_concat"] - 2
assert mean["real labels"] > mean["control"]

# %% [markdown]
# Three groups: what moves units only, what learns from the teacher, and the teacher itself with the networks trained
# on as many images. Look at the dots before you believe in a difference: three pairs do not tell methods apart that
# are within a point or two.

# %% [markdown]
# ## The same in one call
#
# `compare` does this for one pair: networks, merges, teachers and two controls (A trained on, and a fresh network from
# `init`). The folder that it writes is what the report reads: `python experiments/report.py --runs=FOLDER`.

# %%
folder = tempfile.mkdtemp()
found = compare(
    pairs[0],
    spec,
    train_x,
    test=(test_x, test_y),
    tasks=tasks,
    methods=["average", "prune_concat"],
    init=init,
    out=f"{folder}/digits",
)
assert "results.jsonl" in os.listdir(f"{folder}/digits")

# %% [markdown]
# ## How many inputs does it take?
#
# Both the merge and the control learn from the teacher's answers, but the merge also has the two networks' weights. Is
# that worth something where inputs are few? The teacher is `z_ensemble` here: the one above needs more than a few
# images.

# %%
counts = [20, 40, 80, 160, 320, 1400]
curves = {"prune_concat": [], "control": []}
for count in counts:
    few, found = train_x[:count], {name: [] for name in curves}
    for pair in pairs:
        merged = af.merge(
            *pair, spec, few, method="prune_concat", pseudo_labels="z"
        )
        teacher = af.merge(*pair, spec, few, method="z_ensemble")
        answers = teacher.apply_fn(teacher.params, few).argmax(-1)
        control = fit(apply_fn, init(jax.random.key(100)), few, answers)
        for name, params in {
            "prune_concat": merged.params,
            "control": control,
        }.items():
            measured = evaluate(apply_fn, params, test_x, test_y, tasks)
            found[name].append(measured["joint"])
    for name in curves:
        curves[name].append(np.mean(found[name]))

fig, axis = plt.subplots(figsize=(7, 3.5))
for (name, curve), style in zip(curves.items(), ("s-", "o--")):
    axis.semilogx(counts, curve, style, label=name)
axis.set_xticks(counts, counts)
axis.minorticks_off()
axis.set(xlabel="unlabelled images", ylabel="joint test accuracy (%)")
axis.grid(alpha=0.3)
axis.legend()
plt.show()

# %%
curves = {name: np.array(curve) for name, curve in curves.items()}
assert all(curve[0] < 65 < 90 < curve[-1] for curve in curves.values())
assert (curves["prune_concat"] - curves["control"])[3:].min() > 1

# %% [markdown]
# With less than a hundred images neither is of use. From 160 on the merge is one to three points ahead. With the better
# teacher and all images, in the table above, they were level. So read a comparison for the number of inputs, the
# teacher and the networks that *you* have.
