"""Progress of a merge: a bar in the terminal, and the same in the log."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LOGGER = logging.getLogger("autofusion_jax")

OnProgress = Callable[[int, int], None]
"""Called as `on_progress(done, total)` after every epoch of a learned method."""


@contextlib.contextmanager
def reported(title: str, progress: bool) -> Iterator[OnProgress | None]:
    """Report a long call: its start, steps and end.

    The logger `autofusion_jax` gets one line at the start and one at the end (INFO), and one for every
    epoch (DEBUG). A learned method that reports its epochs runs them one by one, so nobody is asked to
    where nobody listens.

    Args:
        title: what is run.
        progress: whether to show a bar in the terminal. A method without epochs shows the time that it
            has taken so far.

    Yields:
        What the method calls after every epoch, or None.
    """
    start = time.perf_counter()
    LOGGER.info("%s: started", title)
    with contextlib.ExitStack() as stack:
        listeners: list[OnProgress] = []
        if progress:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            shown = stack.enter_context(Progress(*columns, transient=True))
            bar = shown.add_task(title, total=None)
            listeners.append(lambda done, total: shown.update(bar, completed=done, total=total))
        if LOGGER.isEnabledFor(logging.DEBUG):
            listeners.append(lambda done, total: LOGGER.debug("%s: %d of %d", title, done, total))

        def tell(done: int, total: int) -> None:
            for listener in listeners:
                listener(done, total)

        yield tell if listeners else None
    LOGGER.info("%s: done in %.1f s", title, time.perf_counter() - start)
