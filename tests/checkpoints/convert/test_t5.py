"""T5's own decoding and buckets against transformers' (record.py); what its configs may say."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import autofusion_jax as af
from autofusion_jax.checkpoints.safetensors_io import SINGLE
from autofusion_jax.models.t5 import END, PAD, greedy_decode, relative_buckets
from tests.checkpoints.convert.test_bad_folders import CONFIG, change, edit
from tests.checkpoints.convert.test_pretrained import INTEROP


def io(name):
    with np.load(INTEROP / name / "io.npz") as stored:
        return dict(stored)


@pytest.fixture
def t5(tmp_path):
    return shutil.copytree(INTEROP / "t5", tmp_path / "t5")


@pytest.mark.parametrize("name", ["t5", "t5_tied"])
@pytest.mark.slow
def test_greedy_decoding_token_by_token(name):
    stored, loaded = io(name), af.load_pretrained(INTEROP / name)
    written = stored["written"]
    source = stored["input_ids"].astype(np.int32)
    assert (source == PAD).any() and len(np.unique(written)) > 1
    found = greedy_decode(loaded.model.module, loaded.params, source, max_len=written.shape[1])
    np.testing.assert_array_equal(found, written)


def test_decoding_ends_and_is_padded():
    loaded, source = af.load_pretrained(INTEROP / "t5"), io("t5")["input_ids"].astype(np.int32)
    written = io("t5")["written"]
    row, place = np.argwhere((written > END) & (np.arange(written.shape[1]) > 0))[0]
    swap = np.arange(50)
    swap[[END, written[row, place]]] = written[row, place], END  # the head now calls that token the end
    params = jax.tree.map(lambda leaf: leaf, loaded.params)
    params["params"]["head"]["kernel"] = params["params"]["head"]["kernel"][:, swap]
    params["params"]["shared"]["embedding"] = params["params"]["shared"]["embedding"][swap]
    found = np.asarray(greedy_decode(loaded.model.module, params, swap[source].astype(np.int32), max_len=8))
    ends = np.argmax(found[row] == END)
    assert found[row, ends] == END and (found[row, ends + 1 :] == PAD).all()


@pytest.mark.parametrize(("name", "both_ways"), [("buckets", True), ("causal_buckets", False)])
def test_buckets_of_all_distances(name, both_ways):
    expected = io("t5")[name]  # of positions -300 to 300
    found = relative_buckets(301, 301, both_ways=both_ways)
    np.testing.assert_array_equal(found[300], expected[:301])
    np.testing.assert_array_equal(found[0], expected[300:])


def test_copies_of_the_embedding(t5):
    whole = af.load_pretrained(t5).params
    embedding = whole["params"]["shared"]["embedding"]
    copies = {f"{stack}.embed_tokens.weight": embedding for stack in ("encoder", "decoder")}
    change(t5 / SINGLE, **copies)
    jax.tree.map(np.testing.assert_array_equal, af.load_pretrained(t5).params, whole)
    change(t5 / SINGLE, **{"decoder.embed_tokens.weight": 2 * embedding})
    with pytest.raises(
        ValueError, match=r"'decoder.embed_tokens.weight'\] must be a copy of 'shared.weight'"
    ):
        af.load_pretrained(t5)


def test_a_tied_head_that_is_in_the_file_too(tmp_path):
    """An equal copy stays the embedding; another head is refused, unless the config says it is not tied."""
    folder = shutil.copytree(INTEROP / "t5_tied", tmp_path / "t5")
    whole = af.load_pretrained(folder)
    embedding = whole.params["params"]["shared"]["embedding"]
    change(folder / SINGLE, **{"lm_head.weight": embedding})
    loaded = af.load_pretrained(folder)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, whole.params)
    saved = af.save_pretrained(tmp_path / "saved", loaded)
    assert "lm_head.weight" not in load_file(saved / SINGLE)
    change(folder / SINGLE, **{"lm_head.weight": 2 * embedding})
    with pytest.raises(
        ValueError, match=r"t5\['lm_head.weight'\] must be equal to 'shared.weight', as tie_word"
    ):
        af.load_pretrained(folder)
    own = af.load_pretrained(folder, config={"tie_word_embeddings": False})
    np.testing.assert_array_equal(own.params["params"]["head"]["kernel"], 2 * embedding.T)
    saved = af.save_pretrained(tmp_path / "own", own)
    assert json.loads((saved / CONFIG).read_text())["tie_word_embeddings"] is False


def test_the_source_may_have_another_length():
    loaded = af.load_pretrained(INTEROP / "t5", config={"n_positions": 7})
    assert loaded.model.module.source_len == 7 and loaded.model.input_shape == (14,)
    assert loaded.config["n_positions"] == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj of .* must be 'gated-gelu'; got 'relu'"),
        ({"feed_forward_proj": None}, "feed_forward_proj of .* must be 'gated-gelu'; got 'relu'"),
        ({"pad_token_id": 3}, "pad_token_id of .* must be 0; got 3"),
        ({"d_model": "16"}, "d_model of .* must be a positive integer; got '16'"),
        ({"num_decoder_layers": 1}, r"num_decoder_layers of .* must be 2, as 'decoder.block.\*' says; got 1"),
        ({"num_layers": 2000}, r"num_layers of .* must be 1, as 'encoder.block.\*' says; got 2000"),
        ({"d_kv": 8}, "d_kv of .* must be 4, as 'encoder.*SelfAttention.q.weight' says; got 8"),
        ({"n_positions": 10**9}, "n_positions of .* must be an integer from 1 to 16384; got 1000000000"),
        ({"relative_attention_max_distance": 4}, "max_distance of .* must be an integer above half of"),
    ],
)
def test_configs_that_do_not_fit(t5, fields, message):
    edit(t5 / CONFIG, **fields)
    with pytest.raises(ValueError, match=message):
        af.load_pretrained(t5)
