"""Named random streams: independence by name, the open interval, recycling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mamba import streams

KEY = jax.random.key(4)


def test_rows_do_not_depend_on_what_else_is_drawn():
    alone = streams.draw_rows(streams.row_keys(KEY, {"click": 3}), 50)["click"]
    crowd = streams.draw_rows(streams.row_keys(KEY, {"rank": 2, "click": 5, "exist": 1}), 50)
    np.testing.assert_array_equal(crowd["click"][:3], alone)
    assert crowd["rank"].shape == (2, 50) and crowd["exist"].shape == (1, 50)
    rows = np.concatenate([crowd["rank"], crowd["click"], crowd["exist"]])
    assert len(np.unique(rows)) > 0.999 * rows.size  # no two rows share their draws


def test_streams_depend_on_key_and_name_alone():
    data = jax.random.key_data
    assert bool(jnp.all(data(streams.stream(KEY, "a")) == data(streams.stream(KEY, "a"))))
    assert not bool(jnp.all(data(streams.stream(KEY, "a")) == data(streams.stream(KEY, "b"))))
    assert not bool(jnp.all(data(streams.stream(jax.random.key(5), "a")) == data(streams.stream(KEY, "a"))))


@pytest.mark.parametrize("bits", [0, 0xFFFFFFFF])
def test_the_extreme_bits_are_strictly_inside_the_unit_interval(monkeypatch, bits):
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: jnp.full(shape, bits, dtype))
    monkeypatch.setattr(streams, "_threefry", lambda words, place: jnp.full(place.shape, bits, jnp.uint32))
    value = streams.draw_rows({"any": jax.random.split(KEY, 1)}, 3)["any"]
    assert bool(jnp.all((value > 0) & (value < 1)))
    assert bool(jnp.all(jnp.isfinite(streams.normals(value))))
    assert bool(jnp.all(jnp.floor(value * 1000) < 1000))


def test_blocks_and_steps_have_their_own_draws():
    keys = streams.row_keys(KEY, {"click": 2}, step=3)
    first = streams.draw_rows(keys, 40)["click"]
    np.testing.assert_array_equal(streams.draw_rows(keys, 40, block=0)["click"], first)
    other = streams.draw_rows(keys, 40, block=1)["click"]
    later = streams.draw_rows(streams.row_keys(KEY, {"click": 2}, step=4), 40)["click"]
    assert not np.intersect1d(first, other).size and not np.intersect1d(first, later).size
    # the start of a stream does not depend on how much of it is drawn
    np.testing.assert_array_equal(streams.draw_rows(keys, 15)["click"], first[:, :15])


def test_uniforms_are_uniform():
    drawn = np.asarray(streams.uniforms(KEY, (50_000,)), np.float64)
    assert drawn.min() > 0 and drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 0.01
    normal = np.asarray(streams.normals(jnp.asarray(drawn, jnp.float32)), np.float64)
    assert stats.kstest(normal, "norm").pvalue > 0.01


@pytest.mark.parametrize("shape", [(), (0,), (1,), (257,), (3, 50), (2, 3, 40)])
def test_the_generator_written_out_draws_what_that_of_jax_draws(monkeypatch, shape):
    ours = streams.uniforms(KEY, shape)
    monkeypatch.setattr(streams, "_written_out", lambda key: False)
    np.testing.assert_array_equal(ours, streams.uniforms(KEY, shape))


def test_rows_written_out_are_what_jax_draws(monkeypatch):
    keys = streams.row_keys(KEY, {"rank": 3, "click": 4})
    ours = streams.draw_rows(keys, 50)
    monkeypatch.setattr(streams, "_written_out", lambda key: False)
    for name, rows in streams.draw_rows(keys, 50).items():
        np.testing.assert_array_equal(rows, ours[name])


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_other_generators_are_drawn_from_by_jax(kind):
    key = jax.random.key(4, impl=kind)
    drawn = streams.uniforms(key, (20,))
    np.testing.assert_array_equal(drawn, streams._unit(jax.random.bits(key, (20,), "uint32")))


def test_neighbouring_rows_are_uncorrelated():
    rows = np.asarray(streams.draw_rows(streams.row_keys(KEY, {"click": 12}), 20_000)["click"])
    correlation = np.corrcoef(rows) - np.eye(12)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(20_000)


@pytest.mark.parametrize("p", [0.02, 0.5, 0.93])
def test_recycled_draws_are_uniform_and_independent_of_the_event(p):
    uniform = streams.uniforms(KEY, (40_000,))
    event = np.asarray(uniform < p)
    again = np.asarray(streams.recycle(uniform, jnp.float32(p)), np.float64)
    assert again.min() > 0 and again.max() < 1
    assert stats.kstest(again[event], "uniform").pvalue > 0.01
    assert stats.kstest(again[~event], "uniform").pvalue > 0.01
    # a second use
    second = np.asarray(streams.recycle(jnp.asarray(again, jnp.float32), jnp.float32(0.3)), np.float64)
    assert stats.kstest(second, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(second, again < 0.3)[0, 1]) < 4.5 / np.sqrt(40_000)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_recycling_a_certain_event_keeps_the_draw(p):
    uniform = streams.uniforms(KEY, (100,))
    np.testing.assert_allclose(streams.recycle(uniform, jnp.float32(p)), uniform, atol=1e-7)


def test_recycled_draws_carry_no_derivative():
    slope = jax.grad(lambda p: jnp.sum(streams.recycle(jnp.asarray([0.2, 0.7]), p)))(jnp.asarray([0.5, 0.5]))
    np.testing.assert_array_equal(slope, 0.0)
