"""Process-wide settings that make programs start and run faster; for scripts, not for libraries."""

import functools
import importlib.util
import logging
import os
import stat
import tempfile
from importlib.metadata import version
from pathlib import Path

import jax

LOGGER = logging.getLogger("autofusion_jax")

# On jaxlib 0.10 the CPU's library kernels for convolutions are slower than XLA's own; an empty
# value turns them off (measured: docs/performance.md). Other versions may not know the flag, and an
# unknown one ends the process.
CONV_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
CONV_FLAG_VERSIONS = ("0.10.",)
CACHE_VARIABLE = "AUTOFUSION_CACHE_DIR"
ACCELERATOR_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")


def cache_dir() -> Path:
    """The folder of fetched data and compiled programs: `AUTOFUSION_CACHE_DIR` or in the user's cache.

    Of a user without a home it is a folder for temporary files that is this user's alone; a warning says so.

    Raises:
        PermissionError: somebody else has made that folder.
    """
    given = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(given).expanduser() if given else Path.home() / ".cache" / "autofusion_jax"
    except RuntimeError:  # neither HOME nor an entry of the user says where it would be
        return _temporary_cache()


@functools.cache
def _temporary_cache() -> Path:
    # Compiled programs are run as they are found: the folder must be this user's alone.
    folder = Path(tempfile.gettempdir()) / f"autofusion_jax-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"cache_dir: {folder} must be this user's alone. Name another by {CACHE_VARIABLE}."
        )
    LOGGER.warning("There is no home folder: %s is used; %s names another.", folder, CACHE_VARIABLE)
    return folder


def configure() -> None:
    """Keep compiled programs on disk, and choose the faster convolutions on CPU.

    Call it before the first computation. A user's own `XLA_FLAGS` and
    `JAX_COMPILATION_CACHE_DIR` are left alone.
    """
    on_cpu = not any(importlib.util.find_spec(name) for name in ACCELERATOR_PLUGINS)
    if on_cpu and version("jaxlib").startswith(CONV_FLAG_VERSIONS):
        os.environ.setdefault("XLA_FLAGS", CONV_FLAG)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
