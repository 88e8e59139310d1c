"""The interaction stage: what it keeps, how it goes on after a stop, and what it says of its numbers."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mamba.algorithms.base import no_learning
from mamba.interactions import factorial
from mamba.objectives import NAMES
from mamba.runs import analysis, emergence, folder, sensitivities, tracking
from mamba.runs.config import load_config
from mamba.runs.errors import UserError

SEEDS, WINDOWS, ROWS = 5, 3, 8
TRACKER = tracking.nothing()


def _never() -> bool:
    return False


def _job(*overrides, noise=0.01, stop_after=None):
    """A job whose rollouts are made up: an interaction of the first two on every objective, and noise of the key."""
    config = load_config(
        "smoke", [f"--interactions.seeds={SEEDS}", f"--interactions.windows={WINDOWS}", "--chunk=8", *overrides]
    )
    calls = []

    def measure(members, done=None):
        gates, learning = np.asarray(members.gates), np.asarray(members.learning)
        both = gates[:, 0] * gates[:, 1]
        value = 1.0 + gates @ [0.3, 0.2, 0.1] - 0.4 * both - 0.05 * both * learning[:, 0]
        keys = np.asarray(jax.random.key_data(members.keys))[:, -1]
        calls.append(len(keys))
        for start in range(0, len(keys), 8):
            if done is not None:
                done(min(start + 8, len(keys)))
        seeds = [np.random.default_rng(int(k)).normal(0, 1) for k in keys]
        own = [
            np.random.default_rng([int(k), *g.astype(int)]).normal(0, noise) for k, g in zip(keys, gates, strict=True)
        ]
        return np.broadcast_to(
            (value + seeds + own)[:, None, None], (len(keys), 1 + WINDOWS, len(NAMES))
        ).astype(np.float32)  # fmt: skip

    algorithms = [SimpleNamespace(learn=no_learning if each.kind == "demotion" else None) for each in config.algorithms]
    ecosystem = SimpleNamespace(names=tuple(each.name for each in config.algorithms), algorithms=algorithms)
    inputs = SimpleNamespace(levers={})
    job = SimpleNamespace(config=config, ecosystem=ecosystem, inputs=inputs, measure=measure, key=jax.random.key(1))
    return job, calls, (lambda: stop_after is not None and len(calls) >= stop_after)


def test_the_stage_leaves_values_and_what_follows_from_them(tmp_path):
    job, calls, _ = _job()
    results = analysis.run(job, tmp_path, None, tracker=TRACKER, stop=_never)
    assert results is not None and not (tmp_path / analysis.PART).exists()
    arrays = folder.read_arrays(tmp_path / folder.INTERACTIONS)
    assert arrays["values"].shape == (SEEDS, ROWS, len(NAMES))
    assert arrays["windows"].shape == (SEEDS, ROWS, WINDOWS, len(NAMES))
    np.testing.assert_allclose(arrays["faith_shap_pair_mean"][0, 1], -0.45, atol=0.05)
    np.testing.assert_array_equal(arrays["learning_pairs"], [[1, 0]])  # the second switched on while the first learns
    assert arrays["learning_values"].shape == (1, SEEDS, 9, len(NAMES))
    # Nothing is measured again where nothing that decides values changed, whatever else did.
    before = len(calls)
    other, _, _ = _job("--interactions.confidence=0.9", "--interactions.background=average", "--meta.steps=0")
    kept = analysis.kept(other, tmp_path)
    assert kept is not None
    again = analysis.run(job, tmp_path, kept, tracker=TRACKER, stop=_never)
    assert again is not None and len(calls) == before
    np.testing.assert_array_equal(again.measured.values, results.measured.values)
    for changed in ("--interactions.warm_up=3", "--seed=4", "--parameters.scroll=0.7", "--steps=9"):
        assert analysis.kept(_job(changed)[0], tmp_path) is None


def test_a_stopped_table_goes_on_where_it_was(tmp_path):
    whole = analysis.run(_job()[0], tmp_path / "whole", None, tracker=TRACKER, stop=_never)
    job, calls, stop = _job(stop_after=3)
    assert analysis.run(job, tmp_path, None, tracker=TRACKER, stop=stop) is None
    assert folder.read_arrays(tmp_path / analysis.PART)["values"].shape[0] == 3
    job, calls, _ = _job()
    resumed = analysis.run(job, tmp_path, None, tracker=TRACKER, stop=_never)
    assert whole is not None and resumed is not None
    assert calls == [8, 8, 45]  # two seeds more, then five seeds of nine rows
    np.testing.assert_array_equal(resumed.measured.values, whole.measured.values)


def test_a_stop_between_two_pairs_keeps_the_first(tmp_path):
    asked = ("--interactions.background=average", "--interactions.learning_pairs=2")

    def three(members, done=None):
        """All three interact, so that there are two pairs to be run again."""
        values = plain(members, done)
        gates = np.asarray(members.gates)
        return values + np.float32(0.3) * (gates[:, 2] * gates[:, :2].sum(axis=1))[:, None, None]

    job, calls, stop = _job(*asked, stop_after=SEEDS + 2)
    plain, job.measure = job.measure, three
    assert analysis.run(job, tmp_path, None, tracker=TRACKER, stop=stop) is None
    kept = analysis.kept(job, tmp_path)
    assert kept is not None and len(kept.pairs) == 1 and len(calls) == SEEDS + 2
    job, calls, _ = _job(*asked)
    plain, job.measure = job.measure, three
    found = analysis.run(job, tmp_path, kept, tracker=TRACKER, stop=_never)
    assert found is not None and len(found.measured.pairs) == 2 and len(calls) == 1
    np.testing.assert_array_equal(found.measured.learning[0], kept.learning[0])


def test_a_part_of_another_configuration_is_not_gone_on_with(tmp_path):
    job, _, stop = _job(stop_after=3)
    assert analysis.run(job, tmp_path, None, tracker=TRACKER, stop=stop) is None
    other, calls, _ = _job("--steps=9")
    assert analysis.run(other, tmp_path, None, tracker=TRACKER, stop=_never) is not None
    assert calls[:SEEDS] == [8] * SEEDS
    (tmp_path / analysis.PART).write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"interactions\.part\.npz: cannot be read"):
        analysis.run(job, tmp_path, None, tracker=TRACKER, stop=_never)


def test_lost_common_random_numbers_are_told(tmp_path, capsys):
    job, _, _ = _job()
    analysis.run(job, tmp_path, None, tracker=TRACKER, stop=_never)
    assert "common random numbers" not in capsys.readouterr().err
    job, _, _ = _job(noise=3.0)
    analysis.run(job, tmp_path / "noisy", None, tracker=TRACKER, stop=_never)
    assert "common random numbers gain little here" in capsys.readouterr().err


def test_scalars_carry_effects_and_verdicts(tmp_path):
    results = analysis.run(_job()[0], tmp_path, None, tracker=TRACKER, stop=_never)
    assert results is not None
    row = analysis.row(results.analysis)
    names = results.analysis.names
    assert len(row) == len(NAMES) * (3 + 2 * 3)
    at = NAMES.index("polarisation")
    assert row[f"interactions/polarisation/{names[0]}__on__{names[1]}"] == results.analysis.index_pair.mean[0, 1, at]
    assert row[f"verdicts/engagement_per_user/{names[0]}__on__{names[1]}"] == "working_against"
    figure = analysis.heat_map(results.analysis, at, -1.0)
    assert figure.resolved[0, 1] and not figure.resolved[1, 2]
    np.testing.assert_allclose(
        np.diag(figure.effect) * results.analysis.spread[at], results.analysis.index_main.mean[:, at]
    )


def test_beyond_eight_algorithms_a_fraction_is_run():
    assert len(factorial.plan(9).design.gates) == 128 + 1 + 9 + 36
    with pytest.raises(UserError, match=r"interactions.windows: 9 parts of a rollout of 8 steps"):
        load_config("smoke", ["--interactions.windows=9"])


@pytest.mark.parametrize("stage", [emergence, sensitivities])
def test_results_of_another_configuration_are_stale(tmp_path, stage):
    job, _, _ = _job()
    assert not stage.is_stale(job, tmp_path)  # there is nothing
    folder.write_arrays(tmp_path / stage.FILE, {"digest": np.array(stage.digest(job))})
    for same in ("--interactions.seeds=3", "--log.group=x", "--checkpoint.every=2"):
        assert not stage.is_stale(_job(same)[0], tmp_path), same
    for other in ("--seed=4", "--steps=9", "--interactions.confidence=0.9", f"--{stage.STAGE}.seeds=5"):
        assert stage.is_stale(_job(other)[0], tmp_path), other
    # Derivatives start after the warm-up of the interactions, scans start cold.
    assert stage.is_stale(_job("--interactions.warm_up=3")[0], tmp_path) == (stage is sensitivities)
    (tmp_path / stage.FILE).write_bytes(b"nonsense")
    with pytest.raises(UserError, match=f"{stage.STAGE}.npz: cannot be read"):
        stage.is_stale(job, tmp_path)
