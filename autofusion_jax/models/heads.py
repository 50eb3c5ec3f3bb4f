"""Networks that share the form of their backbone and have a head for each task."""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from autofusion_jax.models.registry import HEAD, Model
from autofusion_jax.types import Params

READER = "reader"
"""The leaf of a backbone that stands for all heads, see `Backbone.channels`."""


@dataclasses.dataclass(frozen=True)
class Backbone(Model):
    """A bundled network without its head: `apply` gives the features that heads read, `[N, numbers]`.

    Attributes:
        channels: how many of the last numbers along the features are hidden units that every head may
            read in any order; 0 where their order is fixed. The parameters then have a `reader` of zeros
            `[channels, 1]`, so that spec and methods take them for any other hidden units; what it
            reads, zeros, is the output.
    """

    channels: int = 0

    def init(self, key: Key[Array, ""]) -> Params:
        """Draw fresh parameters, none for a head."""
        params = super().init(key)
        params = {**params, "params": {k: leaf for k, leaf in params["params"].items() if k != HEAD}}
        return params | ({READER: {"kernel": jnp.zeros((self.channels, 1))}} if self.channels else {})

    def features(self, params: Params, x: Array) -> Array:
        """The features `[N, numbers]`: the input of the heads."""
        known = {name: leaves for name, leaves in params.items() if name != READER}
        return jnp.asarray(self.module.apply(known, x, method="features"))

    def apply(self, params: Params, x: Array) -> Array:
        """The features, or what the `reader` makes of them."""
        features = self.features(params, x)
        if not self.channels:
            return features
        return features.reshape(len(features), -1, self.channels) @ params[READER]["kernel"]


@dataclasses.dataclass(frozen=True)
class ClassHead:
    """A dense layer from all features to the logits of classes."""

    num_classes: int

    def init(self, num_features: int) -> Params:
        """The parameters before training: zeros, so that the first steps do not disturb the backbone."""
        return _dense(num_features, self.num_classes)

    def apply(self, params: Params, features: Float[Array, "n numbers"]) -> Float[Array, "n classes"]:
        """The logits."""
        return features @ params["kernel"] + params["bias"]


@dataclasses.dataclass(frozen=True)
class ImageHead:
    """A dense layer from the features at each place to the square of pixels that the place stands for.

    Attributes:
        shape: height, width and channels of the image.
        patch: side of the square in pixels.
    """

    shape: tuple[int, int, int]
    patch: int

    @property
    def places(self) -> tuple[int, int]:
        """Rows and columns of places."""
        return self.shape[0] // self.patch, self.shape[1] // self.patch

    def init(self, num_features: int) -> Params:
        """The parameters before training: zeros, as of `ClassHead`."""
        rows, columns = self.places
        return _dense(num_features // (rows * columns), self.patch**2 * self.shape[2])

    def apply(self, params: Params, features: Float[Array, "n numbers"]) -> Float[Array, "n h w c"]:
        """The images."""
        rows, columns = self.places
        at_places = features.reshape(len(features), rows, columns, -1)
        pixels = at_places @ params["kernel"] + params["bias"]
        pixels = pixels.reshape(len(features), rows, columns, self.patch, self.patch, self.shape[2])
        return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(len(features), *self.shape)


Head: TypeAlias = ClassHead | ImageHead


def _dense(num_inputs: int, num_outputs: int) -> Params:
    return {"kernel": jnp.zeros((num_inputs, num_outputs)), "bias": jnp.zeros(num_outputs)}


def reordered(params: Params, perm: Int[Array, " channels"]) -> Params:
    """A head for features whose unit i is what was unit `perm[i]`.

    Example:
        >>> params = {"kernel": jnp.array([[1.0], [2.0], [3.0], [4.0]]), "bias": jnp.zeros(1)}
        >>> reordered(params, jnp.array([1, 0]))["kernel"][:, 0].tolist()
        [2.0, 1.0, 4.0, 3.0]
    """
    kernel = params["kernel"]
    units = kernel.reshape(-1, len(perm), kernel.shape[-1])[:, perm]
    return {**params, "kernel": units.reshape(kernel.shape)}


@dataclasses.dataclass(frozen=True)
class HeadedNetwork:
    """A backbone and the head of one task, with parameters `{"backbone": ..., "head": ...}`."""

    backbone: Backbone
    head: Head

    def init(self, backbone: Params) -> Params:
        """A backbone as it is, and a fresh head."""
        shapes = jax.eval_shape(self.backbone.features, backbone, self.backbone.inputs(1))
        return {"backbone": backbone, "head": self.head.init(shapes.shape[-1])}

    def apply(self, params: Params, x: Array) -> Array:
        """The head's outputs."""
        return self.head.apply(params["head"], self.backbone.features(params["backbone"], x))


@dataclasses.dataclass(frozen=True, eq=False)
class WithHead:
    """A network of one task as a function of its backbone alone; `head` are the parameters of its head."""

    network: HeadedNetwork
    head: Any

    def __call__(self, backbone: Params, x: Array) -> Array:
        """The head's outputs."""
        return self.network.apply({"backbone": backbone, "head": self.head}, x)


@dataclasses.dataclass(frozen=True)
class NextToken:
    """A backbone for tokens as a language model, whose logits are products with its own embedding."""

    backbone: Backbone

    def apply(self, params: Params, tokens: Int[Array, "n tokens"]) -> Float[Array, "n tokens vocab"]:
        """The logits of the token after each."""
        features = self.backbone.module.apply(params, tokens, method="token_features")
        return jnp.asarray(features) @ params["params"]["embed"]["embedding"].T
