"""Batches of members: layouts agree, members of a key share its warm-up, windows are parts of the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compile, everything, gates, inputs, key

from mamba import members as mem
from mamba import objectives
from mamba.objectives import NAMES
from mamba.rollout import rollout

WARM_UP, STEPS, WINDOWS = 4, 6, 3


def _members() -> mem.Members:
    """Two keys, five on/off combinations of each; the last is everything on."""
    ecosystem, given = everything(), inputs()
    table = np.random.default_rng(0).integers(0, 2, (5, len(ecosystem.names))).astype(np.float32)
    table[-1] = 1.0
    keys = jax.random.split(key(), 2)
    together = mem.repeat(ecosystem, given.levers, jnp.repeat(keys, len(table)))
    return together._replace(gates=jnp.tile(jnp.asarray(table), (2, 1)))


@functools.cache
def _values(layout: mem.Layout) -> np.ndarray:
    run = compile(mem.evaluator(everything(), steps=STEPS, layout=layout, warm_up=WARM_UP, windows=WINDOWS))
    return mem.in_chunks(run, inputs(), _members(), chunk=4)


@pytest.mark.slow
def test_the_loop_that_skips_what_is_off_says_what_the_vmap_says():
    """Chunks of four cut through both keys, so that warm-ups are shared within a chunk and made anew in the next."""
    assert _values("loop").shape == (10, 1 + WINDOWS, len(NAMES))
    np.testing.assert_allclose(_values("loop"), _values("vmap"), rtol=2e-5, atol=2e-6)


@pytest.mark.slow  # compiles three programs
def test_a_member_goes_on_where_the_platform_of_the_inputs_was():
    ecosystem, given = everything(), inputs()
    members = _members()

    def plain(given, member_gates, seed):
        warm, _, _ = rollout(ecosystem, given, key=seed, steps=WARM_UP)
        changed = given.replace(gates=member_gates)
        metrics = rollout(ecosystem, changed, key=seed, steps=STEPS, state=warm, first_step=WARM_UP)[1]
        early = jax.tree.map(lambda leaf: leaf[: STEPS // WINDOWS], metrics)
        return [objectives.evaluate(part, ecosystem.sizes.users) for part in (metrics, early)]

    whole, first = compile(plain)(given, members.gates[6], members.keys[6])
    np.testing.assert_allclose(_values("loop")[6, 0], whole, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(_values("loop")[6, 1], first, rtol=2e-5, atol=2e-6)


def test_a_sum_over_time_is_the_mean_of_its_windows():
    clicks = NAMES.index("engagement_per_user")
    parts = _values("loop")[:, 1:, clicks]
    assert parts.std(axis=1).min() > 0
    np.testing.assert_allclose(_values("loop")[:, 0, clicks], parts.mean(axis=1), rtol=1e-5)


@pytest.mark.slow
def test_what_is_off_is_skipped_and_that_changes_nothing():
    ecosystem, given = everything(), inputs(gates=gates(two_tower=0.0, removal=0.0, popularity=0.5))

    def run(given, seed, skip):
        # Not the state: what nobody can see, such as a reshare of weight 0, may name another item.
        return rollout(ecosystem, given, key=seed, steps=STEPS, skip_closed=skip)[1]

    computed, skipped = (compile(functools.partial(run, skip=skip))(given, key()) for skip in (False, True))
    for name, series in computed.items():
        np.testing.assert_allclose(series, skipped[name], rtol=2e-5, atol=2e-6, err_msg=name)
    assert float(jnp.abs(skipped["loss/two_tower"]).max()) == 0.0  # who does not run has no loss
    assert float(skipped["loss/engagement"].min()) > 0.0


def test_more_windows_than_steps_are_refused():
    with pytest.raises(ValueError, match="windows = 7"):
        mem.evaluator(everything(), steps=6, windows=7)


def test_small_runs_fill_an_accelerator_together_and_large_ones_go_one_by_one(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert mem.beside(100) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert mem.beside(mem.BUSY // 8) == 8
    assert mem.beside(10 * mem.BUSY) == 1


def test_runs_are_mapped_one_by_one_where_a_branch_must_be_left_out():
    def one(x):
        return jax.lax.cond(x > 0, lambda: x * x, lambda: x)

    each = jnp.arange(-2.0, 3.0)
    for at_once in (1, 2, 99):
        np.testing.assert_array_equal(mem.mapped(one, each, at_once=at_once), [-2, -1, 0, 1, 4])
    # A batch turns a branch into a selection of both sides.
    assert "cond" in str(jax.make_jaxpr(lambda x: mem.mapped(one, x, at_once=8))(each[:1]))
    assert "cond" not in str(jax.make_jaxpr(lambda x: mem.mapped(one, x, at_once=8))(each))
