"""Random small network programs, for fuzzing the inference of symmetries."""

from tests.symmetry.fuzz import math_ops, shape_ops
from tests.symmetry.fuzz.program import OPS, RandomProgram, build

__all__ = ["OPS", "RandomProgram", "build", "math_ops", "shape_ops"]
