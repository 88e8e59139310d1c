"""The stage of second-order effects, on a model that is made up: what it measures, what it keeps, what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest

from mamba.meta import second_order as library
from mamba.meta import vector
from mamba.objectives import NAMES
from mamba.runs import folder, second_order, tracking
from mamba.runs.config import load_config
from mamba.runs.errors import UserError
from mamba.runs.job import prepare
from mamba.runs.sections import shared
from mamba.runs.sections.second_order import second_order_section

TINY = (
    *("--scenario.users=60", "--steps=6"),
    "--sensitivities.own={home: engagement_per_user}",
)
ENGAGED = NAMES.index("engagement_per_user")
LEVEL = 10.0
PASSES = {"users": 0.5, "learner/home": 0.25}  # of the whole derivative


def _never() -> bool:
    return False


@pytest.fixture(scope="module")
def made_up():
    """A job whose outcomes are linear in the levers: half of each derivative passes through users, a quarter through home."""
    job = prepare(load_config("smoke", [*TINY, "--second_order.seeds=3", "--second_order.audit_seeds=4"]))
    default = np.asarray(vector.flat(job.inputs.levers))
    rng = np.random.default_rng(0)
    outcomes = len(NAMES) + len(job.ecosystem.names)
    whole = rng.uniform(0.5, 1.0, (outcomes, default.size))
    # The one-step view has the sign of the second lever wrong.
    direct = 1.0 - sum(PASSES.values())
    begun = []

    def kernel(system, *, steps, segment=None):
        blocks = {name: b for b, name in enumerate(system.blocks)}
        share = jnp.full(default.size, direct).at[1].set(-direct)

        def run(context, theta, rows, shares, key):
            begun.append(1)
            passed = shares[:, 1:].mean(axis=1)  # [N, B]: nothing is carried into the first step
            through = sum(part * passed[:, blocks[name]] for name, part in PASSES.items())[:, None] / (1.0 - direct)
            fraction = (1.0 - through) * share[None] + through
            slopes = (rows @ whole) * fraction * (1.0 + 0.001 * jax.random.normal(key, (1, default.size)))
            return LEVEL + whole @ (theta - default), slopes

        return run

    def evaluate(members, done=None):
        away = np.asarray(jax.vmap(vector.flat)(members.levers)) - default
        noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (default.size,)))(members.keys))
        if done is not None:
            done(len(away) // 2)
            done(len(away))
        return LEVEL + np.einsum("bp,op->bo", away * (1.0 + 0.02 * noise), whole)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "kernel", kernel)
        yield job._replace(evaluate=evaluate), default, whole, begun


@pytest.fixture
def measured(tmp_path, made_up):
    job, default, whole, _ = made_up
    trained = default + np.linspace(-0.5, 0.5, default.size)
    values = LEVEL + 0.01 * np.random.default_rng(1).normal(size=(6, 1)) + np.zeros((6, len(NAMES)))
    evaluation = {"before": values, "after": values + whole[: len(NAMES)] @ (trained - default)}

    def run(levers=trained, stop=_never, job=job, tracker=None):
        return second_order.run(
            job, tmp_path, levers, shares=None, evaluation=evaluation, tracker=tracker or tracking.nothing(), stop=stop
        )

    return run, trained


def test_shares_cosines_and_levers_are_those_of_the_model(measured, made_up):
    run, trained = measured
    job, default, whole, _ = made_up
    rows = []
    arrays = run(tracker=tracking.nothing()._replace(log=lambda step, row: rows.append(row)))
    names = arrays["variants"].tolist()
    assert names[0] == "full" and {"window/5", "window/1", "stopped/learn", "stopped/learner/home"} <= set(names)
    assert "stopped/learner/downrank" not in names  # it learns nothing
    # Relative to levels that the noise of the evaluation moves by less than one in a thousand.
    goal = whole[[NAMES.index(name) for name in job.config.meta.minimise]].sum(axis=0) / LEVEL
    missed = np.where(np.arange(default.size) == 1, 1.25, 0.75) * goal  # 1 - (+-1/4)
    at = names.index("window/1")
    assert arrays["full_error"][at] == pytest.approx(np.linalg.norm(missed) / np.linalg.norm(goal), rel=0.01)
    assert arrays["full_error"][names.index("stopped/ties")] == 0.0
    users = arrays["full_error"][names.index("stopped/users")]
    assert users > arrays["full_error"][names.index("stopped/learner/home")] > 0.2
    np.testing.assert_array_equal(np.flatnonzero(arrays["flipped"]), [1])
    assert arrays["sampled_cosine"][0] > 0.99 > 0.95 > arrays["sampled_cosine"][at]
    assert arrays["sampled_error_low"][at] > arrays["sampled_error_high"][0]
    # Home is measured by engagement, where more is better; its levers' one-step effect is a quarter of the whole.
    lever = next(p for p, a in enumerate(arrays["owner"]) if job.ecosystem.names[a] == "home" and p != 1)
    move = (trained - default)[lever]
    assert arrays["own_gain_mean"][lever] == pytest.approx(100 * 0.25 * whole[ENGAGED, lever] / LEVEL * move, rel=0.01)
    np.testing.assert_allclose(arrays["effect_mean"], goal * (trained - default), rtol=0.01)
    total = float(goal @ (trained - default))
    for name in ("effect_total", "expected_change", "measured_change"):
        assert arrays[f"{name}_mean"] == pytest.approx(total, rel=0.02, abs=1e-4)
    (row,) = rows
    assert row["second_order/share/window/1"] == arrays["full_error"][at]
    assert all(np.isfinite(value) for value in row.values())
    (finding,) = second_order.findings(job, arrays)
    assert finding.mean == pytest.approx(100 * arrays["full_error"][at])
    assert "passes through users (opinions" in finding.sentence
    assert f"the sign of 1 of {default.size} levers wrong ({arrays['levers'][1]})" in finding.sentence


def test_results_are_kept_until_configuration_or_levers_change(measured, made_up, tmp_path):
    run, trained = measured
    job, _, _, begun = made_up
    first = run()
    begun.clear()
    kept = run(stop=lambda: True)  # nothing is left to be stopped
    np.testing.assert_array_equal(kept["slopes"], first["slopes"])
    assert not begun
    assert run(trained + 0.1, stop=lambda: True) is None  # other levers: all anew
    assert not second_order.is_stale(job, tmp_path)
    for change, stale in (("chunk=4", False), ("sensitivities.rounds=1", False), ("second_order.seeds=5", True)):
        other = job._replace(
            config=load_config(
                "smoke", [*TINY, "--second_order.seeds=3", "--second_order.audit_seeds=4", f"--{change}"]
            )
        )
        assert second_order.is_stale(other, tmp_path) == stale


@pytest.mark.parametrize("begun", [0, 3])
def test_a_signal_leaves_no_half_results(measured, made_up, tmp_path, begun):
    run, _ = measured
    left = [True] * begun
    assert run(stop=lambda: not (left and left.pop())) is None
    assert not (tmp_path / second_order.FILE).exists()
    assert run() is not None


def test_levers_that_stayed_where_they_were_gained_nothing(measured, made_up, tmp_path):
    run, _ = measured
    default = made_up[1]
    arrays = run(default)
    assert not arrays["effect_mean"].any()
    folder.write_text(tmp_path / folder.CONFIG, pages.config())
    view = shared.read(folder.load_run(tmp_path), [])
    assert "What each lever gained" not in second_order_section(view, shared.Figures())


def test_the_section_tells_it_in_words(measured, tmp_path):
    run, _ = measured
    arrays = run()
    folder.write_text(tmp_path / folder.CONFIG, pages.config())
    view = shared.read(folder.load_run(tmp_path), [])
    drawn = shared.Figures()
    source = second_order_section(view, drawn)
    text = pages.Reader(source).text
    share = 100 * arrays["full_error"][arrays["variants"].tolist().index("window/1")]
    assert f"misses {share:.1f}\N{NO-BREAK SPACE}% of the gradient" in text.replace(" %", "\N{NO-BREAK SPACE}%")
    assert f"has the wrong sign: {arrays['levers'][1]}" in text
    assert "the truth itself would show a cosine of" in text
    assert "what home learns" in text and "team gains, goal pays" in text
    assert len(drawn.scripts) == 1
    folder.write_arrays(tmp_path / second_order.FILE, {k: v for k, v in arrays.items() if k != "flipped"})
    with pytest.raises(UserError, match=r"second_order\.npz: lacks flipped"):
        second_order_section(view, shared.Figures())
    (tmp_path / second_order.FILE).unlink()
    assert second_order_section(view, shared.Figures()) == ""


def test_gradients_that_are_not_finite_are_told_so(measured, tmp_path):
    run, _ = measured
    arrays = run()
    broken = {
        k: np.full_like(v, np.nan) for k, v in arrays.items() if k.startswith(("full_", "sampled_cos", "sampled_err"))
    }
    folder.write_arrays(tmp_path / second_order.FILE, arrays | broken)
    folder.write_text(tmp_path / folder.CONFIG, pages.config())
    text = pages.Reader(second_order_section(shared.read(folder.load_run(tmp_path), []), shared.Figures())).text
    assert "too noisy, or not finite" in text and "nan" not in text


@pytest.mark.parametrize(("name", "wrong", "fewest"), [("seeds", 1, 2), ("audit_seeds", 3, 4)])
def test_too_few_rollouts_are_refused(made_up, name, wrong, fewest):
    job = made_up[0]
    for count, fine in ((0, True), (wrong, False), (fewest, True)):
        given = job._replace(config=load_config("smoke", [*TINY, f"--second_order.{name}={count}"]))
        if fine:
            second_order.check(given)
            continue
        with pytest.raises(UserError, match=rf"second_order\.{name}: {wrong} .* give 0, or at least {fewest}"):
            second_order.check(given)
