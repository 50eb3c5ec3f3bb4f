"""The folder of caches, for users with and without a home."""

import logging
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from autofusion_jax import runtime


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """No variable says where the home is, and the system does not know the user."""

    def unknown(_):
        raise KeyError("uid not found")

    for name in ("HOME", runtime.CACHE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runtime._temporary_cache.cache_clear()
    yield tmp_path / f"autofusion_jax-{os.getuid()}"
    runtime._temporary_cache.cache_clear()


def test_the_variable_comes_first(monkeypatch):
    monkeypatch.setenv(runtime.CACHE_VARIABLE, "~/here")
    assert runtime.cache_dir() == Path.home() / "here"


def test_without_a_home_it_is_a_private_folder_and_said(homeless, caplog):
    with caplog.at_level(logging.WARNING, "autofusion_jax"):
        assert runtime.cache_dir() == runtime.cache_dir() == homeless
    assert homeless.stat().st_mode & 0o777 == 0o700
    assert [record.getMessage().startswith("There is no home folder") for record in caplog.records] == [True]


def test_a_folder_that_others_can_write_to_is_refused(homeless):
    homeless.mkdir(mode=0o700)
    homeless.chmod(0o777)
    with pytest.raises(PermissionError, match="must be this user's alone. Name another by AUTOFUSION_CACHE"):
        runtime.cache_dir()
