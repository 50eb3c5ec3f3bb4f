"""A figure at work: its endpoint pairs, their merges, and what is kept of them for the next time."""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure as Picture
from rich.console import Console

import autofusion_jax as af
from autofusion_jax.plots.canvas import save_figure
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params, Perms, SoftPerms
from configs.schema import Config
from data.splits import sample
from figures.schema import Entry, Figure, Panel, Sizes
from pipeline.endpoints import Pair, Setting, draw_pair, get_network, open_setting, to_inputs, training_pool

LABELLED, LABELLED_SEED = 1000, 3315
"""Images with true labels that the permutations of Fig. 3 and 4 are learned from (B.5)."""

PAPER = "autofusion_paper"


@dataclasses.dataclass(frozen=True)
class Case:
    """One endpoint pair in memory."""

    setting: Setting
    pair: Pair
    params_a: Params
    params_b: Params
    spec: PermSpec
    sizes: Sizes
    kept: Path

    @property
    def unlabelled(self) -> Array:
        """The inputs that merges see."""
        return to_inputs(self.setting.dataset.train_images[self.pair.unlabelled])

    @property
    def labelled(self) -> tuple[Array, Array]:
        """Training images with their labels, drawn by the paper's seed for them."""
        dataset, config = self.setting.dataset, self.setting.config
        pool, _ = training_pool(config, len(dataset.train_labels), self.pair.seed)
        chosen = sample(pool, min(LABELLED, len(pool)), LABELLED_SEED)
        return to_inputs(dataset.train_images[chosen]), jnp.asarray(dataset.train_labels[chosen])


@dataclasses.dataclass(frozen=True)
class Merged:
    """A merge, as it is kept.

    Attributes:
        key: names it among all merges.
        perms: B's hard permutations by group.
        soft_perms: the soft ones; empty for methods without any.
        variants: `"soft"` and `"hard"`, or `""` -> parameters of the merged network.
    """

    key: str
    perms: Perms
    soft_perms: SoftPerms
    variants: Mapping[str, Params]


@dataclasses.dataclass(frozen=True)
class Work:
    """A figure with its settings and folders."""

    figure: Figure
    folder: Path
    runs_dir: str
    sizes: Sizes
    configs: tuple[Config, ...]
    console: Console

    @functools.cached_property
    def open_settings(self) -> dict[str, Setting]:
        """The data and model of every config, by its name."""
        return {config.name: open_setting(config, self.console) for config in self.configs}

    @property
    def settings(self) -> dict[str, Any]:
        """All that the figure depends on, as JSON holds it."""
        entries = [dataclasses.asdict(entry) for entry in self.figure.entries]
        configs = {name: setting.identity for name, setting in self.open_settings.items()}
        fields = {"configs": configs, "sizes": dataclasses.asdict(self.sizes), "entries": entries}
        return json.loads(json.dumps(fields))

    def case(self, name: str, number: int = 0) -> Case:
        """Train or find the endpoints of a pair of a config."""
        setting = self.open_settings[name]
        pair = draw_pair(setting, number)
        params_a, params_b = (get_network(setting, pair, role)[0] for role in ("model_a", "model_b"))
        kept = Path(self.runs_dir) / "figure_parts"
        return Case(setting, pair, params_a, params_b, setting.model.perm_spec, self.sizes, kept)

    def save(self, picture: Picture, panel: Panel) -> Panel:
        """Write a picture into the figure's folder."""
        save_figure(picture, self.folder / panel.file)
        self.console.print(f"figure {self.figure.name}: {panel.file}")
        return panel


def remember(
    folder: Path, name: str, settings: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
) -> tuple[str, dict[str, np.ndarray]]:
    """Arrays by name, read from disk if they were made under the same settings before, or made and kept.

    Returns:
        The key that names them, and the arrays.
    """
    text = json.dumps(settings, sort_keys=True)
    key = f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    path = folder / f"{key}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{key}.{os.getpid()}.npz")
        np.savez(part, allow_pickle=False, **{k: np.asarray(v) for k, v in make().items()})
        part.replace(path)
    with np.load(path, allow_pickle=False) as stored:
        return key, {name: stored[name] for name in stored.files}


def merge_case(case: Case, entry: Entry, console: Console, *, labelled: bool = False) -> Merged:
    """Merge a pair, or find the merge an earlier figure made.

    Args:
        case: the pair.
        entry: the method.
        console: says what is merged.
        labelled: learn from `case.labelled` instead of the unlabelled inputs.
    """
    options = dict(entry.options)
    epochs = case.sizes.paper_epochs if entry.method == PAPER else case.sizes.default_epochs
    if entry.method.startswith("autofusion"):
        options["epochs"] = epochs
    fields = case.setting.identity
    settings = {
        **{name: fields[name] for name in ("data", "model", "train", "data_sha256")}, "seed": case.pair.seed,
        "tasks": case.pair.tasks, "method": entry.method, "options": options, "labelled": labelled,
    }  # fmt: skip

    def make() -> dict[str, Any]:
        console.print(f"{case.setting.config.name}, seed {case.pair.seed}: merging by {entry.title}")
        batch = case.labelled if labelled else case.unlabelled
        result = af.merge(
            case.params_a, case.params_b, case.spec, batch, method=entry.method,
            key=jax.random.fold_in(jax.random.key(case.pair.seed), 100), **options,
        )  # fmt: skip
        arrays = {f"perm/{group}": perm for group, perm in result.perms.items()}
        arrays |= {f"soft/{group}": matrix for group, matrix in result.soft_perms.items()}
        for variant, params in (result.variants or {"": result.params}).items():
            arrays |= {f"params/{variant}/{path}": leaf for path, leaf in flatten_by_path(params).items()}
        return arrays

    key, arrays = remember(case.kept, entry.method, settings, make)
    return _read(key, arrays, case.params_a)


def _read(key: str, arrays: Mapping[str, np.ndarray], like: Params) -> Merged:
    parts: dict[str, dict[str, Array]] = {"perm": {}, "soft": {}}
    leaves: dict[str, dict[str, Array]] = {}
    for name, value in arrays.items():
        kind, rest = name.split("/", 1)
        if kind == "params":
            variant, path = rest.split("/", 1)
            leaves.setdefault(variant, {})[path] = jnp.asarray(value)
        else:
            parts[kind][rest] = jnp.asarray(value)
    variants = {variant: unflatten_like(like, by_path) for variant, by_path in leaves.items()}
    return Merged(key, parts["perm"], parts["soft"], variants)


def titled(entry: Entry, variant: str) -> str:
    """What a figure calls a variant of a merge."""
    return f"{entry.title}, {variant}" if variant else entry.title


def file_name(*parts: str) -> str:
    """A name for a picture, of letters, digits and underscores."""
    return "_".join(re.findall(r"[a-z0-9]+", "_".join(parts).lower())) + ".png"
