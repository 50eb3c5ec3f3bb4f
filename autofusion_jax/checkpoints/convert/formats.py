"""The one table of foreign formats. A new one is one file, one line here, one test file."""

from autofusion_jax.checkpoints.convert import clip, gpt2, resnet, t5, vit
from autofusion_jax.checkpoints.convert.format import Format

FORMATS: dict[str, Format] = {
    "clip": clip.FORMAT,
    "gpt2": gpt2.FORMAT,
    "resnet": resnet.FORMAT,
    "t5": t5.FORMAT,
    "vit": vit.FORMAT,
}
"""By the `model_type` of config.json, or the `architecture` of timm's without the number after it."""
