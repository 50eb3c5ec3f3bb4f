"""Two tasks on the same images: labelings of digits by other properties than the digit."""

import numpy as np

PRIME_ODD_CLASSES = ("not prime", "prime", "even", "odd")
"""The joint classes of the two tasks: the first two are those of task A, the others those of task B."""

PRIME_ODD_TASKS = ((0, 1), (2, 3))
"""The joint classes of each task."""

PRIMES = (2, 3, 5, 7)


def prime_odd_labels(digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relabel digits as MuDSC's two tasks: prime or not, odd or not.

    Both tasks have all images. A network answers over the four joint classes; it is trained
    and evaluated on the logits of its own task alone (`apply_fn(params, x)[:, task]`, labels
    minus the task's first class): the two labelings of an image do not exclude each other, so
    an argmax over all four means nothing.

    Args:
        digits: integers 0 to 9 `[N]`.

    Returns:
        Joint classes `[N]` of task A (0 or 1) and of task B (2 or 3).

    Example:
        >>> a, b = prime_odd_labels(np.array([1, 2, 9]))
        >>> a.tolist(), b.tolist()
        ([0, 1, 0], [3, 2, 3])
    """
    return np.isin(digits, PRIMES).astype(np.int32), 2 + digits.astype(np.int32) % 2
