"""Merging from files to a file gives what merging in memory gives, or one clear error and no file."""

import itertools
import json
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import autofusion_jax as af
from autofusion_jax.checkpoints.orbax_io import CheckpointError
from autofusion_jax.checkpoints.safetensors_io import INDEX, open_safetensors
from autofusion_jax.merging.files import merge_files
from autofusion_jax.merging.streaming import can_stream
from tests.merging.fusionbench import expect_oracle, fusionbench_networks
from tests.merging.test_contracts import BUILT, OF_BLOCKS, RUN_NETWORKS

FILES = sys.modules[merge_files.__module__]
IN_PARTS = sorted(
    name
    for name, method in BUILT.items()
    if method.assumes_aligned and not method.uses_key and name not in RUN_NETWORKS | OF_BLOCKS
)
"""Methods that leave units in their places, and neither run the networks nor draw over all leaves."""

VARIANTS = [
    *((name, {}) for name in IN_PARTS),
    ("ties", {"variant": "fusionbench", "merge": "sum"}),
    ("ties", {"variant": "mergekit", "weights": (0.3, 0.4, 0.5)}),
    ("breadcrumbs", {"merge": "ties", "density": 0.5}),
    ("weighted_average", {"weights": (1.0, 2.0, 5.0)}),
]


def network(seed):
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.standard_normal((7, 5)).astype(np.float32),
        "a.bias": rng.standard_normal(7).astype(np.float32),
        "b.weight": rng.standard_normal((3, 7)).astype(np.float32),
        "half": rng.standard_normal((4, 3)).astype(ml_dtypes.bfloat16),
        "half.f16": rng.standard_normal((4, 3)).astype(np.float16),
        "quarter": rng.standard_normal((4, 3)).astype(ml_dtypes.float8_e4m3fn),
        "quarter.e5m2": rng.standard_normal(9).astype(ml_dtypes.float8_e5m2),
        "complex": (rng.standard_normal((2, 3)) + 1j * rng.standard_normal((2, 3))).astype(np.complex64),
        "none": np.zeros((0, 3), np.float32),
        "scalar": np.array(rng.standard_normal(), np.float32),
        "step": np.array(seed + (1 << 40)),
    }


@pytest.fixture
def folder(tmp_path):
    """Four files, `0` the base, and the networks in them."""
    for seed in range(4):
        save(network(seed), tmp_path / str(seed))
    return tmp_path


def save(leaves, path):
    save_file(leaves, path, metadata={"format": "pt"})


def merged(folder, method="average", **options):
    paths = [folder / str(seed) for seed in (1, 2, 3)]
    return af.merge_files(paths, folder / "out", base=folder / "0", method=method, overwrite=True, **options)


def read(path):
    return {name: leaf.read() for name, leaf in open_safetensors(path).leaves.items()}


@pytest.mark.parametrize(("method", "options"), VARIANTS)
def test_as_in_memory(folder, method, options, monkeypatch):
    """Whatever the size of the blocks, and wherever leaves end in them."""
    base, *models = (
        {name: jnp.asarray(leaf) for name, leaf in network(seed).items() if name not in ("step", "none")}
        for seed in range(4)
    )
    expected = af.merge_many(models, None, None, base=base, method=method, **options).params
    for block in (4, 1 << 18):
        monkeypatch.setattr(FILES, "BLOCK", block)
        merged(folder, method, **options)
        expect_same(folder, expected)


def expect_same(folder, expected):
    got = read(folder / "out")
    assert set(got) == {*expected, "step", "none"} and got["step"] == (1 << 40) + 1
    for name, leaf in expected.items():
        assert got[name].dtype == leaf.dtype and got[name].shape == leaf.shape
        np.testing.assert_array_equal(got[name], leaf, err_msg=name)
    assert open_safetensors(folder / "out").metadata == {"format": "pt"}


@pytest.mark.parametrize(
    ("method", "options", "name"),
    [
        ("average", {}, "fb_simple_average"),
        ("task_arithmetic", {"scale": 0.3}, "fb_task_arithmetic_0.3"),
        ("ties", {"scale": 0.3, "variant": "fusionbench"}, "fb_ties_thr20_lam0.3_mean"),
        ("ties", {"weights": (0.3, 0.4, 0.5), "variant": "mergekit"}, "mk_ties_d0.2_norm1"),
    ],
)
def test_oracles(tmp_path, method, options, name):
    base, models = fusionbench_networks()
    for number, params in enumerate([base, *models]):
        save({leaf: np.asarray(v) for leaf, v in params.items()}, tmp_path / str(number))
    expect_oracle(name, load_file(merged(tmp_path, method, **options)))


def test_shards_and_one_file_give_the_same(folder):
    leaves = list(network(2).items())
    (folder / "sharded").mkdir()
    save(dict(leaves[:3]), folder / "sharded" / "1.safetensors")
    save(dict(leaves[3:]), folder / "sharded" / "2.safetensors")
    weight_map = {name: f"{1 + (i > 2)}.safetensors" for i, (name, _) in enumerate(leaves)}
    (folder / "sharded" / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    whole = af.merge_files([folder / "1", folder / "2"], folder / "whole")
    shards = af.merge_files([folder / "1", folder / "sharded"], folder / "shards")
    assert whole.read_bytes() == shards.read_bytes()


def test_a_file_is_replaced_only_where_that_is_asked_for(folder):
    paths = [folder / "1", folder / "2"]
    expected, before = af.merge_files(paths, folder / "out").read_bytes(), (folder / "1").read_bytes()
    for taken in ("1", "out"):
        with pytest.raises(
            FileExistsError, match=rf"out must be a new file; .*{taken} is there. Give overwrite"
        ):
            af.merge_files(paths, folder / taken)
    assert (folder / "1").read_bytes() == before
    af.merge_files(paths, folder / "1", overwrite=True)
    assert (folder / "1").read_bytes() == expected


def test_out_is_no_folder(folder):
    (folder / "made").mkdir()
    with pytest.raises(ValueError, match=r"out must be a file; got the folder .*made. Name a file in it"):
        af.merge_files([folder / "1", folder / "2"], folder / "made")


def test_progress_of_files_is_logged(folder, caplog):
    with caplog.at_level("DEBUG", logger="autofusion_jax"):
        merged(folder, "karcher", progress=True)
    said = [record.getMessage() for record in caplog.records if record.name == "autofusion_jax"]
    said = [line for line in said if "no checksum" not in line]
    assert said[0] == "karcher, 3 files: started" and said[1].startswith("karcher, 3 files: 1 of ")


@pytest.mark.parametrize(
    "method",
    ["average", pytest.param("ties", marks=pytest.mark.slow)],  # entry by entry; with thresholds before
)
def test_less_memory_than_one_network(tmp_path, method, monkeypatch):
    """Blocks only: what Python and numpy take at most is a fraction of one network of 8 MB."""
    monkeypatch.setattr(FILES, "BLOCK", 1 << 12)
    rng = np.random.default_rng(0)
    for number in range(4):
        save({"w": rng.standard_normal((1000, 2000)).astype(np.float32)}, tmp_path / str(number))
    merged(tmp_path, method)  # compiles
    tracemalloc.start()
    merged(tmp_path, method)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


def test_64_bits(tmp_path):
    for number in range(4):
        save({"w": np.array([number, 1e-12])}, tmp_path / str(number))
    for allowed in (False, True):
        with jax.enable_x64(allowed):
            assert load_file(merged(tmp_path))["w"].tolist() == pytest.approx([2.0, 1e-12], rel=1e-14)


def expect_no_file(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("method", ["autofusion", "dare", "regmean", "simple_ensemble"])
def test_methods_that_need_whole_networks(folder, method):
    message = (
        f"merge_files: method must be one that .* got {method}. These do: average, breadcrumbs, .*merge_many"
    )
    with pytest.raises(ValueError, match=message):
        merged(folder, method)
    expect_no_file(folder)


def test_all_others_are_in_parts():
    for name in af.list_methods():
        method = af.methods.__dict__[name]()
        assert can_stream(method) == (name in IN_PARTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"a.bias": np.ones(8, np.float32)},
            r"2\['a.bias'\] must be float32\[7\] as in .*0; got float32\[8\]",
        ),
        ({"a.bias": np.ones(7, np.float16)}, r"2\['a.bias'\] must be float32\[7\] .* got float16\[7\]"),
        ({"more": np.ones(1, np.float32)}, r"2\['more'\] must be nothing as in .*; got float32\[1\]"),
        ({"b.weight": None}, r"2\['b.weight'\] must be float32\[3, 7\] .* got nothing"),
        ({"half": np.full((4, 3), np.nan, ml_dtypes.bfloat16)}, r"2\['half'\] must be finite; got 12 NaN"),
        ({"a.bias": np.full(7, np.inf, np.float32)}, r"2\['a.bias'\] must be finite; got 7 NaN or infinite"),
    ],
)
@pytest.mark.parametrize("method", ["average", "ties", "slerp"])
def test_networks_that_do_not_fit(folder, change, message, method):
    leaves = {name: leaf for name, leaf in {**network(2), **change}.items() if leaf is not None}
    save(leaves, folder / "2")
    with pytest.raises(ValueError, match=f"merge_files: .*{message}"):
        merged(folder, method)
    expect_no_file(folder)


def test_damaged_and_missing_files(folder):
    (folder / "2").write_bytes((folder / "2").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="2 is no whole safetensors file"):
        merged(folder)
    expect_no_file(folder)
    (folder / "2").unlink()
    with pytest.raises(FileNotFoundError, match="there is no file .*2"):
        merged(folder)
    assert not (folder / "out").exists()


def test_a_failed_merge_keeps_the_old_file(folder):
    (folder / "3").write_bytes(b"old")
    with pytest.raises(ValueError, match="base must be the parameters"):
        af.merge_files([folder / "1", folder / "2"], folder / "3", method="task_arithmetic", overwrite=True)
    assert (folder / "3").read_bytes() == b"old"
    expect_no_file(folder)


def test_two_networks_or_more(folder):
    with pytest.raises(ValueError, match="paths must be two or more files or folders; got 1"):
        af.merge_files([folder / "1"], folder / "out")
    with pytest.raises(ValueError, match="unknown option 'scal'"):
        merged(folder, "ties", scal=3)
    with pytest.raises(ValueError, match="weights must be 3 numbers"):
        merged(folder, "ties", weights=(1.0, 2.0))
    expect_no_file(folder)


def test_a_list_of_paths_in_one_dtype(folder):
    """Any iterable of them; one path alone is none, and nothing is converted."""
    paths = [folder / "1", folder / "2"]
    expected = af.merge_files(paths, folder / "listed").read_bytes()
    assert af.merge_files((path for path in paths), folder / "drawn").read_bytes() == expected
    with pytest.raises(ValueError, match=r"merge_files: paths must be a list of paths; got '?.*1"):
        af.merge_files(str(folder / "1"), folder / "out")
    with pytest.raises(ValueError, match=r"merge_files: .*got promote.*merge_many\(promote=True\)"):
        af.merge_files(paths, folder / "out", promote=True)


def test_the_place_is_checked_before_the_merge(folder, monkeypatch):
    paths = [folder / "1", folder / "2"]
    monkeypatch.setattr(FILES, "_merged", None)  # whatever comes to it fails otherwise
    with pytest.raises(ValueError, match="the name of out must be of 240 bytes or fewer; got 250"):
        af.merge_files(paths, folder / ("n" * 250))
    with pytest.raises(ValueError, match="out must be in a folder; got the file .*1 in its path"):
        af.merge_files(paths, folder / "1" / "out")
    monkeypatch.setattr(FILES.shutil, "disk_usage", lambda _: FILES.shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(OSError, match=r"out needs [\d,]+ bytes; 10 are free"):
        af.merge_files(paths, folder / "made" / "out")
    monkeypatch.setattr(FILES.os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="out must be in a folder that can be written"):
        af.merge_files(paths, folder / "out")
    expect_no_file(folder)


def test_a_link_is_followed(folder):
    (folder / "link").symlink_to(folder / "target")
    af.merge_files([folder / "1", folder / "2"], folder / "link")
    assert (folder / "link").is_symlink()
    assert (folder / "target").read_bytes() == (folder / "link").read_bytes()


def test_a_result_that_does_not_fit_is_named(tmp_path):
    save({"w": np.zeros(3, np.float16), "v": np.zeros(2, np.float16)}, tmp_path / "0")
    for number in (1, 2, 3):
        save({"w": np.full(3, 4e4, np.float16), "v": np.ones(2, np.float16)}, tmp_path / str(number))
    with pytest.raises(
        ValueError, match="task_arithmetic: the merged 'w' must be finite; got 3 numbers of 3 that"
    ):
        merged(tmp_path, "task_arithmetic", scale=1.0)
    expect_no_file(tmp_path)


def test_leaves_past_the_32_bits_of_an_index(tmp_path):
    """A file with a hole: its last entries are found, in blocks that cover all of it once."""
    num = 2**31 + 5
    header = json.dumps({"w": {"dtype": "F8_E5M2", "shape": [num], "data_offsets": [0, num]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(tmp_path / "large", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num)
        file.seek(-2, 2)
        file.write(np.array([1.5, -2.0], ml_dtypes.float8_e5m2).tobytes())
    leaf = open_safetensors(tmp_path / "large").leaves["w"]
    assert leaf.size == num
    parts = list(FILES._parts({"w": leaf}, "entry"))
    ends = [(part[0].first, part[0].first + part[0].shape[0]) for part in parts]
    assert ends[0][0] == 0 and ends[-1][1] == num and all(a[1] == b[0] for a, b in itertools.pairwise(ends))
    last = np.empty(3, leaf.dtype)
    leaf.read_into(last, num - 3)
    assert last.astype(np.float32).tolist() == [0.0, 1.5, -2.0]
