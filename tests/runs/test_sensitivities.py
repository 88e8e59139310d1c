"""The stage of derivatives, on a model that is made up: what it measures where, and what a signal costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mamba.interactions import externalities, game, jacobian
from mamba.meta import evolution, vector
from mamba.objectives import NAMES
from mamba.runs import sensitivities, tracking
from mamba.runs.config import load_config
from mamba.runs.errors import UserError
from mamba.runs.job import prepare

TRACKER = tracking.nothing()
TINY = ("--scenario.users=60", "--steps=6", "--interactions.warm_up=5", "--chunk=8")
ENGAGED, TOXIC = NAMES.index("engagement_per_user"), NAMES.index("toxic_exposure_per_user")


def _never() -> bool:
    return False


@pytest.fixture(scope="module")
def differentiated():
    """A job whose outcomes are linear in the levers; toxic exposure goes the other way on the sampled model."""
    own = "--sensitivities.own={home: engagement_per_user, downrank: toxic_exposure_per_user}"
    found = prepare(load_config("smoke", [*TINY, own, "--sensitivities.steps=2", "--sensitivities.rounds=1"]))
    levers = int(vector.flat(found.inputs.levers).size)
    rng = np.random.default_rng(0)
    expected = rng.uniform(0.5, 1.0, (len(NAMES) + len(found.ecosystem.names), levers)).astype(np.float32)
    sampled = expected.copy()
    sampled[TOXIC] *= -1.0
    told = []

    def noise(key, shape):
        return 0.01 * jax.random.normal(key, shape)

    def whole(inputs, keys):
        full = expected[None] * (1.0 + jax.vmap(lambda key: noise(key, expected.shape))(keys))
        return jacobian.Jacobian(10.0 + full @ vector.flat(inputs.levers), full, full)

    def without(inputs, keys):
        return whole(inputs, keys)._replace(direct=None)

    def weighted(inputs, theta, weights, keys):
        return 10.0 + expected @ theta, weights @ expected

    # One function each, so that all tests share what is compiled.
    def derive(ecosystem, *, steps, warm_up=0, direct=True):
        told.append(("jacobian", warm_up))

        return whole if direct else without

    def slope(ecosystem, *, steps, warm_up=0):
        told.append(("gradient", warm_up))
        return weighted

    def evaluate(ecosystem, *, steps, layout, warm_up=0):
        told.append(("sampled", warm_up))

        def outcomes(inputs, members, counts):
            away = jax.vmap(vector.flat)(members.levers) - vector.flat(inputs.levers)[None]
            slopes = sampled[None] * (1.0 + jax.vmap(lambda key: noise(key, expected.shape))(members.keys))
            return 10.0 + jnp.einsum("bop,bp->bo", slopes, away)

        return outcomes

    with pytest.MonkeyPatch.context() as patch:
        for name, made in (("jacobian", derive), ("gradient", slope), ("evaluator", evaluate)):
            patch.setattr(jacobian, name, made)
        yield found, told


def test_externalities_are_those_of_the_sampled_model_after_the_warm_up(tmp_path, differentiated):
    job, told = differentiated
    told.clear()
    arrays = sensitivities.run(job, tmp_path, tracker=TRACKER, stop=_never)
    assert sorted(told) == [("gradient", 5), ("jacobian", 5), ("jacobian", 5), ("sampled", 5)]
    pathwise, audited = arrays["externality_objective_mean"][TOXIC, 0], arrays["audited_objective_mean"][TOXIC, 0]
    assert pathwise > 0.1 and audited == pytest.approx(-pathwise, rel=0.2)
    for name in ("externality_objective", "audited_objective", "audited_algorithm"):
        reach = (arrays[f"{name}_high"] - arrays[f"{name}_low"])[ENGAGED if "objective" in name else 1, 0] / 2
        error = arrays[f"{name}_error"][ENGAGED if "objective" in name else 1, 0]
        assert reach == pytest.approx(stats.t.ppf(0.975, 7) * error)  # eight keys
    assert arrays["audited_reasons"].tolist()[:2] == arrays["reasons"].tolist()[:2] == ["", ""]
    (sentence,) = sensitivities.findings(job, arrays)
    assert sentence.sentence.rstrip(".").endswith("(sampled model, default levers)")
    kept = sensitivities.run(job, tmp_path, tracker=TRACKER, stop=lambda: True)  # nothing is left to be stopped
    np.testing.assert_array_equal(kept["jacobian"], arrays["jacobian"])
    pathwise = {name: array for name, array in arrays.items() if not name.startswith("audited")}
    assert all("derivative of the expected mode" in each.sentence for each in sensitivities.findings(job, pathwise))


def test_a_signal_during_the_last_part_loses_nothing(tmp_path, monkeypatch, differentiated):
    job, _ = differentiated
    signals, real = [], game.coordination

    def last(*given, **named):
        found = real(*given, **named)
        signals.append("SIGTERM")
        return found

    monkeypatch.setattr(game, "coordination", last)
    arrays = sensitivities.run(job, tmp_path, tracker=TRACKER, stop=lambda: bool(signals))
    assert arrays is not None and "price_mean" in arrays and (tmp_path / sensitivities.FILE).exists()


@pytest.mark.parametrize("part", ["derivatives", "audit", "coordination"])
def test_a_signal_during_an_earlier_part_leaves_no_half_results(tmp_path, monkeypatch, differentiated, part):
    job, _ = differentiated
    signals, begun = [], []

    def watched(module, name, told):
        real = getattr(module, name)

        def call(*given, **named):
            begun.append(told)
            if told == part:
                signals.append("SIGTERM")
            return real(*given, **named)

        monkeypatch.setattr(module, name, call)

    watched(externalities, "conflict", "derivatives")
    watched(evolution, "perturbed", "audit")
    watched(game, "coordination", "coordination")
    assert sensitivities.run(job, tmp_path, tracker=TRACKER, stop=lambda: bool(signals)) is None
    assert begun[-1] == part and not (tmp_path / sensitivities.FILE).exists()


@pytest.mark.parametrize("name", ["seeds", "audit_seeds"])
def test_too_few_rollouts_are_refused(name):
    for seeds, fine in ((0, True), (2, False), (3, False), (4, True)):
        job = prepare(load_config("smoke", [*TINY, f"--sensitivities.{name}={seeds}"]))
        if fine:
            sensitivities.check(job)
            continue
        with pytest.raises(UserError, match=rf"sensitivities\.{name}: {seeds} .*; give 0, or at least 4"):
            sensitivities.check(job)
