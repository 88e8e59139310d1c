"""Mean field against the sampled model: every objective, level by level.

The expected mode is for derivatives; levels are reported from the sampled model. Closing the equations at their means
leaves a bias of half the curvature times the variance, which this file measures and bounds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZES, first, gates, inputs, key, run

from mamba import ecosystem as eco
from mamba import objectives
from mamba.algorithms import registry
from mamba.rollout import rollout
from mamba.scenarios.populations import generated
from mamba.types import Sizes

# Misses that are understood; each is a bias of closing equations at their means, and is printed with the rest.
KNOWN = {
    "false_removal_rate": "the classifier reads log(1 + 4 reports): rare reports average to many small ones (Jensen)",
    "toxic_exposure_gap": "the largest difference between groups: noise between groups raises it when events are drawn",
}
# Seen in 60 users with some twenty live items only.
KNOWN_SMALL = KNOWN | {
    "wellbeing": "its level is near 0 after few steps, so that 3 % of it is less than 0.001 SD",
    "creator_inequality": "the Gini coefficient of some twenty counts per creator is above that of their means",
    "exposure_disparity": "so is the distance between shares of counts",
}
# With `two_tower`, whose retrieval is an argmax over logged interests: averaged interests are less diverse than drawn
# ones, and of twenty items users then retrieve other ones. Without it the bias is gone, and 200 creators do not show
# it.
KNOWN_RETRIEVAL = KNOWN_SMALL | {
    f"misinformation_{what}_per_{unit}": "two_tower, see above"
    for what in ("exposure", "reshares")
    for unit in ("user", "impression")
}
# 1,000 users, 30 steps, 64 seeds: reshares of misinformation + 5 %, wellbeing + 5 %, inequality of creators + 4 %. With the
# gate of `two_tower` closed, or when nobody learns, all but wellbeing and the two inequalities agree within 1 %.
KNOWN_LARGE = KNOWN | {
    "misinformation_reshares_per_user": "two_tower learns faster from averaged labels, which have no noise",
    "misinformation_reshares_per_impression": "likewise",
    "wellbeing": "its losses are convex: fatigue squared, glitter above substance",
    "creator_inequality": "the trending draw and the towers concentrate on other creators where clicks are averaged",
    "exposure_disparity": "likewise; its level is 0.04, of which 3 % is 0.001",
}


def compare(hard, soft, known):
    """Prints hard and soft `[seeds, J]` side by side; returns the objectives that are off by > 3 % and > 2 errors."""
    misses = []
    print(f"\n{'objective':42s} {'sampled':>10s} {'expected':>10s} {'gap %':>8s} {'gap / SE':>9s}")
    for j, name in enumerate(objectives.NAMES):
        gap = soft[:, j] - hard[:, j]  # paired: one key, one noise
        error = gap.std(ddof=1) / np.sqrt(len(gap))
        level, off = hard[:, j].mean(), gap.mean()
        relative, z = off / max(abs(level), 1e-9), off / max(error, 1e-12)
        miss = abs(relative) > 0.03 and abs(z) > 2
        if miss:
            misses.append(name)
        note = " <- known" if miss and name in known else " <- MISS" if miss else ""
        print(f"{name:42s} {level:10.5f} {soft[:, j].mean():10.5f} {100 * relative:8.2f} {z:9.2f}{note}")
    return set(misses)


@pytest.mark.parametrize(("retrieval", "known"), [(0.0, KNOWN_SMALL), (1.0, KNOWN_RETRIEVAL)])
def test_levels_agree_in_a_small_world(retrieval, known):
    given = inputs(gates=gates(two_tower=retrieval))

    def of(mode):
        return np.stack([np.asarray(EVALUATE(run(mode)(given, first(), key(s))[1])) for s in range(128)])

    hard, soft = of("sampled"), of("expected")
    assert np.all(np.isfinite(hard)) and np.all(np.isfinite(soft))
    assert compare(hard, soft, known) <= set(known)


EVALUATE = jax.jit(lambda metrics: objectives.evaluate(metrics, SIZES.users))


@pytest.mark.slow
def test_levels_agree_in_a_world_of_a_thousand():
    sizes = Sizes(users=1000, creators=200)
    ecosystem = eco.make({kind: registry.make(kind) for kind in registry.KINDS}, sizes=sizes)
    given = eco.inputs(ecosystem, jax.tree.map(jnp.asarray, generated(sizes, seed=1)))

    def of(mode):
        @jax.jit
        def one(seed):
            _, metrics, _ = rollout(ecosystem, given, key=seed, steps=30, mode=mode, segment=0)
            return objectives.evaluate(metrics, sizes.users)

        return np.stack([np.asarray(one(key(seed))) for seed in range(16)])

    assert compare(of("sampled"), of("expected"), KNOWN_LARGE) <= set(KNOWN_LARGE)
