"""The stage that looks for tipping points: what it refuses, what a signal costs, what it extrapolates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba.interactions import phases
from mamba.objectives import NAMES
from mamba.runs import emergence, stops, tracking
from mamba.runs.config import load_config
from mamba.runs.errors import UserError
from mamba.runs.job import prepare

TRACKER = tracking.nothing()
TINY = ("--scenario.users=60", "--steps=6", "--interactions.warm_up=5", "--chunk=8")
SCANNED = ("--emergence.lever=gates/home", "--emergence.points=3", "--emergence.hold=4", "--emergence.seeds=6")
ACROSS = ("--emergence.across=world/scroll", "--emergence.across_low=0.5", "--emergence.across_high=0.9")


def _never() -> bool:
    return False


def test_a_scan_of_too_few_seeds_is_refused():
    emergence.check(prepare(load_config("smoke", [*TINY, *SCANNED])))
    emergence.check(prepare(load_config("smoke", [*TINY, "--emergence.seeds=5"])))  # nothing is scanned
    with pytest.raises(UserError, match=r"emergence\.seeds: 5 .* give at least 6"):
        emergence.check(prepare(load_config("smoke", [*TINY, *SCANNED, "--emergence.seeds=5"])))


@pytest.mark.parametrize("part", ["_growth", "_scan", "_diagram"])
def test_a_stopped_emergence_is_written_where_nothing_is_missing(tmp_path, monkeypatch, part):
    job = prepare(load_config("smoke", [*TINY, *SCANNED, *ACROSS]))
    begun = []
    made = {"blocks": np.array(["items"]), "block_rates_mean": np.array([-0.5])}
    for name in ("_growth", "_scan", "_diagram"):
        monkeypatch.setattr(emergence, name, lambda *given, name=name: begun.append(name) or made)
    arrays = emergence.run(job, tmp_path, tracker=TRACKER, stop=lambda: part in begun)
    assert begun[-1] == part
    assert (arrays is not None) == (tmp_path / emergence.FILE).exists() == (part == "_diagram")


def test_a_phase_diagram_stops_between_chunks(monkeypatch):
    job = prepare(load_config("smoke", [*TINY, *SCANNED, *ACROSS]))
    begun = []

    def cells(value, *, layout):
        def block(context, first, second, keys):
            jax.debug.callback(lambda: begun.append(None))
            return jnp.ones((len(keys), len(NAMES))) * first[:, None]

        return block

    monkeypatch.setattr(phases, "cells", cells)
    with pytest.raises(stops.Stopped):
        emergence._diagram(job, jax.random.key(0), lambda: True)
    jax.effects_barrier()
    assert len(begun) == 1  # of seven chunks of eight
    assert emergence._diagram(job, jax.random.key(0), _never)["phase_mean"].shape == (3, 3, len(NAMES))


def test_growth_rates_that_bend_are_not_extrapolated():
    values = np.linspace(0.0, 1.0, 9)
    noise = np.random.default_rng(0).normal(0, 1e-3, (4, 9))
    # A line in the upper half, whatever lies below.
    told = emergence._distance(values, np.where(values < 0.5, -3.0, values - 1.2) + noise, confidence=0.95)
    assert told["distance_tipping"] == pytest.approx(1.2, abs=0.01) and told["distance_from"] == 0.5
    assert told["distance_low"] < 1.2 < told["distance_high"]
    bent = emergence._distance(values, -((1.2 - values) ** 2) + noise, confidence=0.95)
    assert bent["distance_curvature"] < 0.05
    assert all(np.isnan(bent[f"distance_{name}"]) for name in ("tipping", "low", "high", "distance"))
