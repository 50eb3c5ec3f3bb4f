"""Recurrent cells and layers inside of loops."""

import flax.linen as nn
import haiku as hk

from tests.symmetry.zoo.case import Case, join, of_module
from tests.symmetry.zoo.frameworks import TOKENS, from_haiku
from tests.symmetry.zoo.sequence import ALL, exchange, factors, on
from tests.symmetry.zoo.vision_transformers import MULTI, Block, multi_head_moves


def hk_lstm(x):
    core = hk.LSTM(6, name="lstm")
    return hk.Linear(3, name="head")(hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)[0])


class Scanned(nn.Module):
    """Three blocks as one `nn.scan` over leaves stacked on axis 0, each rematerialised."""

    @nn.compact
    def __call__(self, x):
        def step(block, h, _):
            return block(h), None

        axes, rngs = {"params": 0}, {"params": True}
        lifted = nn.scan(nn.remat(step), variable_axes=axes, split_rngs=rngs, length=3)
        h, _ = lifted(Block(MULTI, name="layers"), nn.Dense(8, name="embed")(x), None)
        return nn.Dense(3, name="head")(h)


LSTM = [f"i{g}/kernel@1 h{g}/kernel@0 h{g}/kernel@1 h{g}/bias@0" for g in "ifgo"]
GRU = [f"i{g}/kernel@1 i{g}/bias@0 h{g}/kernel@0 h{g}/kernel@1" for g in "rzn"] + ["hn/bias@0"]
CELLS = {"lstm": (nn.LSTMCell, LSTM), "lstm_optimized": (nn.OptimizedLSTMCell, LSTM)}
CELLS |= {"gru": (nn.GRUCell, GRU)}
GATES = factors("lstm/linear/w@1 lstm/linear/b@0", (4, 6), (ALL, "unit"))
STACKED = (
    "embed/kernel@1 embed/bias@0 layers/ln_1/scale@1 layers/ln_1/bias@1 layers/attn/query/kernel@1 "
    "layers/attn/key/kernel@1 layers/attn/value/kernel@1 layers/attn/out/kernel@3 layers/attn/out/bias@1 "
    "layers/ln_2/scale@1 layers/ln_2/bias@1 layers/up/kernel@1 layers/down/kernel@2 layers/down/bias@1 "
    "head/kernel@0"
)

CASES = {
    **{
        name: Case(
            of_module(nn.Sequential([nn.RNN(cell(6)), nn.Dense(3)]), TOKENS),
            (6,),
            "One hidden state, tied to every gate (and to the LSTM's cell state) and over time by the loop.",
            moves=(
                join(on(6, " ".join(places), "params/layers_0/cell/"), on(6, "params/layers_1/kernel@0")),
            ),
        )
        for name, (cell, places) in CELLS.items()
    },
    "lstm_fused": Case(
        from_haiku(hk_lstm, TOKENS),
        (6,),
        "Haiku's kernel [inputs + hidden, 4 gates x hidden] carries the hidden state in its last six rows, "
        "and in its columns once per gate.",
        moves=(
            join(
                exchange(factors("lstm/linear/w@0", (9,), ("unit",)), {"unit": 3}, {"unit": 8}, "params/"),
                exchange(GATES, {"unit": 0}, {"unit": 5}, "params/"),
                on(6, "params/head/w@0"),
            ),
        ),
    ),
    "scan_over_layers": Case(
        of_module(Scanned(), TOKENS),
        (2, 3, 3, 8, 16),
        "The carry is one stream. Heads and hidden units of each layer are its own: nested in the layer "
        "axis, which is fixed; query-key and value units are nested in layers and heads.",
        (2, 3, 3, 16),
        (
            *multi_head_moves("params/layers/attn/", lead=(3,)),
            on(16, "up/kernel@2 up/bias@1 down/kernel@1", "params/layers/"),
            on(8, STACKED, "params/"),
        ),
    ),
}
