"""Damaged files of networks: specs, checkpoints, safetensors, configs of transformers, adapters."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import autofusion_jax as af
from autofusion_jax.checkpoints.orbax_io import MANIFEST, META, SPEC
from autofusion_jax.checkpoints.safetensors_io import INDEX, SINGLE, open_safetensors
from autofusion_jax.symmetry.spec import PermSpec
from tests.conftest import MODELS, ORACLES, params_for
from tests.fuzz.harness import Tally, expect
from tests.fuzz.mutations import damaged_bytes, damaged_json

pytestmark = pytest.mark.slow

LEAVES = {
    "b": np.arange(4, dtype=np.float16),
    "step": np.array(7, np.int64),
    "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
}
INTEROP = ORACLES / "interop"


def same(tree, other):
    """Whether two pytrees are equal to the last bit."""
    leaves, others = jax.tree.leaves(tree), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(leaves, others)
    )


def test_specs(record_property):
    tally = Tally("specs as JSON", "PermSpec|spec")
    rng = np.random.default_rng(0)
    for model in MODELS.values():
        spec, params = model.perm_spec, params_for(model, 0)
        text = spec.to_json()

        def read(changed, spec=spec, params=params):
            found = PermSpec.from_json(changed)
            expect(PermSpec.from_json(found.to_json()) == found, "another spec when written and read again")
            expect(hash(found) is not None and len(str(found)) > 0 and len(repr(found)) > 0, "no text")
            # a spec that is another one must be refused by the network, or be one of it
            af.apply_perm(found, params, af.random_perms(found, jax.random.key(0)))

        for what, changed in damaged_json(json.loads(text), rng, 1500):
            tally.run(what, lambda c=changed: read(c), "PermSpec|spec|leaf|group|apply_perm")
        for what, raw in damaged_bytes(text.encode(), rng, 400):
            changed = raw.decode(errors="replace")
            tally.run(what, lambda c=changed: read(c), "PermSpec|spec|leaf|group|apply_perm")
    tally.done(record_property, least=3500)


def checkpoint(folder):
    model = MODELS["mlp"]
    return af.save(folder, params_for(model, 0), spec=model.perm_spec, meta={"step": 3}), params_for(model, 0)


def test_checkpoints(tmp_path, record_property):
    """Every byte of a checkpoint is covered by its manifest."""
    tally = Tally("checkpoint folders", r"ck\b|ck/")
    rng = np.random.default_rng(1)
    whole, params = checkpoint(tmp_path / "whole" / "ck")
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    folder = tmp_path / "ck"

    def read():
        found = af.load(folder)
        expect(same(found.params, params) and found.meta["step"] == 3, "another network")

    for name in files:
        raw = (whole / name).read_bytes()
        for what, changed in damaged_bytes(raw, rng, 20):
            shutil.copytree(whole, folder)
            (folder / name).write_bytes(changed)
            tally.run((name, what), read)
            shutil.rmtree(folder)
        for what in ("missing", "a folder", "twice"):
            shutil.copytree(whole, folder)
            if what != "twice":
                (folder / name).unlink()
            if what == "a folder":
                (folder / name).mkdir()
            if what == "twice":
                shutil.copy(folder / name, folder / f"{name.name}.copy")
            tally.run((name, what), read)
            shutil.rmtree(folder)
    tally.done(record_property, least=150)


def test_json_of_checkpoints(tmp_path, record_property):
    tally = Tally("manifest, metadata and spec of checkpoints", r"ck\b|ck/")
    rng = np.random.default_rng(2)
    whole, params = checkpoint(tmp_path / "ck")
    for name in (MANIFEST, META, SPEC):
        text = (whole / name).read_text()
        for what, changed in damaged_json(json.loads(text), rng, 120):
            (whole / name).write_text(changed)

            def read():
                found = af.load(whole)
                expect(same(found.params, params) and found.meta["step"] == 3, "another network")

            tally.run((name, what), read)
        (whole / name).write_text(text)
    tally.done(record_property, least=350)


def merged(paths, out, **more):
    """Merge two files; what is taken must give what the format's own package reads of them."""
    af.merge_files(paths, out, overwrite=True, **more)
    found, first, second = load_file(out), *map(load_file, paths)
    for name, leaf in first.items():
        if np.issubdtype(leaf.dtype, np.floating):
            expect(np.isfinite(found[name]).all(), f"{name} is not finite")
            wide = np.promote_types(leaf.dtype, np.float64)
            mean = ((leaf.astype(wide) + second[name].astype(wide)) / 2).astype(leaf.dtype)
            expect(np.allclose(found[name], mean, rtol=1e-3), f"{name} is no mean")
        else:
            expect(np.array_equal(found[name], leaf), f"{name} is not the first one's")


def test_foreign_safetensors(tmp_path, record_property):
    """Files of others carry no checksum: what the format's own package reads is merged, all else refused."""
    tally = Tally("merge_files: bytes of foreign files", "bad.safetensors|good.safetensors")
    rng = np.random.default_rng(3)
    good, bad, out = (tmp_path / f"{name}.safetensors" for name in ("good", "bad", "out"))
    save_file(LEAVES, good)
    for what, raw in damaged_bytes(good.read_bytes(), rng, 1000):
        bad.write_bytes(raw)
        tally.run(what, lambda: merged([good, bad], out))
        tally.run((what, "first"), lambda: merged([bad, good], out))
    tally.done(record_property, least=2000)


def test_own_safetensors(tmp_path, record_property):
    """A file that we wrote has a checksum: no change of it passes."""
    tally = Tally("merge_files: bytes of our own files", "bad.safetensors")
    rng = np.random.default_rng(4)
    good, bad, out = (tmp_path / f"{name}.safetensors" for name in ("good", "bad", "out"))
    save_file(LEAVES, good)
    ours = af.merge_files([good, good], tmp_path / "ours.safetensors")
    whole = ours.read_bytes()
    beside = [p for p in ours.parent.iterdir() if p.name.startswith("ours.") and p != ours]
    for path in beside:
        shutil.copy(path, path.with_name(path.name.replace("ours", "bad", 1)))

    def merge(raw):
        af.merge_files([good, bad], out, overwrite=True)
        # bytes after a changed space in the header are the same network
        expect(raw == whole or same(load_file(bad), load_file(ours)), "a change passed")

    for what, raw in damaged_bytes(whole, rng, 600):
        bad.write_bytes(raw)
        tally.run(what, lambda r=raw: merge(r))
    tally.done(record_property, least=600)


def test_headers(tmp_path, record_property):
    tally = Tally("headers of safetensors", "bad.safetensors")
    rng = np.random.default_rng(5)
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_file(LEAVES, good, metadata={"format": "pt"})
    raw = good.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]

    def read():
        for leaf in open_safetensors(bad).leaves.values():
            expect(leaf.read().shape == leaf.shape, "another shape")

    for what, text in damaged_json(header, rng, 3000):
        encoded = text.encode()
        bad.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
        tally.run(what, read)
    tally.done(record_property, least=3000)


def test_indices(tmp_path, record_property):
    tally = Tally("indices of shards", "net")
    rng = np.random.default_rng(6)
    folder = tmp_path / "net"
    folder.mkdir()
    leaves = {**LEAVES, "v": np.ones(2, np.float32)}
    shards = {name: f"{number % 2}.safetensors" for number, name in enumerate(leaves)}
    for shard in ("0.safetensors", "1.safetensors"):
        save_file({name: leaf for name, leaf in leaves.items() if shards[name] == shard}, folder / shard)

    def read():
        found = {name: leaf.read() for name, leaf in open_safetensors(folder).leaves.items()}
        expect(same(found, leaves), "another network")

    for what, text in damaged_json({"metadata": {}, "weight_map": shards}, rng, 500):
        (folder / INDEX).write_text(text)
        tally.run(what, read)
    tally.done(record_property, least=500)


FOLDERS = sorted(p.name for p in INTEROP.iterdir() if (p / "config.json").is_file())


@pytest.mark.parametrize("family", FOLDERS)
def test_configs_of_networks(family, tmp_path, record_property):
    """A config that is taken is of a network that has every tensor of the file, and runs."""
    tally = Tally(f"config.json of {family}", "config|tensor|must be|unknown")
    rng = np.random.default_rng(7)
    folder = shutil.copytree(INTEROP / family, tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    stored = sum(leaf.size for leaf in load_file(folder / SINGLE).values())

    def load():
        loaded = af.load_pretrained(folder)
        found = sum(np.size(leaf) for leaf in jax.tree.leaves(loaded.params))
        found += sum(buffer.size for buffer in loaded.buffers.values())
        expect(found >= stored, f"{stored - found} numbers of the file are lost")

    for what, text in damaged_json(config, rng, 300):
        (folder / "config.json").write_text(text)
        tally.run(what, load)
    tally.done(record_property, least=300)


def test_tensors_of_networks(tmp_path, record_property):
    tally = Tally("tensors of networks", "vit")
    rng = np.random.default_rng(8)
    folder = shutil.copytree(INTEROP / "vit", tmp_path / "vit")
    stored = load_file(folder / SINGLE)

    def load():
        loaded = af.load_pretrained(folder)
        expect(all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded.params)), "not finite")

    for name, leaf in stored.items():
        for what, other in {
            "nan": np.full_like(leaf, np.nan), "inf": np.full_like(leaf, np.inf), "bool": leaf.astype(bool),
            "int": leaf.astype(np.int32), "shape": leaf[..., None], "empty": leaf[:0], "scalar": leaf.sum(),
        }.items():  # fmt: skip
            save_file({**stored, name: np.asarray(other)}, folder / SINGLE)
            tally.run((name, what), load)
    for what, raw in damaged_bytes((INTEROP / "vit" / SINGLE).read_bytes(), rng, 100):
        (folder / SINGLE).write_bytes(raw)
        tally.run(what, load)
    tally.done(record_property, least=250)


def test_adapters(tmp_path, record_property):
    tally = Tally("adapters", "adapter|lora")
    rng = np.random.default_rng(9)
    folder = shutil.copytree(INTEROP / "vit", tmp_path / "vit")
    path = next(folder.rglob("adapter_config.json"))
    config = json.loads(path.read_text())

    def load():
        loaded = af.load_pretrained(folder, adapter=path.parent)
        expect(all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded.params)), "not finite")

    for what, text in damaged_json(config, rng, 300):
        path.write_text(text)
        tally.run(what, load)
    path.write_text(json.dumps(config))
    tensors = path.with_name("adapter_model.safetensors")
    for what, raw in damaged_bytes(tensors.read_bytes(), rng, 150):
        tensors.write_bytes(raw)
        tally.run(what, load)
    tally.done(record_property, least=450)
