"""Meta-training on a real, tiny platform: every estimator takes steps, and goes on bit by bit from a saved state."""

import functools

import jax
import numpy as np
import pytest
from helpers import PLAIN, SIZES, population

from mamba import ecosystem as eco
from mamba import members as mem
from mamba.algorithms import registry
from mamba.meta import optimise, systems
from mamba.meta.settings import ESTIMATORS, MetaConfig
from mamba.runs import checkpoint

STEPS = 4
SMALL = SIZES._replace(nodes=8, in_network=3)


@functools.cache
def _platform():
    algorithms = {"home": registry.make("engagement"), "takedown": registry.make("removal")}
    ecosystem = eco.make(algorithms, sizes=SMALL, mechanisms=PLAIN)
    inputs = eco.inputs(ecosystem, population(SMALL))
    measured = functools.partial(systems.outcomes, ecosystem)
    run = jax.jit(mem.evaluator(ecosystem, steps=STEPS, of=measured))
    return ecosystem, inputs, lambda members: mem.in_chunks(run, inputs, members, chunk=8)


def _trainer(**settings):
    ecosystem, inputs, evaluate = _platform()
    config = MetaConfig(
        **{
            "steps": 4,
            "minimise": {"toxic_exposure_per_user": 1.0},
            "window": 2,
            "seeds": 2,
            "constraint_seeds": 2,
            "audit_every": 2,
            "audit_pairs": 4,
            "monitor_every": 2,
        }
        | settings
    )
    return optimise.trainer(ecosystem, inputs, config, steps=STEPS, evaluate=evaluate, key=jax.random.key(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_trains_and_goes_on_bit_by_bit(name, tmp_path):
    trainer = _trainer(estimator=name)
    state = optimise.start(trainer)
    for _ in range(2):
        state, told = optimise.step(trainer, state)
    assert np.all(np.isfinite(told.gradient)) and np.any(told.gradient != 0) and not told.told["skipped"]
    checkpoint.save(tmp_path, 2, state, {"name": "x"}, keep=1)
    again = _trainer(estimator=name)  # another process would make it anew
    found = checkpoint.latest(tmp_path, optimise.start(again))
    assert found is not None
    copied = found.tree
    for _ in range(2):
        state, told = optimise.step(trainer, state)
        copied, resumed = optimise.step(again, copied)
        np.testing.assert_array_equal(np.asarray(state.levers), np.asarray(copied.levers))
        np.testing.assert_array_equal(told.gradient, resumed.gradient)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"spread": {"wellbeing_toxicity": 0.3}, "worlds": 4, "level": 0.5},
        {"goal": "own"},
        {"only": ("takedown",)},
        {"through": {"home": False}},
    ],
)
def test_every_way_to_train_takes_steps(settings):
    trainer = _trainer(**settings)
    state = optimise.start(trainer)
    for _ in range(2):
        state, told = optimise.step(trainer, state)
    assert np.all(np.isfinite(np.asarray(state.levers))) and np.any(told.gradient != 0)
    if "through" in settings:
        closed = [
            name
            for name, share in zip(systems.platform(_platform()[0]).blocks, told.told["passing"], strict=True)
            if not share
        ]
        assert closed == ["learner/home"]
