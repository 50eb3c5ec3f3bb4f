"""The one table of bundled models. docs/extending/model.md says how to add one."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.core import freeze
from jax import Array
from jaxtyping import Key

from autofusion_jax.models.clip import CLIP, CLIPClassifier, CLIPImageTower
from autofusion_jax.models.encoder_decoder import EncoderDecoder
from autofusion_jax.models.gpt2 import GPT2
from autofusion_jax.models.mlp import MLP
from autofusion_jax.models.resnet import ResNet
from autofusion_jax.models.t5 import T5
from autofusion_jax.models.vgg import VGG
from autofusion_jax.models.vit import ViT
from autofusion_jax.symmetry.infer import infer_perm_spec
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import InputShape, Params, TrainFn
from autofusion_jax.validation import require, unknown_name

MODELS: dict[str, type[nn.Module]] = {
    "clip": CLIP,
    "clip_classifier": CLIPClassifier,
    "clip_image_tower": CLIPImageTower,
    "encoder_decoder": EncoderDecoder,
    "gpt2": GPT2,
    "mlp": MLP,
    "resnet": ResNet,
    "t5": T5,
    "vgg": VGG,
    "vit": ViT,
}

HEAD = "head"


@dataclasses.dataclass(frozen=True)
class Model:
    """A bundled network: pure functions of `(params, x)` and its permutation spec.

    `params` is everything the network needs: `{"params": ...}`, and `"batch_stats"` beside it
    where it has BatchNorm. `apply` evaluates with the running statistics.

    Attributes:
        module: the flax module. Keep one `Model`: `apply` of another one is another function to jit.
        input_shape: shape of one input, without the batch axis; a dict of shapes where the module
            takes a dict of arrays.
    """

    module: nn.Module
    input_shape: InputShape

    def inputs(self, num: int) -> Any:
        """Shapes and dtypes of `num` inputs: int32 for tokens, else float32."""
        dtypes = getattr(self.module, "input_dtype", jax.numpy.float32)
        if isinstance(self.input_shape, tuple):
            return jax.ShapeDtypeStruct((num, *self.input_shape), dtypes)
        return {k: jax.ShapeDtypeStruct((num, *shape), dtypes[k]) for k, shape in self.input_shape.items()}

    def init(self, key: Key[Array, ""]) -> Params:
        """Draw fresh parameters."""
        return self._init(key)

    @functools.cached_property
    def _init(self) -> Callable[[Key[Array, ""]], Params]:
        """Compiled once for all keys."""

        def init(key: Key[Array, ""]) -> Params:
            return self.module.init(
                key, jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), self.inputs(1))
            )

        return jax.jit(init)

    def apply(self, params: Params, x: Any) -> Array:
        """The network's outputs `[N, classes]`."""
        return jax.numpy.asarray(self.module.apply(params, x))

    @property
    def train_apply(self) -> TrainFn | None:
        """The network in training mode, or None if that is no other than `apply`.

        Takes `(params, x)`; returns the logits by the batch's own statistics, and params in which
        the running statistics are updated.
        """
        return self._train_apply if "batch_stats" in jax.eval_shape(self.init, jax.random.key(0)) else None

    def _train_apply(self, params: Params, x: Array) -> tuple[Array, Params]:
        logits, updated = self.module.apply(params, x, train=True, mutable=["batch_stats"])
        return jax.numpy.asarray(logits), {**params, **updated}

    def features(self, params: Params, x: Array) -> Array:
        """The input `[N, features]` of a plain head.

        Raises:
            ValueError: the network has another head.
        """
        _require_plain_head(params, "features")
        return jax.numpy.asarray(self.module.apply(params, x, method="features"))

    def with_head(self, params: Params, kernel: Array, bias: Array) -> Params:
        """The same network with another plain head.

        Raises:
            ValueError: the network has another head.
        """
        _require_plain_head(params, "with_head")
        head = {HEAD: {"kernel": kernel, "bias": bias}}
        return {**params, "params": {**params["params"], **head}}

    @functools.cached_property
    def perm_spec(self) -> PermSpec:
        """The permutation spec, derived from the program; its `apply_fn` is this model's."""
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        return infer_perm_spec(self.apply, shapes, self.inputs(2), check=False)


def _require_plain_head(params: Params, caller: str) -> None:
    head = params["params"].get(HEAD, {})
    found = ", ".join(f"{name} {jax.numpy.shape(leaf)}" for name, leaf in flatten_by_path(head).items())
    plain = set(head) == {"kernel", "bias"} and head["kernel"].ndim == 2
    require(plain, f"Model.{caller}", "head", "a dense layer with bias", found or "none")


def build_model(name: str, input_shape: InputShape, **options: Any) -> Model:
    """Build a bundled model by name.

    Args:
        name: a key of `MODELS`.
        input_shape: shape of one input, or a dict of them (`"clip"`).
        options: attributes of the module.

    Raises:
        ValueError: unknown name or option; lists the known ones.
    """
    if name not in MODELS:
        raise unknown_name("build_model", "model", name, MODELS)
    known = [field.name for field in dataclasses.fields(MODELS[name]) if field.name not in ("parent", "name")]
    for option in options:
        if option not in known:
            raise unknown_name(f"build_model: {name}", "option", option, known)
    shape = freeze(input_shape) if isinstance(input_shape, Mapping) else tuple(input_shape)
    hashable = {option: freeze(v) if isinstance(v, Mapping) else v for option, v in options.items()}
    return Model(MODELS[name](**hashable), shape)
