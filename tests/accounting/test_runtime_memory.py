"""The largest product of a program is found, also inside its loops; free memory is known on Linux."""

import sys

import jax
import jax.numpy as jnp
import pytest

from t5x_like.accounting import runtime_memory
from t5x_like.models import heads, linear


def test_the_largest_product_is_found_inside_loops():
    def attend(x_LD):
        scores_LL = x_LD @ x_LD.T
        return scores_LL @ x_LD

    def program(x_LD):
        return jax.lax.fori_loop(0, 3, lambda _, x_LD: jax.jit(attend)(x_LD), x_LD + 1.0)

    jaxpr = jax.make_jaxpr(program)(jnp.zeros((100, 8)))
    assert runtime_memory.largest_product(jaxpr.jaxpr) == 100 * 100 * 4
    assert runtime_memory.largest_product(jax.make_jaxpr(lambda x: x + 1)(1.0).jaxpr) == 0


def test_products_with_merged_dims_count_the_same(monkeypatch):
    x, head = jnp.zeros((2, 3, 4)), lambda x: heads.product(x, jnp.zeros((9, 4)))
    merged = jax.make_jaxpr(head)(x)
    monkeypatch.setattr(linear, "prefers_merged_dims", lambda: False)
    plain = jax.make_jaxpr(lambda x: head(x))(x)
    assert str(merged) != str(plain)
    assert runtime_memory.largest_product(merged.jaxpr) == runtime_memory.largest_product(plain.jaxpr) == 2 * 3 * 9 * 4


def test_a_program_that_does_not_fit_is_refused(monkeypatch):
    product = runtime_memory.largest_product(jax.make_jaxpr(lambda x: x @ x.T)(jnp.zeros((100, 8))).jaxpr)
    monkeypatch.setattr(runtime_memory, "free_bytes", lambda: 80_000)
    runtime_memory.check_fits(product)
    monkeypatch.setattr(runtime_memory, "free_bytes", lambda: 79_999)
    with pytest.raises(MemoryError, match="needs 80,000 bytes of memory, 79,999 are free"):
        runtime_memory.check_fits(product)


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_free_memory_is_known_on_linux():
    assert runtime_memory.free_bytes() > 2**20


def test_the_limit_of_a_control_group_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert runtime_memory.free_bytes() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert runtime_memory.free_bytes() != 3000
