"""The one table of bundled models. A new model is one file, one line here, one test file."""

import dataclasses
from typing import Any

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Key

from autofusion_jax.models.mlp import MLP
from autofusion_jax.models.vgg import VGG
from autofusion_jax.symmetry.infer import infer_perm_spec
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params
from autofusion_jax.validation import unknown_name

MODELS: dict[str, type[nn.Module]] = {"mlp": MLP, "vgg": VGG}

HEAD = "head"


@dataclasses.dataclass(frozen=True)
class Model:
    """A bundled network: pure functions of `(params, x)` and its permutation spec.

    Attributes:
        module: the flax module. Keep one `Model`: `apply` of another one is another function to jit.
        input_shape: shape of one input, without the batch axis.
    """

    module: nn.Module
    input_shape: tuple[int, ...]

    def init(self, key: Key[Array, ""]) -> Params:
        """Draw fresh parameters."""
        return jax.jit(self.module.init)(key, jax.numpy.zeros((1, *self.input_shape)))

    def apply(self, params: Params, x: Array) -> Array:
        """The network's outputs `[N, classes]`."""
        return jax.numpy.asarray(self.module.apply(params, x))

    def features(self, params: Params, x: Array) -> Array:
        """What the head reads `[N, features]`."""
        return jax.numpy.asarray(self.module.apply(params, x, method="features"))

    def with_head(self, params: Params, kernel: Array, bias: Array) -> Params:
        """The same network with another head."""
        head = {HEAD: {"kernel": kernel, "bias": bias}}
        return {**params, "params": {**params["params"], **head}}

    @property
    def perm_spec(self) -> PermSpec:
        """The permutation spec, derived from the program; its `apply_fn` is this model's."""
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((2, *self.input_shape), jax.numpy.float32)
        return infer_perm_spec(self.apply, shapes, x, check=False)


def build_model(name: str, input_shape: tuple[int, ...], **options: Any) -> Model:
    """Build a bundled model by name.

    Args:
        name: a key of `MODELS`.
        input_shape: shape of one input.
        options: attributes of the module.

    Raises:
        ValueError: unknown name; lists the known ones.
    """
    if name not in MODELS:
        raise unknown_name("build_model", "model", name, MODELS)
    return Model(MODELS[name](**options), tuple(input_shape))
