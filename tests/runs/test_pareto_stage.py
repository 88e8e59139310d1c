"""The stage of the front on a model that is made up, and what the report says of it."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import make, pictures, row_of, written

from mamba.meta import fronts, vector
from mamba.meta import pareto as training
from mamba.objectives import NAMES
from mamba.runs import evaluation, folder, pareto, tracking
from mamba.runs.config import load_config
from mamba.runs.errors import UserError
from mamba.runs.job import prepare

TRACKER = tracking.nothing()
ENGAGED, TOXIC, TRUST = (NAMES.index(name) for name in ("engagement_per_user", "toxic_exposure_per_user", "trust"))
SETTINGS = (
    *("--scenario.users=60", "--steps=4", "--pareto.divisions=4", "--pareto.steps=40", "--pareto.warm_steps=10"),
    *(
        "--pareto.seeds=4",
        "--evaluation.seeds=6",
        "--meta.audit_every=0",
        "--meta.seeds=4",
        "--meta.monitor_every=0",
        "--meta.optimizer=rmsprop",
    ),
    *("--meta.learning_rate=0.05", "--meta.keep={engagement_per_user: 0.97, trust: 0.5}"),
)


def _never() -> bool:
    return False


def _outcomes(away: jax.Array, count: int) -> jax.Array:
    """Toxic exposure is least one unit along the first lever, engagement most along the second: the front lies between."""
    first, second = jnp.eye(len(away))[:2]
    values = jnp.ones(count).at[TOXIC].set(1.0 + 0.5 * (jnp.sum((away - first) ** 2) - 1.0))
    values = values.at[ENGAGED].set(1.0 - 0.5 * (jnp.sum((away - second) ** 2) - 1.0))
    return values.at[TRUST].set(1.0 - 0.1 * away[0])


@pytest.fixture(scope="module")
def front():
    """A job with quadratic objectives, and a list of how many rollouts were asked for."""
    job = prepare(load_config("smoke", [*SETTINGS]))
    start, count, asked = vector.flat(job.inputs.levers), len(NAMES) + len(job.ecosystem.names), []

    @jax.jit
    def values(thetas, keys):
        def one(theta, key):
            shift = 0.05 * jax.random.normal(key, (count,))
            return _outcomes(theta - start, count) + shift * (1.0 + 0.2 * (theta - start)[0])

        return jax.vmap(one)(thetas, keys)

    slope = jax.jit(jax.vmap(lambda theta, rows: rows @ jax.jacrev(lambda x: _outcomes(x - start, count))(theta)))

    def evaluate(members, done=None):
        asked.append(len(members.keys))
        found = np.asarray(values(jax.vmap(vector.flat)(members.levers), members.keys))
        if done is not None:
            done(len(found))
        return found

    def slopes(thetas, rows, shares, keys):
        found = np.asarray(slope(jnp.asarray(thetas, jnp.float32), jnp.asarray(rows, jnp.float32)))
        noise = 1.0 + 0.1 * np.asarray(jax.vmap(lambda key: jax.random.normal(key, ()))(keys))
        return np.zeros((len(thetas), len(keys), count)), noise[None, :, None, None] * found[:, None]

    real = training.search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "search", lambda *given, **named: real(*given, **named)._replace(slopes=slopes))
        yield job._replace(evaluate=evaluate), asked


@pytest.fixture(scope="module")
def found(front, tmp_path_factory):
    path = tmp_path_factory.mktemp("front")
    return pareto.run(front[0], path, trained=None, tracker=TRACKER, stop=_never), path


def test_the_front_is_trained_measured_and_kept(front, found):
    job, asked = front
    arrays, path = found
    away = arrays["point_levers"] - arrays["start_levers"]
    assert np.abs(away[:, 2:]).max() < 0.1  # levers without effect stay
    np.testing.assert_allclose(away[:, 0] + away[:, 1], 1.0, atol=0.1)  # all on the segment between the ends
    order = np.argsort(arrays["weights"][:, 0])
    assert np.all(np.diff(away[order, 0]) > 0.05) and away[order[-1], 0] > 0.9
    assert arrays["chosen"].all() and arrays["allowed"].all() and not arrays["violates"].any()
    assert arrays["dropped"].tolist() == ["engagement_per_user"]
    exact = [np.asarray(_outcomes(jnp.asarray(each, jnp.float32), len(NAMES))) for each in away]
    harms = np.stack([[each[TOXIC] - 1.0, 1.0 - each[ENGAGED]] for each in exact])
    volume = float(fronts.hypervolume(harms, reference=np.zeros(2)))
    assert arrays["volume_low"] < volume < arrays["volume_high"] and arrays["volume_low"] > 0.5 * volume > 0.025
    # The fresh seeds are those of the final evaluation.
    same = evaluation.compared(job, {"before": job.inputs.levers}, stop=_never)["before"]
    np.testing.assert_array_equal(arrays["fresh"][0][:, : len(NAMES)], same)
    assert arrays["selection"].shape[:2] == (6, 4) and arrays["fresh"].shape[:2] == (6, 6)
    assert not (path / pareto.PART).exists()
    asked.clear()
    again = pareto.run(job, path, trained=None, tracker=TRACKER, stop=lambda: True)  # nothing is left to be stopped
    np.testing.assert_array_equal(again["fresh"], arrays["fresh"])
    assert not asked


def test_the_certificate_tells_the_front_from_the_baseline(found):
    arrays, _ = found
    # At the baseline the gradients are orthogonal and of length 1 / level: the middle of the two has a squared length of 1/2.
    low, high = arrays["certificate_low_baseline"], arrays["certificate_high_baseline"]
    assert low < 0.5 < high and low > 0.3
    assert arrays["certificate_squared_even"] < 0.02
    assert [NAMES[i] for i in arrays["certificate_objectives_baseline"]] == list(arrays["traded"])


def test_a_stopped_front_goes_on_with_the_same_bytes(front, found, tmp_path):
    job, _ = front
    arrays, _ = found
    for patience in (0, 10, 60, 52):
        left = [patience]

        def stop(left=left) -> bool:
            left[0] -= 1
            return left[0] < 0

        assert pareto.run(job, tmp_path, trained=None, tracker=TRACKER, stop=stop) is None
        assert not (tmp_path / pareto.FILE).exists()
        assert (tmp_path / pareto.PART).exists() == (patience > 50)
    again = pareto.run(job, tmp_path, trained=None, tracker=TRACKER, stop=_never)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    assert not (tmp_path / pareto.PART).exists()


def test_what_is_left_of_another_front_is_not_used(front, tmp_path):
    job, _ = front
    folder.write_arrays(tmp_path / pareto.PART, {"digest": np.array("another"), **_part()})
    search = pareto._search(job)
    assert pareto._part(job, tmp_path / pareto.PART, search) == (None, None)
    folder.write_arrays(tmp_path / pareto.PART, {"digest": np.array("another")})
    with pytest.raises(UserError, match=r"pareto\.part\.npz: lacks levers"):
        pareto._part(job, tmp_path / pareto.PART, search)
    folder.write_arrays(tmp_path / pareto.FILE, {"digest": np.array("another")})
    assert pareto.is_stale(job, tmp_path)


def _part() -> dict[str, np.ndarray]:
    return {name: np.zeros((5, 2)) for name in (*training.Points._fields, *training.Scale._fields)}


def test_settings_that_do_not_count_leave_the_results(front):
    job, _ = front
    digest = pareto.digest(job)

    def changed(**settings: Any) -> str:
        return pareto.digest(job._replace(config=dataclasses.replace(job.config, **settings)))

    assert changed(name="another", chunk=3) == digest
    assert changed(meta=dataclasses.replace(job.config.meta, steps=7, minimise={"trust": -1.0})) == digest
    assert changed(meta=dataclasses.replace(job.config.meta, penalty=7.0)) != digest
    assert changed(pareto=dataclasses.replace(job.config.pareto, steps=7)) != digest


def test_trained_levers_are_added_once(front, found, tmp_path):
    job, asked = front
    arrays, _ = found
    folder.write_arrays(tmp_path / pareto.FILE, arrays)
    theta = jnp.asarray(arrays["start_levers"], jnp.float32).at[1].add(0.5)
    levers = vector.unflat(job.inputs.levers)(theta)
    asked.clear()
    more = pareto.run(job, tmp_path, trained=levers, tracker=TRACKER, stop=_never)
    assert asked == [6]
    gain = pareto.relative(more["trained_fresh"], arrays["fresh"][0], np.array([ENGAGED])).mean()
    assert gain == pytest.approx(-0.375, abs=0.03)
    assert more["certificate_low_trained"] > 0
    np.testing.assert_array_equal(more["point_levers"], arrays["point_levers"])
    pareto.run(job, tmp_path, trained=levers, tracker=TRACKER, stop=_never)
    assert asked == [6]
    pareto.run(job, tmp_path, trained=job.inputs.levers, tracker=TRACKER, stop=_never)
    kept = folder.read_arrays(tmp_path / pareto.FILE)
    assert asked == [6, 6] and np.ptp(kept["trained_fresh"] - arrays["fresh"][0]) == 0


def test_points_that_break_a_constraint_do_not_count(front, found):
    job, _ = front
    arrays, _ = found
    search = pareto._search(job)
    broken = {name: np.array(arrays[name]) for name in ("selection", "fresh")}
    best = int(arrays["even"])
    for each in broken.values():
        each[1 + best, :, TRUST] = 0.3 * each[0, :, TRUST]
    judged = pareto._judged(job, search, broken)
    assert judged["violates"][best] and not judged["allowed"][best] and not judged["chosen"][best]
    assert judged["violates"].sum() == 1 and judged["violation_low"][best] > 0
    assert judged["volume_value"] < arrays["volume_value"]
    for each in broken.values():
        each[1:, :, TRUST] = 0.3 * each[0, :, TRUST]
    nothing = pareto._judged(job, search, broken)
    assert not nothing["chosen"].any() and nothing["volume_value"] == 0


def test_settings_are_refused_before_anything_runs():
    for more, message in (
        ("--pareto.objectives=[trust]", "pareto.objectives: a front trades off at least two"),
        ("--pareto.objectives=[trust, nothing]", "pareto.objectives: no objective is called 'nothing'"),
        ("--meta.estimator=es", "meta.estimator es cannot train a front"),
    ):
        job = prepare(load_config("smoke", [*SETTINGS, more]))
        with pytest.raises(UserError, match=re.escape(message)):
            pareto.check(job)
        pareto.check(job._replace(config=dataclasses.replace(job.config, pareto=type(job.config.pareto)())))


def test_findings_and_figure_tell_the_ends(front, found):
    job, _ = front
    arrays, _ = found
    (told,) = pareto.findings(job, arrays)
    assert told.kind == "pareto" and told.low > 0
    assert re.search(r"toxic exposure reaches -(4\d|5\d)\.\d % .* engagement reaches \+(4\d|5\d)\.\d %", told.sentence)
    assert "5 of 5 platforms stand out, and some improve all of them at once" in told.sentence
    rows = []
    tracker = TRACKER._replace(log=lambda step, row: rows.append(row))
    pareto._log(job, arrays, tracker)
    assert rows[0]["pareto/hypervolume"] > 0.04 and rows[0]["pareto/points"] == 5


# ---- the page


def _page(path: Path, arrays: dict[str, Any]) -> tuple[str, Any]:
    make(path, parts="summary")
    folder.write_arrays(path / pareto.FILE, arrays)
    return written(path)


def test_the_page_shows_the_front(front, found, tmp_path):
    job, _ = front
    arrays, _ = found
    theta = jnp.asarray(arrays["start_levers"], jnp.float32).at[1].add(0.5)
    folder.write_arrays(tmp_path / pareto.FILE, arrays)
    arrays = pareto.run(job, tmp_path, trained=vector.unflat(job.inputs.levers)(theta), tracker=TRACKER, stop=_never)
    source, page = _page(tmp_path, arrays)
    assert (
        "5 platforms were trained together" in page.text
        and "What the run otherwise keeps is traded off here" in page.text
    )
    assert "All of them were trained with trust at least 50 % of the baseline." in page.text
    assert "improves on the baseline in all of them at once" in page.text
    section = source[source.index('<section id="pareto"') :]
    row = row_of(section, "50 / 50")
    assert "stands out" in row and row.count("%") >= 2
    assert str(arrays["levers"][0]) in row and "→" in row
    assert "a direction that helps all of them is left" in row_of(section, "Baseline")
    assert "Levers trained for the goal of the run" in page.text
    drawn = next(v for v in pictures(source) if any(t.get("name") == "baseline" for t in v[0]["data"]))[0]
    names = [trace["name"] for trace in drawn["data"] if "name" in trace]
    assert names == ["on the front", "trained for the goal of the run", "baseline"]
    assert drawn["layout"]["xaxis"]["title"]["text"] == "← healthier change of toxic exposure in %"
    assert drawn["layout"]["yaxis"]["title"]["text"] == "change of engagement in % healthier →"
    points = next(trace for trace in drawn["data"] if trace.get("name") == "on the front")
    assert len(points["x"]) == 5 and min(points["x"]) < -40 and max(points["y"]) > 40


def test_broken_constraints_and_unresolved_volumes_are_said(found, tmp_path):
    arrays = dict(found[0])
    arrays["violation_low"] = np.array(arrays["violation_low"])
    first = int(np.argmax(arrays["weights"][:, 0]))
    arrays["violation_low"][first] = 0.5
    arrays["violates"] = np.arange(5) == first
    arrays["volume_low"] = np.array(-0.01)
    source, page = _page(tmp_path, arrays)
    assert "breaks a constraint: trust" in row_of(source, "100 / 0")
    assert "Whether anything improves on the baseline in all of them at once is not resolved" in page.text
    drawn = next(v for v in pictures(source) if any(t.get("name") == "baseline" for t in v[0]["data"]))[0]
    broken = next(trace for trace in drawn["data"] if trace.get("name") == "breaks a constraint")
    assert len(broken["x"]) == 1


def test_damaged_files_are_refused_by_name(found, tmp_path):
    lost = {name: array for name, array in found[0].items() if name != "volume_low"}
    with pytest.raises(UserError, match=r"pareto\.npz: lacks volume_low"):
        _page(tmp_path, lost)
