"""Comparison of merging methods on networks of your own: one call, one table, and files for the report.

With `apply_fn(params, x)` that returns logits, two trained `params_a` and `params_b`, unlabelled inputs `x`
and test inputs with their classes:

```python
import autofusion_jax as af
from autofusion_jax.evaluation import compare

spec = af.infer_perm_spec(apply_fn, params_a, x)
compare(
    [params_a, params_b], spec, x,
    test=(x_test, y_test), tasks=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]],
    methods=["average", "weight_matching", "zipit", af.methods.autofusion(epochs=16)],
    init=init, out="runs/mine",
)
```

prints the table and writes `runs/mine`; `python experiments/report.py --runs=runs` shows it among other runs.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key
from rich.console import Console

from autofusion_jax.arguments import AnyPath, Count, Pytrees, checked
from autofusion_jax.atomic import write_text
from autofusion_jax.evaluation.accuracy import Tasks, evaluate
from autofusion_jax.evaluation.networks import Network, merge_networks
from autofusion_jax.evaluation.results import Result, Summary, summarise, write_results
from autofusion_jax.evaluation.tables import markdown_table, rich_table
from autofusion_jax.merging.distillation import DistilOptions, distil_network
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.registry import get_method
from autofusion_jax.merging.teachers import find_targets
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import num_params
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

METHODS = ("interpolation", "weight_matching", "zipit", "autofusion", "prune_concat")
TEACHERS = {
    "teacher_confidence": "confidence_ensemble", "teacher_z": "z_ensemble", "teacher_em": "em_ensemble",
}  # fmt: skip
"""Rows that run all networks -> the methods that they are: what a merge is measured against."""
RANDOM_CONTROL, OWN_CONTROL = "control_random_network", "control_model_a"
"""Rows that merge nothing: a fresh network and A itself, trained on the EM teacher's answers."""
FROM_SCRATCH = DistilOptions(epochs=30, learning_rate=1e-3, batch_size=64)
RESULTS_FILE, CONFIG_FILE, TABLE_FILE = "results.jsonl", "config.json", "table.md"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Networks, teachers and merges, evaluated on the same inputs.

    Attributes:
        results: one for each network, as `results.jsonl` holds them.
        title: what the table is called.
    """

    results: tuple[Result, ...]
    title: str

    @property
    def rows(self) -> list[Summary]:
        """The lines of the table: the mean of each method and variant over its keys."""
        return summarise(self.results)

    def __str__(self) -> str:
        """The table as Markdown."""
        return f"{self.title}\n\n{markdown_table(self.rows)}"

    def print(self, console: Console | None = None) -> None:
        """Print the table to a terminal."""
        console = console or Console()
        console.print(rich_table(self.rows, self.title, width=console.width))


@checked
def compare(
    models: Pytrees,
    spec: PermSpec,
    batch: Any,
    *,
    test: tuple[Any, np.ndarray],
    tasks: Tasks,
    methods: Sequence[str | Method] = METHODS,
    names: Sequence[str] = (),
    base: Params | None = None,
    align: str | None = None,
    correction: str | None = None,
    init: Callable[[Key[Array, ""]], Params] | None = None,
    repeats: Count = 1,
    seed: int = 0,
    out: AnyPath | None = None,
    console: Console | None = None,
) -> Comparison:
    """Merge networks of your own by several methods, evaluate all, and print the table.

    Beside the merges stand the networks, the teachers that run all of them, and the controls that a merge
    must beat to mean anything: network A trained on with the EM teacher's answers, and, where `init` is
    given, a fresh network trained on them as long.

    Args:
        models: parameters of the networks, one for each task, A first.
        spec: their permutation spec, which remembers the `apply_fn`: it returns logits `[N, classes]`.
        batch: unlabelled inputs `[N, ...]` of all tasks, which merges see.
        test: inputs `[M, ...]` and classes `[M]`, integers, which accuracies are measured on.
        tasks: the classes of each task, A first.
        methods: names of `list_methods()`, or `Method`s with options of your own.
        names: what three tasks or more are called.
        base: the network that all were fine-tuned from, for methods that need it.
        align: as in `merge_many`.
        correction: as in `merge_many`.
        init: draws fresh parameters from a key.
        repeats: keys for methods that use one, >= 1.
        seed: of the keys.
        out: a folder for `results.jsonl`, `config.json` and `table.md`, which the report reads; files of an
            earlier comparison are replaced. None to write nothing.
        console: where progress and the table are printed.

    Returns:
        The results.

    Raises:
        ValueError: a name is unknown, the spec carries no `apply_fn`, there is not one task for each network,
            or as `merge_many`.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> apply_fn = lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"]
        >>> init = lambda k: {"up": jax.random.normal(k, (3, 4)), "down": jax.random.normal(k, (4, 2))}
        >>> models, x = [init(jax.random.key(0)), init(jax.random.key(1))], jnp.ones((8, 3))
        >>> spec = af.infer_perm_spec(apply_fn, models[0], x)
        >>> test, quiet = (x, np.arange(8) % 2), Console(quiet=True)
        >>> found = compare(models, spec, x, test=test, tasks=[[0], [1]], methods=["average"], console=quiet)
        >>> [row.method for row in found.rows][:3], found.rows[-1].method
        (['model_a', 'model_b', 'average'], 'control_model_a')
    """
    apply_fn, console = spec.apply_fn, console or Console()
    if apply_fn is None:
        raise ValueError(
            "compare: spec must carry an apply_fn; got none. Give infer_perm_spec(apply_fn, params, x)."
        )
    require(len(tasks) == len(models), "compare", "tasks", f"{len(models)}, one a network", len(tasks))
    chosen = [get_method(method) if isinstance(method, str) else method for method in methods]
    x, labels = jax.tree.map(jnp.asarray, test[0]), np.asarray(test[1])
    name = Path(out).name if out else "comparison"
    results: list[Result] = []

    def add(row: str, networks: Sequence[Network]) -> None:
        for one in networks:
            metrics = evaluate(
                one.apply_fn, one.params, x, labels, tasks, num_heads=one.num_heads, names=names
            )
            results.append(Result(name, row, one.variant, 0, one.repeat, seed, metrics, one.num_learned,
                                  round(one.seconds, 3)))  # fmt: skip

    for place, params in enumerate(models):
        add(f"model_{chr(ord('a') + place)}", [Network(params, apply_fn)])
    keys = jax.random.split(jax.random.key(seed), repeats)
    options = {"apply_fn": apply_fn, "progress": console.is_terminal}
    for method in chosen:
        add(method.name, merge_networks(
            models, spec, batch, method=method, keys=keys, base=base, align=align, correction=correction,
            **options,
        ))  # fmt: skip
    for row, teacher in TEACHERS.items():
        add(row, merge_networks(models, spec, batch, method=get_method(teacher), keys=keys[:1], **options))
    init_key, key = jax.random.split(jax.random.key(seed))
    starts = {OWN_CONTROL: models[0]} | ({} if init is None else {RANDOM_CONTROL: init(init_key)})
    for row, start in starts.items():
        add(row, [_distilled(models, spec, apply_fn, batch, start, key)])
    comparison = Comparison(tuple(results), f"{name}: accuracy on the test inputs (%)")
    comparison.print(console)
    if out is not None:
        about = {"name": name, "seed": seed, "pairs": 1, "tasks": [list(map(int, task)) for task in tasks],
                 "methods": [_described(method) for method in chosen], "align": align,
                 "correction": correction, "repeats": repeats}  # fmt: skip
        _write(Path(out), comparison, about, console)
    return comparison


def _distilled(
    models: Sequence[Params],
    spec: PermSpec,
    apply_fn: ApplyFn,
    batch: Any,
    start: Params,
    key: Key[Array, ""],
) -> Network:
    """A control: what the teacher's answers alone make of a network that was not merged."""
    began = time.perf_counter()
    task = MergeTask(tuple(models), spec, apply_fn, batch)
    probs = find_targets("compare", task, pseudo_labels="em", zeta=0.0).probs
    params, _ = jax.block_until_ready(distil_network(spec, start, batch, probs, FROM_SCRATCH, key=key))
    seconds = time.perf_counter() - began
    return Network(params, apply_fn, num_learned=num_params(params), seconds=seconds)


def _described(method: Method) -> dict[str, Any]:
    return {"name": method.name, "options": {name: _plain(value) for name, value in method.options.items()}}


def _plain(value: Any) -> Any:
    """As JSON holds it; arrays and functions as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else type(value).__name__


def _write(folder: Path, comparison: Comparison, about: Mapping[str, Any], console: Console) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG_FILE, json.dumps(about, indent=2) + "\n")
    write_text(folder / TABLE_FILE, str(comparison))
    write_results(folder / RESULTS_FILE, comparison.results)
    console.print(f"results in {folder}: {RESULTS_FILE}, {TABLE_FILE}, {CONFIG_FILE}")
