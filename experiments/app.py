"""What every script shares: the `--config` flag, settings of the process, errors as one line."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

import interrupts
from autofusion_jax import runtime
from autofusion_jax.extras import OPTIONAL, MissingExtra, need

try:
    need(*OPTIONAL, what=f"experiments/{Path(sys.argv[0]).name}", extra="experiments")
    from absl import app, flags
    from absl import logging as absl_logging
    from ml_collections import config_flags
except MissingExtra as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

from configs import CONFIGS, check_overrides, get_config
from configs.schema import Config

USAGE_ERROR = 2
LOG_WIDTH = 120


def define_config() -> flags.FlagHolder[Config]:
    """Define `--config=NAME` and its overrides."""
    holder = config_flags.DEFINE_config_dataclass(
        "config",
        next(iter(CONFIGS.values()))(),
        f"Name of a config: {', '.join(CONFIGS)}. Any field of it can follow, typed: "
        "--config.seed=1 --config.pairs=3 --config.merge.methods=interpolation,autofusion "
        "--config.train.epochs=7 --config.out_dir=DIR --config.data.dir=DIR.",
        parse_fn=get_config,
    )
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["config"])  # for --help
    flags.FLAGS["config"].default_as_str = ""  # --help would print all of a config that nobody asked for
    return holder


def run(main: Callable[[Console], None], *, with_config: bool = True) -> None:
    """Parse flags and run `main(console)`; an error the user can mend is one line and status 2."""

    def guarded(argv: list[str]) -> None:
        absl_logging.set_verbosity(absl_logging.WARNING)
        console = Console()
        if not console.is_terminal:
            console = Console(width=LOG_WIDTH)
        if len(argv) > 1:
            fail(f"unknown argument {argv[1]!r}; flags begin with --")
        logging.getLogger("autofusion_jax").addHandler(_Notes(console))
        logging.getLogger("autofusion_jax").propagate = False
        interrupts.begin()
        try:
            runtime.configure()
            main(console)
        except (ValueError, KeyError, OSError, ModuleNotFoundError, MemoryError) as error:
            interrupts.exit_if_received()
            fail(str(error) or type(error).__name__)
        except BaseException:
            interrupts.exit_if_received()
            raise
        interrupts.exit_if_received()

    app.run(guarded, flags_parser=lambda argv: _parse(argv, with_config))


class _Notes(logging.Handler):
    """Prints what the library has to say, such as whom it waits for."""

    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(f"[yellow]note:[/] {escape(record.getMessage())}", soft_wrap=True)


def _parse(argv: list[str], with_config: bool) -> list[str]:
    try:
        helping = any(argument.lstrip("-").split("=")[0].startswith("help") for argument in argv[1:])
        if with_config and not helping:
            argv = [argv[0], *check_overrides(argv[1:])]
        return flags.FLAGS(argv)
    except Exception as error:  # parsers of flags raise many kinds
        fail(str(error) or type(error).__name__)


def fail(message: str) -> NoReturn:
    """Print an error as one line and exit with status 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(USAGE_ERROR)
