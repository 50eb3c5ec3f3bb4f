"""Architectures with hand-derived symmetries: the table that `infer_perm_spec` is tested on."""

from tests.symmetry.zoo import adversarial, blocks, convolutional, factors, feature_maps, resnet

MODULES = (resnet, blocks, convolutional, feature_maps, factors, adversarial)
CASES = {name: case for module in MODULES for name, case in module.CASES.items()}
