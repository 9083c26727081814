"""Changed gin files and overrides are parsed, or refused by a ConfigError; a parsed configuration is reproduced by its text."""

import gin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from tests.fuzz import mutations

IMPORTS = "from __gin__ import dynamic_registration\nfrom tests.cli import throwaway\n"
BODY = b"""
STEPS = 3
NAMES = ('a', "b", %STEPS)
# a comment
a/throwaway.train.steps = %STEPS
throwaway.train:
  rows = @throwaway.Rows()
  function = @throwaway.double
throwaway.Rows.cache = @throwaway.Cache()
throwaway.Cache.split = 'x'
"""
VALUES = (b"10", b"'text'", b"(1, 2)", b"{'a': @throwaway.Rows()}", b"/tmp/x", b"%STEPS", b"1e-3", b"-1e999", b"None")


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


def parse(folder, text: str, *overrides: str) -> runtime.Config:
    path = folder / "run.gin"
    path.write_bytes(IMPORTS.encode() + text.encode("utf-8", "surrogateescape"))
    return runtime.parse([str(path)], overrides)


@given(body=mutations.bytes_like(BODY))
def test_a_file_is_parsed_or_refused(body, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    config = mutations.outcome(parse, folder, body.decode("utf-8", "surrogateescape"))
    if isinstance(config, Exception):
        assert isinstance(config, ConfigError)
        return
    text = config.resolved_config()
    (folder / "again.gin").write_text(text)
    assert runtime.parse([str(folder / "again.gin")]).resolved_config() == text


@given(
    value=st.sampled_from(VALUES).flatmap(mutations.bytes_like),
    name=st.sampled_from(("STEPS", "throwaway.train.steps")),
)
def test_an_override_is_parsed_or_refused(value, name, tmp_path_factory):
    flag = f"--gin.{name}={value.decode('utf-8', 'surrogateescape')}"
    config = mutations.outcome(parse, tmp_path_factory.getbasetemp(), BODY.decode(), flag)
    assert isinstance(config, runtime.Config | ConfigError)
