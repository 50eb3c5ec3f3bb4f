"""A tally of hostile inputs: each is taken and right, refused by name, or a fault."""

import collections
import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

LIMIT = 20
"""Seconds that one input may take."""
UNNAMED = 0.01
"""Share of inputs that may be refused without the name of what is wrong."""
REFUSALS = (ValueError, TypeError, OSError, ImportError)
"""What a caller may expect to catch; CheckpointError, ChecksumError and json's error are ValueErrors."""


class Hang(BaseException):
    """The time is up: no handler of ours takes it for an error of the input."""


class Silent(Exception):
    """An input was taken, and what came out of it is wrong."""


class Tally:
    """Counts of one area, and the first faults of every kind.

    Args:
        area: what is tried, for the table of counts.
        names: patterns of which a refusal must hold one, unless `run` is given its own.
    """

    def __init__(self, area: str, *names: str) -> None:
        self.area, self.names = area, names
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: dict[str, list[str]] = collections.defaultdict(list)

    def run(self, what: Any, call: Callable[[], Any], *names: str) -> None:
        """Try one input: `call` raises, raises `Silent`, or returns."""
        try:
            with time_limit():
                call()
            self.counts["taken"] += 1
        except Hang:
            self._fault("hang", what, f"more than {LIMIT} s")
        except Silent as error:
            self._fault("silent", what, error)
        except REFUSALS as error:
            wanted = names or self.names
            if any(re.search(name, str(error)) for name in wanted):
                self.counts["refused"] += 1
            else:
                self._fault("unnamed", what, error)
        except Exception as error:
            self._fault("unnamed", what, error)

    def _fault(self, kind: str, what: Any, error: object) -> None:
        self.counts[kind] += 1
        said = (str(error).strip().splitlines() or [""])[0]
        self.faults[kind].append(f"{str(what)[:200]}: {type(error).__name__}: {said[:200]}")

    def done(self, record_property: Callable[[str, object], None], *, least: int) -> None:
        """Hand the counts to the table, and fail where there is a fault.

        Args:
            record_property: pytest's fixture.
            least: how many inputs there must have been, so that an empty generator is no success.
        """
        total = sum(self.counts.values())
        record_property("fuzz", [self.area, total, dict(self.counts)])
        told = "\n".join(f"{kind} {line}" for kind, lines in self.faults.items() for line in lines[:15])
        assert total >= least, f"{self.area}: {total} inputs"
        bad = self.counts["silent"] or self.counts["hang"] or self.counts["unnamed"] > UNNAMED * total
        assert not bad, f"{self.area}: {dict(self.counts)} of {total}\n{told}"


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise `Hang` after `LIMIT` seconds."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def expect(condition: Any, said: str) -> None:
    """Raise `Silent` unless what came out is right."""
    if not bool(condition):
        raise Silent(said)
