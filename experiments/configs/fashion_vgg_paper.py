"""`fashion_vgg` with the paper's settings of the merge in full: 64 epochs, 5 repeats (Appendix B.2, B.3).

Command: `python experiments/merge.py --config=fashion_vgg_paper`
Not yet run at full length: no time and no number to expect is recorded.
"""

from configs import fashion_vgg
from configs.schema import Config, in_paper_settings


def get_config() -> Config:
    return in_paper_settings(fashion_vgg.get_config())
