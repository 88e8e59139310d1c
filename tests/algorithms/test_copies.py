"""Copies of one kind: the same results as apart, from a program that hardly grows."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZES, STEPS, compile, key, population, values

from mamba import ecosystem as eco
from mamba.algorithms import copies, registry
from mamba.rollout import rollout

NAMES = ("first", "second", "third")


def built(kind, *, same):
    settings = {"proposals": 1} if kind == "engagement" else {}
    if same:
        return {name: registry.make(kind, **settings) for name in NAMES}
    entry = registry.KINDS[kind]
    return {name: entry.make(entry.config(**settings)) for name in NAMES}


def program(algorithms):
    ecosystem = eco.make(algorithms, sizes=SIZES)
    given = eco.inputs(ecosystem, population(), gates=[1.0, 0.5, 0.0])
    levers = {
        name: {lever: value + 0.5 * i for lever, value in own.items()}
        for i, (name, own) in enumerate(given.levers.items())
    }

    def body(given, seed):
        state, metrics = rollout(ecosystem, given, key=seed, steps=STEPS, mode="expected", segment=0)[:2]
        return state.learned, metrics

    return compile(body), given.replace(levers=levers)


def test_the_registry_hands_out_one_algorithm_for_the_same_settings():
    assert registry.make("removal") is registry.make("removal")
    assert registry.make("removal", speed=0.3) is not registry.make("removal")
    mixed = [registry.make(kind) for kind in ("engagement", "removal", "engagement", "demotion")]
    assert copies.groups(mixed) == [[0, 2], [1], [3]]


@pytest.mark.parametrize("kind", ["engagement", pytest.param("notification", marks=pytest.mark.slow)])
def test_copies_side_by_side_are_what_they_are_apart(kind):
    results, sizes = [], []
    for same in (True, False):
        run, given = program(built(kind, same=same))
        learned, metrics = run(given, key())
        results.append(values(metrics))
        sizes.append(len(run.lower(given, key()).as_text().splitlines()))
        # the closed one has learned nothing, the open ones differ
        begun = registry.make(kind).init(key(), None)
        np.testing.assert_array_equal(learned[2].weights, begun.weights)
        assert float(jnp.max(jnp.abs(learned[0].weights - learned[1].weights))) > 1e-4
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-6)
    assert sizes[0] < sizes[1]
