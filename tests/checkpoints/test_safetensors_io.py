"""Safetensors files against the format's own package; every kind of damage is one clear error."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from autofusion_jax.checkpoints.orbax_io import CheckpointError
from autofusion_jax.checkpoints.safetensors_io import (
    CHECKSUM,
    DTYPES,
    INDEX,
    open_safetensors,
    stored_order,
    write_safetensors,
)

LEAVES = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "h": np.arange(3, dtype=np.float16),
    "step": np.array(7, np.int64),
    "mask": np.array([True, False, True]),
    "none": np.zeros((0, 4), np.float32),
}


def save_sharded(folder, shards):
    folder.mkdir()
    for name, leaves in shards.items():
        save_file(leaves, folder / name)
    weight_map = {leaf: name for name, leaves in shards.items() for leaf in leaves}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def with_header(path, change):
    """Write the file again with another header over the same bytes."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text = json.dumps(change(json.loads(raw[8 : 8 + length]))).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def test_reads_what_the_package_writes(tmp_path):
    save_file(LEAVES, tmp_path / "n.safetensors", metadata={"format": "pt"})
    stored = open_safetensors(tmp_path / "n.safetensors")
    assert stored.metadata == {"format": "pt"} and set(stored.leaves) == set(LEAVES)
    for name, leaf in LEAVES.items():
        got = stored.leaves[name].read()
        assert got.dtype == leaf.dtype
        np.testing.assert_array_equal(got, leaf)
    part = np.empty(3, np.float32)
    stored.leaves["w"].read_into(part, 2)
    assert part.tolist() == [2, 3, 4]


def test_writes_what_the_package_reads(tmp_path):
    save_file(LEAVES, tmp_path / "n.safetensors")
    stored = open_safetensors(tmp_path / "n.safetensors")
    out = tmp_path / "folder" / "out.safetensors"
    with write_safetensors(out, stored.leaves, {"format": "pt"}) as append:
        for name in stored_order(stored.leaves):
            append(LEAVES[name])
    read = load_file(out)
    assert set(read) == set(LEAVES)
    for name, leaf in LEAVES.items():
        assert read[name].dtype == leaf.dtype
        np.testing.assert_array_equal(read[name], leaf)
    with safe_open(out, "numpy") as file:
        assert {name: file.metadata()[name] for name in {*file.metadata()} - {*CHECKSUM}} == {"format": "pt"}
    for leaf in open_safetensors(out).leaves.values():
        assert leaf.start % leaf.dtype.itemsize == 0


def test_every_dtype(tmp_path):
    """bfloat16 too, which numpy itself has not."""
    leaves = {name: np.ones(3, dtype) for name, dtype in DTYPES.items()}
    save_file({"x": np.ones(1)}, tmp_path / "n.safetensors")
    entries = {name: open_safetensors(tmp_path / "n.safetensors").leaves["x"] for name in leaves}
    entries = {name: entry._replace(dtype=DTYPES[name], shape=(3,)) for name, entry in entries.items()}
    with write_safetensors(tmp_path / "all.safetensors", entries, {}) as append:
        for name in stored_order(entries):
            append(leaves[name])
    with safe_open(tmp_path / "all.safetensors", "numpy") as file:
        assert {name: file.get_slice(name).get_dtype() for name in leaves} == {name: name for name in leaves}
    stored = open_safetensors(tmp_path / "all.safetensors")
    assert all((stored.leaves[name].read() == 1).all() for name in leaves)
    assert stored.leaves["BF16"].dtype == ml_dtypes.bfloat16


def test_shards_by_their_index(tmp_path):
    shards = {"one.safetensors": {"a": np.ones(2)}, "two.safetensors": {"b": np.zeros(3)}}
    save_sharded(tmp_path / "n", shards)
    stored = open_safetensors(tmp_path / "n")
    assert stored.leaves["a"].read().tolist() == [1, 1] and stored.leaves["b"].read().tolist() == [0, 0, 0]


def test_a_folder_with_one_file(tmp_path):
    save_file(LEAVES, tmp_path / "model.safetensors")
    assert open_safetensors(tmp_path).leaves["w"].shape == (2, 3)


def absurd_length(path):
    path.write_bytes((1 << 60).to_bytes(8, "little") + path.read_bytes()[8:])


def long_header(path):
    path.write_bytes((len(path.read_bytes()) + 1).to_bytes(8, "little") + path.read_bytes()[8:])


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"..."),
    "empty": lambda path: path.write_bytes(b""),
    "absurd length": absurd_length,
    "header past the end": long_header,
    "no JSON": lambda path: path.write_bytes(path.read_bytes()[:8] + b"x" + path.read_bytes()[9:]),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(LEAVES)),
    "absurd shape": lambda path: with_header(path, lambda h: {**h, "w": {**h["w"], "shape": [1 << 40] * 3}}),
    "overlap": lambda path: with_header(path, lambda h: {**h, "w": {**h["w"], "data_offsets": [0, 24]}}),
    "unknown dtype": lambda path: with_header(path, lambda h: {**h, "w": {**h["w"], "dtype": "F99"}}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(tmp_path, damage):
    path = tmp_path / "n.safetensors"
    save_file(LEAVES, path)
    DAMAGE[damage](path)
    with pytest.raises(CheckpointError, match=r"n.safetensors is no whole safetensors file: .*cut off\?"):
        open_safetensors(path)


def test_a_dtype_that_is_not_merged(tmp_path):
    save_file({"w": np.ones(2, ml_dtypes.float8_e5m2)}, tmp_path / "n.safetensors")
    with_header(tmp_path / "n.safetensors", lambda h: {**h, "w": {**h["w"], "dtype": "F8_E8M0"}})
    with pytest.raises(CheckpointError, match=r"n.safetensors\['w'\] has dtype F8_E8M0; known: F64, F32"):
        open_safetensors(tmp_path / "n.safetensors")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*none.safetensors"):
        open_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"must hold model.safetensors or model.safetensors.index.json"
    ):
        open_safetensors(tmp_path)
    save_sharded(tmp_path / "n", {"one.safetensors": {"a": np.ones(2)}, "two.safetensors": {"b": np.ones(2)}})
    (tmp_path / "n" / "two.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="there is no file .*two.safetensors"):
        open_safetensors(tmp_path / "n")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"open_safetensors: .*index.json.* must be"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "sub/one.safetensors"])
def test_an_index_that_leads_elsewhere(tmp_path, shard):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="weight_map.a must be the name of a file in this folder"):
        open_safetensors(tmp_path)


def test_an_index_that_names_a_leaf_that_is_not_there(tmp_path):
    save_sharded(tmp_path / "n", {"one.safetensors": {"a": np.ones(2)}})
    (tmp_path / "n" / INDEX).write_text(json.dumps({"weight_map": {"b": "one.safetensors"}}))
    with pytest.raises(CheckpointError, match="one.safetensors must hold 'b'"):
        open_safetensors(tmp_path / "n")


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    save_file(LEAVES, tmp_path / "n.safetensors")
    stored = open_safetensors(tmp_path / "n.safetensors")
    (tmp_path / "n.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="became shorter"):
        stored.leaves["w"].read()


def test_nothing_half_written(tmp_path):
    save_file({"w": np.ones(4, np.float32)}, tmp_path / "n.safetensors")
    leaves = open_safetensors(tmp_path / "n.safetensors").leaves
    before = (tmp_path / "n.safetensors").read_bytes()

    def write_half(error=None):
        with write_safetensors(tmp_path / "n.safetensors", leaves, {}) as append:
            append(np.ones(2, np.float32))
            if error is not None:
                raise error

    with pytest.raises(RuntimeError, match="stopped"):
        write_half(RuntimeError("stopped"))
    with pytest.raises(ValueError, match="the leaves must have 16 bytes; got 8"):
        write_half()
    assert (tmp_path / "n.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["n.safetensors"]
