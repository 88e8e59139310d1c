"""The stage of retraining teams, on a model that is made up, and what the report says of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import make, row_of

from mamba.meta import performative, vector
from mamba.objectives import NAMES
from mamba.runs import folder, performativity, report, tracking
from mamba.runs.config import load_config
from mamba.runs.job import prepare
from mamba.runs.sections.performativity import performativity_section
from mamba.runs.sections.shared import Figures, read

TRACKER = tracking.nothing()
ENGAGED, TOXIC = NAMES.index("engagement_per_user"), NAMES.index("toxic_exposure_per_user")
OWN = "{home: engagement_per_user, downrank: toxic_exposure_per_user}"
ARGUMENTS = (
    *("--scenario.dataset=generated", "--scenario.users=60", "--steps=6", "--evaluation.seeds=4"),
    *(f"--sensitivities.own={OWN}", "--performativity.rounds=12", "--performativity.steps=30"),
    *("--performativity.radius=2", "--performativity.cost=0"),
)
ECHO, PULL = 0.5, 0.4  # how far data follow what is deployed, and what a team wants on the data of the defaults


def _never():
    return False


@pytest.fixture(scope="module")
def made_up():
    """A job whose data follow half of what is deployed, and whose outcomes fall with the levers; the order of what was done."""
    job = prepare(load_config("smoke", ARGUMENTS))
    start = vector.flat(job.inputs.levers)
    done = []

    def slopes(system, *, steps):
        done.append("slopes")

        def run(context, deployed, theta, players, weights, keys):
            wanted = start + PULL + ECHO * (deployed - start)
            slope = jnp.where(players == vector.NOBODY, 0.0, theta - wanted)
            return jnp.broadcast_to(slope, (len(keys), len(slope)))

        return run

    def risks(system, *, steps):
        def run(context, deployed, theta, players, weights, keys):
            each = jnp.stack([jnp.sum(jnp.where(players == k, theta - start, 0.0)) for k in range(len(weights))])
            return jnp.broadcast_to(-0.25 * each, (len(keys), len(weights)))

        return run

    def evaluate(members, done_=None):
        done.append(("evaluated", len(members.keys)))
        away = (np.asarray(jax.vmap(vector.flat)(members.levers), np.float64) - np.asarray(start)).sum(axis=1)
        noise = np.asarray(jax.vmap(jax.random.normal)(members.keys), np.float64)
        values = np.repeat((10.0 + 0.1 * noise - away)[:, None], len(NAMES) + len(job.ecosystem.names), axis=1)
        values[:, len(NAMES) :] = 0.0  # own losses
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(performative, "slopes", slopes)
        patch.setattr(performative, "risks", risks)
        yield job._replace(evaluate=evaluate), done


def _run(job, path, *, trained=None, stop=_never):
    return performativity.run(job, path, trained=trained, tracker=TRACKER, stop=stop)


@pytest.fixture(scope="module")
def trained(made_up):
    job, _ = made_up
    return jax.tree.map(lambda lever: lever + 1.5, job.inputs.levers)


@pytest.fixture(scope="module")
def everything(made_up, trained, tmp_path_factory):
    """All four points."""
    return _run(made_up[0], tmp_path_factory.mktemp("everything"), trained=trained)


def test_points_and_course_are_those_of_the_model(tmp_path, made_up):
    job, _ = made_up
    arrays = _run(job, tmp_path)
    assert arrays["points"].tolist() == ["default", "naive", "stable"]
    away = arrays["point_levers"] - arrays["point_levers"][0]
    plays = arrays["players"] != vector.NOBODY
    # takedown has no metric: its levers stay.
    assert {name.split("/")[0] for name in arrays["levers"][plays]} == {"home", "downrank"}
    np.testing.assert_array_equal(away[:, ~plays], 0.0)
    np.testing.assert_allclose(away[1, plays], PULL, atol=0.02)
    np.testing.assert_allclose(away[2, plays], PULL / (1 - ECHO), atol=0.06)
    assert float(arrays["rate"]) == pytest.approx(ECHO, abs=0.05) and bool(arrays["converged"])
    gaps = performativity.gaps(arrays, confidence=0.95)
    moved = (away[2] - away[1]).sum()
    for estimate in (gaps["naive", "stable"].mean, gaps["naive", "stable"].low, gaps["naive", "stable"].high):
        np.testing.assert_allclose(estimate[: len(NAMES)], moved, rtol=1e-3)  # the same seeds: noise falls out
    np.testing.assert_allclose(arrays["promised"], 0.25 * PULL * np.array([[4, 2]] * 4), rtol=0.05)
    assert arrays["meaningful"].shape == away.shape and len(arrays["units"]) == away.shape[1]


def test_trained_levers_are_added_to_what_is_known(tmp_path, made_up, trained):
    job, done = made_up
    first = _run(job, tmp_path)
    done.clear()
    arrays = _run(job, tmp_path, trained=trained)
    assert done == [("evaluated", 4)]  # nothing but the new point
    assert arrays["points"].tolist() == ["default", "naive", "stable", "trained"]
    np.testing.assert_array_equal(arrays["values"][:3], first["values"])
    again = _run(job, tmp_path, trained=trained, stop=lambda: True)  # nothing is left to be stopped
    np.testing.assert_array_equal(again["values"], arrays["values"])
    kept = _run(job, tmp_path)
    assert kept["points"].tolist()[-1] == "trained" and done == [("evaluated", 4)]
    others = _run(job, tmp_path, trained=job.inputs.levers)
    assert others["points"].tolist() == arrays["points"].tolist()
    np.testing.assert_allclose(others["values"][3], others["values"][0])


def test_at_once_or_one_after_the_other_is_the_same_file(tmp_path, made_up, trained, everything):
    job, _ = made_up
    _run(job, tmp_path)
    _run(job, tmp_path, trained=trained)
    once, twice = everything, folder.read_arrays(tmp_path / performativity.FILE)
    assert once.keys() == twice.keys()
    for name, array in once.items():
        np.testing.assert_array_equal(array, twice[name], err_msg=name)


def test_another_configuration_is_stale(tmp_path, made_up):
    job, _ = made_up
    _run(job, tmp_path)
    assert not performativity.is_stale(job, tmp_path)
    indifferent = load_config("smoke", [*ARGUMENTS, "--chunk=3", "--sensitivities.seeds=0", "--name=other"])
    assert not performativity.is_stale(job._replace(config=indifferent), tmp_path)
    for change in ("--performativity.cost=0.1", "--evaluation.seeds=5", "--sensitivities.own={}"):
        other = load_config("smoke", [*ARGUMENTS, change])
        assert performativity.is_stale(job._replace(config=other), tmp_path), change


@pytest.mark.parametrize("after", [0, 1, 3, 50])
def test_a_signal_leaves_no_half_results(tmp_path, made_up, after):
    job, _ = made_up
    heard = []

    def stop():
        heard.append(1)
        return len(heard) > after

    assert _run(job, tmp_path, stop=stop) is None
    assert not (tmp_path / performativity.FILE).exists()


def test_where_nobody_plays_nobody_retrains(tmp_path, made_up):
    job, _ = made_up
    quiet = job._replace(evaluate=lambda members, done=None: np.zeros((len(members.keys), len(NAMES) + 3)))
    arrays = _run(quiet, tmp_path)
    assert arrays["points"].tolist() == ["default"] and performativity.findings(quiet, arrays) == []


def test_a_cost_holds_levers_back(tmp_path, made_up):
    job, _ = made_up
    cost = 2.0  # of the whole radius of 2: a price of 1 per square, as much as the curvature of the model
    charged = load_config("smoke", [*ARGUMENTS, f"--performativity.cost={cost}"])
    arrays = _run(job._replace(config=charged), tmp_path)
    plays = arrays["players"] != vector.NOBODY
    away = (arrays["point_levers"] - arrays["point_levers"][0])[:, plays]
    np.testing.assert_allclose(away[1], PULL / 2, atol=0.02)
    np.testing.assert_allclose(away[2], PULL / (2 - ECHO), atol=0.04)
    assert float(arrays["rate"]) == pytest.approx(ECHO / 2, abs=0.05)


def test_the_finding_says_which_way_the_goal_went(made_up, everything):
    job, arrays = made_up[0], everything
    (found,) = performativity.findings(job, arrays)
    # Three objectives fall by the sum of the moves, of a level of about 10.
    away = np.diff(arrays["point_levers"].sum(axis=1))
    naive, stable, best = -300.0 * away / arrays["values"][0, :, 0].mean()
    assert f"changed the ecosystem goal by {naive:+.1f} % (95 % CI" in found.sentence
    assert f"the others by another {stable:+.1f} %" in found.sentence
    assert f"training through the dynamics ends {best:+.1f} %" in found.sentence
    assert found.mean == pytest.approx(-best / 100)  # the trained levers have less of it
    assert "came to rest" in found.sentence and found.kind == performativity.STAGE


def _page(path, arrays):
    make(path, parts="interactions summary")
    folder.write_arrays(path / performativity.FILE, arrays)
    return str(performativity_section(read(folder.load_run(path), []), Figures()))


def test_the_report_shows_points_gaps_and_promises(tmp_path, everything):
    arrays = everything
    page = _page(tmp_path / "page", arrays)
    assert "came to rest after" in page
    # Four levers of home promise it more engagement; everything falls when all six have moved.
    promised, got = 100 * arrays["promised"][0, 0], 100 * np.diff(arrays["values"][:2].mean(axis=1)[:, ENGAGED]).item()
    row = row_of(page, "home")
    assert f"+{promised:.1f}" in row and f"{got / arrays['values'][0, :, ENGAGED].mean():.1f}" in row and got < 0
    fell = 100 * np.diff(arrays["values"].mean(axis=1)[:, TOXIC]) / arrays["values"][0, :, TOXIC].mean()
    row = row_of(page, "toxic exposure")
    assert all(f"{each:.1f}" in row for each in fell)
    moved = row_of(page, "downrank/toxicity")
    assert (
        f"{arrays['meaningful'][2, arrays['levers'].tolist().index('downrank/toxicity')]:.2f}" in moved
        and "*" not in moved
    )
    at_edge = arrays | {"radius": np.abs(arrays["path"][-1] - arrays["path"][0]).max()}
    assert "*" in row_of(
        _page(tmp_path / "edge", at_edge), arrays["levers"][np.argmax(np.abs(arrays["path"][-1] - arrays["path"][0]))]
    )
    without = {name: array for name, array in arrays.items() if name not in ("path", "playing")}
    assert "nobody retrains" in _page(tmp_path / "nobody", without)
    assert performativity_section(read(folder.load_run(make(tmp_path / "none")), []), Figures()) == ""
    lacking = {name: array for name, array in arrays.items() if name != "values"}
    with pytest.raises(report.UserError, match="lacks values"):
        _page(tmp_path / "lacking", lacking)
