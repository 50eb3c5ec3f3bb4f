"""What the tables of MuDSC share."""

PAPER = "Xu et al., Training-Free Pretrained Model Merging, CVPR 2024"

ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The balance factors that are searched, pair by pair, on training data (Sec. 4.1.1)."""

ZIP = {"a": 0.5, "b": 1.0}
"""The settings of all zips in the code released with the paper."""
