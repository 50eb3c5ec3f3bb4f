"""All tables that can be reproduced: sound, stored as their records say, and run at a tiny size."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from autofusion_jax.evaluation.results import read_results, summarise
from autofusion_jax.merging.registry import get_method
from autofusion_jax.models.layers import class_vectors
from autofusion_jax.models.registry import build_model
from configs.models import model_config
from data.registry import DATASETS
from data.text import text_arrays
from fields import check_fields
from pipeline.reference_rows import REFERENCE_ROWS
from pipeline.rows import row_identity
from reporting.published import comparison_csv
from tables import TABLES, find_panel
from tables.fusion_heads import HeadsConfig
from tables.fusion_source import FusionConfig
from tables.fusion_text import TextConfig
from tables.mudsc_s1 import TASKS, ClipModel, class_labels
from tables.report import panel_lines, panel_text, write_panel, write_table
from tables.runner import run_rows
from tables.schema import TableConfig
from tables.settings import override
from tables.stored import StoredPanel, panel_identity, read_panel

ROOT = Path(__file__).parents[2]


def quiet():
    return Console(file=io.StringIO(), width=120)


def test_prime_and_odd():
    assert class_labels(np.arange(10)).tolist() == [[0, 0, 1, 1, 0, 1, 0, 1, 0, 0], [2, 3] * 5]


def test_alike_class_vectors_by_hand():
    """Class vectors with a common part, written out: the same logits but for one number for each input."""
    plain = build_model(
        "mlp", (4, 4), num_classes=4, widths=(8,), use_bias=False, head="cosine", embed_dim=16
    )
    params, x = plain.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (5, 4, 4))
    weights = params["params"]["head"]["projection"]["kernel"]
    embedding = np.asarray(plain.module.apply(params, x, method="features") @ weights, np.float64)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    own = class_vectors(4, 16)  # [16, 4]
    common = np.linalg.svd(own)[0][:, -1:]  # orthogonal to all of them
    logits = 100 * embedding @ (np.sqrt(0.9) * common + np.sqrt(0.1) * own)
    for task in TASKS:
        model = ClipModel(plain.module, plain.input_shape, 0.1**0.5, task)
        difference = np.asarray(model.apply(params, x)) - logits[:, list(task)]
        np.testing.assert_allclose(difference, np.repeat(difference[:, :1], 2, axis=1), atol=1e-3)


PANELS = [(table, panel) for table in TABLES.values() for panel in table.panels]


def test_every_panel_is_sound():
    for table, panel in PANELS:
        label = table.label(panel)
        assert TABLES[table.name] is table and find_panel(table.name, panel.name) == (table, panel)
        names = [row.name for row in panel.rows]
        assert len(set(names)) == len(names), label
        assert {*panel.curves, *panel.landscape, *panel.fast} <= set(names), label
        for row in panel.rows:
            assert set(row.published) <= set(panel.metrics), label
            assert row.real_labels is None or 0 < row.real_labels <= 1
            if row.method is None:
                assert row.name in REFERENCE_ROWS, label
            else:
                get_method(row.method, **row.options)
        config = panel.get_config()
        check_fields("reproduce", config)
        assert panel.get_config() is not config and panel.caption(config, {})


def test_sweeps_name_rows_that_are_there():
    for table in TABLES.values():
        rows = {panel.name: {row.name for row in panel.rows} for panel in table.panels}
        for sweep in table.sweeps:
            for point in (*(p for points in sweep.series.values() for p in points), *sweep.levels.values()):
                assert point.entry in rows[point.panel]
        assert set(table.fast) <= set(rows) and len(rows) == len(table.panels)


def stored_panels():
    """The folders of stored tables with what their settings say."""
    found = {
        path.parent: json.loads(path.read_text()) for path in (ROOT / "docs" / "results").rglob("config.json")
    }
    return [(folder, settings) for folder, settings in sorted(found.items()) if "table" in settings]


def test_stored_tables_come_from_their_results():
    """Text and numbers, in the settings that the table and its methods have today but for pairs and seeds."""
    for folder, settings in stored_panels():
        table, panel = find_panel(settings["table"], settings.get("panel", ""))
        stored, config = settings["config"], panel.get_config()
        config.pairs, config.seed = stored["pairs"], stored["seed"]
        stored.pop("data_sha256")
        assert panel_identity(config) == stored, folder
        results = read_results(folder / "results.jsonl")
        rows = {row.name: row_identity(row, config) for row in panel.rows}
        for name in {result.method for result in results}:
            assert settings["rows"][name] == rows[name], folder
        assert (folder / "results.md").read_text().startswith(panel_text(table, panel, config, results)), (
            folder
        )
        csv = comparison_csv({panel.name: panel_lines(panel, results)}, panel.metrics)
        assert (folder / "results.csv").read_text() == csv, folder
        assert {row.num_pairs for row in summarise(results)} == {stored["pairs"]}


DIGITS_COPIES = ("digits", "digits_b", "digits_c", "digits_d", "digits_e")
TINY = {
    "resnet": ("model.widths=(4, 8, 8)", "model.depths=(1, 1, 1)"),
    "vit": ("model.patch=4", "model.dim=8", "model.depth=1", "model.num_heads=2", "model.mlp_dim=8",
            "model.embed_dim=8", "pretrain.epochs=1", "num_steps=2", "test_images=100"),
    "gpt2": ("model.dim=8", "model.depth=1", "model.num_heads=2", "model.mlp_dim=8", "tokens=16",
             "test_inputs=50"),
    "t5": ("model.dim=8", "model.depth=1", "model.num_heads=2", "model.head_dim=4", "model.mlp_dim=8",
           "tokens=16", "test_inputs=50"),
}  # fmt: skip
"""Settings by the kind of network."""


def tiny(config):
    """The settings of a panel on digits, with a tiny network; a VGG becomes an MLP."""
    config.make_fast()
    for setting in (*TINY.get(config.model.name, ()), "data.num_train=400", "data.num_validation=100",
                    "data.num_unlabelled=100", "train.epochs=1", "train.augment=False",
                    "merge.epochs=1"):  # fmt: skip
        override(config, setting)
    if config.model.name == "vgg" and type(config) is TableConfig:
        config.model = model_config("mlp", widths=(8,))
    elif config.model.name not in TINY:
        config.model.widths = (8,)
    if isinstance(config, TextConfig):
        return config
    names = dict(zip(config.data.name.split("+"), DIGITS_COPIES))
    config.data.name = "+".join(names.values())
    if isinstance(config, FusionConfig):
        config.seen, config.unseen = (
            tuple(map(names.__getitem__, part)) for part in (config.seen, config.unseen)
        )
    if isinstance(config, HeadsConfig) and config.start_data:
        config.start_data = DIGITS_COPIES[1]
    return config


def small_text(name):
    """A text data set of this name, whose passages tell their class and their number."""
    info = DATASETS[name]
    classes = {
        str(k): [(f"{i}", f"{name} {k} says {i} to all") for i in range(40)] for k in range(info.num_classes)
    }
    return dataclasses.replace(info, files=(), read_folder=lambda folder: text_arrays(classes, most=40))


def tiny_config_of(panel):
    return lambda: tiny(panel.get_config())


SLOW_ROWS = {"activation_align", "mudsc_align", "weight_zip", "mudsc_zip", "autofusion", "rebasin"}
"""Rows of the ResNet that take long to compile, and that other panels have."""
FUSION_ROWS = {
    "fusion": ("simple_ensemble", "adamerging"), "fusion_aligned": ("average_weight_matching",),
    "fusion_corrupted": ("task_arithmetic",), "fusion_unseen": ("task_arithmetic",),
}  # fmt: skip
"""Rows of FusionBench's tables that stand for all: methods are tested elsewhere."""


def rows_to_run():
    """For each table its first panel, with the references and those rows of a kind that no table before has.

    Rows that differ in the values of options alone are of one kind; of a search the first setting is tried.
    """
    covered, chosen = set(), []
    for table in reversed(TABLES.values()):
        panel, entries = table.panels[0], []
        for entry in panel.rows:
            kind = (entry.method, bool(entry.members), entry.real_labels is None, entry.align)
            slow = table.name == "cifar5_resnet20" and entry.name in SLOW_ROWS
            slow |= entry.name not in FUSION_ROWS.get(table.name, (entry.name,))
            if entry.method in (None, "interpolation") or (kind not in covered and not slow):
                first = {option: values[:1] for option, values in entry.search.items()}
                entries.append(dataclasses.replace(entry, search=first))
                covered.add(kind)
        panel = dataclasses.replace(
            panel, rows=tuple(entries), curves=(), landscape=(), get_config=tiny_config_of(panel)
        )
        chosen.append((dataclasses.replace(table, panels=(panel,)), panel))
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize(("table", "panel"), rows_to_run(), ids=reversed(TABLES))
def test_every_table_at_a_tiny_size(table, panel, tmp_path, monkeypatch):
    for name in DIGITS_COPIES:
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS["digits"], name=name))
    for name in ("man_language", "man_section", "fortunes"):
        monkeypatch.setitem(DATASETS, name, small_text(name))
    config, console = panel.get_config(), quiet()
    names = [entry.name for entry in panel.rows]
    config.runs_dir, config.out_dir = str(tmp_path / "runs"), str(tmp_path / "out")
    run = panel.open_run(config, console)
    records = run_rows(table, panel, config, run, console, names)
    assert list(dict.fromkeys(record.method for record in records)) == names
    done = StoredPanel(panel, config, run.notes, records)
    write_panel(table, done, run, console)
    files = write_table(table, config.out_dir)
    assert {"results.md", "results.csv"} <= set(files)
    stored = read_panel(panel, config.out_dir)
    assert stored.records == records and stored.notes == run.notes
    assert panel_identity(stored.config) == panel_identity(config)
