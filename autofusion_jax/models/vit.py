"""A small vision transformer."""

from jax import Array
from jaxtyping import Float

from autofusion_jax.models.layers import build_head
from autofusion_jax.models.transformer import ImageTower


class ViT(ImageTower, kw_only=True):
    """An image tower and a `head`; its attributes are those of `ImageTower` and `Tower`, and these.

    Attributes:
        num_classes: outputs of the head.
        head: `"plain"` (dense) or `"cosine"`.
        embed_dim: size of the embedding of a cosine head.

    References:
        Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
    """

    num_classes: int
    head: str = "plain"
    embed_dim: int = 512

    def setup(self) -> None:  # noqa: D102
        super().setup()
        self.readout = build_head(self.head, self.num_classes, embed_dim=self.embed_dim)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """The logits."""
        return self.readout(self.features(x))
