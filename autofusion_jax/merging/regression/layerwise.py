"""Several networks and the one made of them, carried together from layer to layer."""

import math
from collections.abc import Iterator, Mapping, Sequence

import jax
from jax import Array

from autofusion_jax.merging.regression.least_squares import in_batches, numbers_per_input, samples_of
from autofusion_jax.merging.regression.linear_layers import LinearLayer
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.affine import AffineReader
from autofusion_jax.symmetry.moments import Moments, stream_moments
from autofusion_jax.symmetry.program import FlatProgram, flatten_program, given
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.trace import Path
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params

MAX_KEPT = 2**28
"""How many numbers are held between layers; where there are more, every layer starts from the inputs."""

MAX_SAMPLES = 2**17
"""How many samples of a layer are used; of more (places of feature maps), every third, fifth, ... is."""

Values = dict[int, Array]
"""Values of a program by their numbers."""


class Layerwise:
    """Evaluates N networks and a merged one on the same inputs, one linear layer after the other.

    Between two layers the values that are still needed are kept, for all inputs. So each network
    is evaluated once, however many layers there are.
    """

    def __init__(
        self, spec: PermSpec, models: Sequence[Params], parts: Sequence[Params], x: Array,
        layers: Sequence[LinearLayer],
    ) -> None:  # fmt: skip
        """Prepare to go through some layers.

        Args:
            spec: a spec that carries an `apply_fn`.
            models: parameters of N networks.
            parts: for each, the leaves with which its layers make their part of what the merged
                network should make. See `produced_parts`.
            x: inputs `[N, ...]`.
            layers: the layers, in the order of the program.
        """
        self._num_traced = len(x[:2])
        self._spec, self._models = spec, list(models)
        self._parts = [flatten_by_path(params) for params in parts]
        self._batches = in_batches(x, max(numbers_per_input(layers, self._num_traced), default=1))
        program = _traced(spec, models[0], self._batches[0])
        held = max((_size(program, live_values(program, layer.equation)) for layer in layers), default=0)
        per_input = held * (1 + len(models)) / len(self._batches[0])
        self._keeps = per_input * len(x) <= MAX_KEPT
        self._values = [
            [dict(zip(program.inputs, jax.tree.leaves(batch)))] * (1 + len(models)) for batch in self._batches
        ]

    def moments(self, layer: LinearLayer, merged: Mapping[str, Array]) -> Moments:
        """Moments of what the merged network reads at a layer, and of what it lacks there.

        That is what the networks' parts make, less what the merged network's own weight makes.

        Args:
            layer: a layer, not before those that were asked for so far.
            merged: path -> leaf of the merged network. What stood before an earlier layer that
                was asked for must not have changed since.
        """
        per_input = layer.product.num_samples / self._num_traced
        every = math.ceil(per_input * sum(map(len, self._batches)) / MAX_SAMPLES) | 1  # odd: all columns
        parts = [part[layer.weight] for part in self._parts]

        def samples() -> Iterator[Array]:
            for number, (batch, values) in enumerate(zip(self._batches, self._values)):
                values, found = _step(self._spec, layer, every, self._models, merged, parts, values, batch)
                if self._keeps:
                    self._values[number] = values
                yield found

        return stream_moments(_as_captured, samples(), scaled=True)["layer"]


def _as_captured(samples: Array) -> dict[str, tuple[Array, int]]:
    return {"layer": (samples, 1)}


def _traced(spec: PermSpec, params: Params, batch: Array) -> FlatProgram:
    return flatten_program(spec, params, batch, caller="prune_concat")


@jit_by_network(static_argnames=("layer", "every"))
def _step(
    spec: PermSpec, layer: LinearLayer, every: int, models: Sequence[Params], merged: Mapping[str, Array],
    parts: Sequence[Array], values: Sequence[Values], batch: Array,
) -> tuple[list[Values], Array]:  # fmt: skip
    """Go on to a layer, all networks and the merged one; of the batch only the shape counts.

    Returns:
        The values that are needed from there on, and the samples of the merged network.
    """
    program = _traced(spec, models[0], batch)
    wanted = live_values(program, layer.equation)
    networks = [*map(flatten_by_path, models), merged]
    reached: list[Values] = []
    for leaves, before in zip(networks, values, strict=True):
        known = {program.leaves[path]: leaf for path, leaf in leaves.items()}
        reached.append(dict(zip(wanted, program.evaluate(wanted, known, given(before)))))

    def made(values: Values, leaf: Array) -> Array:
        return program.evaluate([layer.made], {program.leaves[layer.weight]: leaf}, given(values))[0]

    own = made(reached[-1], networks[-1][layer.weight])
    lacking = sum((made(*pair) for pair in zip(reached, parts)), -own)
    read = reached[-1][program.equations[layer.equation].inputs[layer.product.live]]
    return reached, samples_of(layer.product.read(read)[::every], layer.product.made(lacking)[::every])


def live_values(program: FlatProgram, path: Path) -> tuple[int, ...]:
    """The values of the inputs' that an equation and those after it read, and do not make."""
    equations = list(program.equations.values())
    later = equations[list(program.equations).index(path) :]
    made = {number for equation in later for number in equation.outputs}
    read = {number for equation in later for number in equation.inputs}
    return tuple(sorted((read - made) & AffineReader(program).live))


def _size(program: FlatProgram, numbers: Sequence[int]) -> int:
    total = 0
    for number in numbers:
        if number in program.maker:
            equation = program.maker[number]
            total += equation.eqn.outvars[equation.outputs.index(number)].aval.size
    return total
