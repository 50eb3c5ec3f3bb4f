"""Derive the permutation groups of a config's model from its program, and draw them; needs no data.

python experiments/draw_spec.py --config=mnist_vgg
"""

import interrupts  # noqa: F401, I001  # first: it takes signals while the others are imported

from app import define_config, run
from pipeline.spec_drawing import draw_config

CONFIG = define_config()

if __name__ == "__main__":
    run(lambda console: draw_config(CONFIG.value, console))
