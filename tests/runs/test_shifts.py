"""Interactions are followed while levers are trained: when, paired with the default levers, and what the page says of it."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import make, measured, pictures, row_of, training_row, written

from mamba.interactions import factorial
from mamba.objectives import NAMES
from mamba.runs import analysis, folder, shifts, tracking
from mamba.runs.config import load_config
from mamba.runs.errors import UserError
from mamba.runs.stops import Stopped

SEEDS, ROWS = 6, 8
PEOPLE = ("home", "takedown", "downrank")
TOXIC = NAMES.index("toxic_exposure_per_user")
PAIR = "toxic_exposure_per_user/home__on__takedown"
TRAINER = SimpleNamespace(baseline={"home": {"x": jnp.zeros(())}})


def _never() -> bool:
    return False


def _state(step: int, x: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(step=np.int32(step), levers=jnp.asarray([x], jnp.float32))


def _job(*overrides: str):
    """Rollouts that are made up: home and takedown interact by -0.4, and by the lever x on top of it on one objective."""
    asked = [f"--interactions.seeds={SEEDS}", "--interactions.every=2", "--meta.steps=5", "--chunk=16", *overrides]
    config = load_config("smoke", asked)

    def measure(members, done=None):
        gates = np.asarray(members.gates)
        keys = np.asarray(jax.random.key_data(members.keys))[:, -1]
        both = gates[:, 0] * gates[:, 1]
        draws = [
            np.random.default_rng([int(k), *g.astype(int)]).normal(size=(5, len(NAMES)))
            for k, g in zip(keys, gates, strict=True)
        ]
        values = 2.0 + (0.3 * gates.sum(axis=1) - 0.4 * both)[:, None, None] + 0.05 * np.stack(draws)
        # What differs between levers differs a little from seed to seed, too.
        x = np.asarray(members.levers["home"]["x"])
        values[..., TOXIC] += (both * x * (1.0 + 0.01 * np.stack(draws)[:, 0, 0]))[:, None]
        for start in range(0, len(keys), 16):
            if done is not None:
                done(min(start + 16, len(keys)))
        return values.astype(np.float32)

    algorithms = [SimpleNamespace(learn=None) for _ in PEOPLE]
    return SimpleNamespace(
        config=config,
        ecosystem=SimpleNamespace(names=PEOPLE, algorithms=algorithms),
        inputs=SimpleNamespace(levers={"home": {"x": jnp.zeros(())}}),
        measure=measure,
        key=jax.random.key(1),
    )


def _before(job) -> analysis.Measured:
    values = analysis.table_of(job, job.inputs.levers, stop=_never)
    return analysis.Measured(
        values[:, :, 0], values[:, :, 1:], np.zeros((0, 2), int), np.zeros((0, SEEDS, 9, len(NAMES)))
    )


def _followed(job, path, states, *, stop=_never, tracker=None):
    """The rows [step, row] after visits to states."""
    metrics = folder.open_metrics(path / folder.METRICS, keep=lambda row: True)
    try:
        visit = shifts.visitor(
            job,
            TRAINER,
            _before(job),
            path=path,
            metrics=metrics,
            tracker=tracker or tracking.nothing(),
            stop=stop,
        )
        for state in states:
            visit(state)
    finally:
        metrics.close()
    return folder.read_metrics(path / folder.METRICS)


def test_levers_are_analysed_at_their_turn_and_after_the_last_step_and_once(tmp_path):
    job, figures, logged = _job(), [], []
    tracker = tracking.nothing()._replace(
        log=lambda step, row: logged.append((step, row)),
        log_figure=lambda step, name, figure: figures.append((step, name)),
    )
    states = [_state(step, 0.1 * step) for step in range(6)]
    rows = _followed(job, tmp_path, states, tracker=tracker)
    assert [row["meta_step"] for row in rows] == [2, 4, 5]
    assert [step for step, name in figures if name == "interactions/wellbeing/matrix"] == [2, 4, 5]
    assert {step for step, _ in logged} == {2, 4, 5}
    # A process that goes on finds what was done.
    assert _followed(job, tmp_path, states) == rows
    assert _followed(_job("--interactions.every=3"), tmp_path, states)[3:][0]["meta_step"] == 3


def test_a_shift_is_the_paired_difference_to_the_default_levers(tmp_path):
    job = _job()
    default = analysis.row(analysis.analysed(job, _before(job)))
    (row,) = _followed(job, tmp_path, [_state(5, 0.25)])
    name = f"interactions/{PAIR}"
    np.testing.assert_allclose(row[name] - default[name], row[f"shifts/{PAIR}"], rtol=1e-4)
    np.testing.assert_allclose(row[f"shifts/{PAIR}"], 0.25, rtol=0.02)
    assert row[f"interactions_low/{PAIR}"] < row[name] < row[f"interactions_high/{PAIR}"]
    # Noise that both have in common is not in it.
    widths = [row[f"{part}_high/{PAIR}"] - row[f"{part}_low/{PAIR}"] for part in ("shifts", "interactions")]
    assert widths[0] < 0.2 * widths[1]
    confirmed = {name for name, value in row.items() if name.startswith("confirmed/") and value}
    assert confirmed == {f"confirmed/{PAIR}"}  # nothing else was moved
    values = analysis.table_of(job, {"home": {"x": jnp.asarray(0.25)}}, stop=_never)[:, :, 0]
    alone = analysis.row(factorial.analyse(PEOPLE, values, config=job.config.interactions))
    assert {name: row[name] for name in alone} == folder.plain(alone)


def test_a_signal_leaves_it_between_two_chunks_and_nothing_is_logged(tmp_path):
    job, asked, told = _job(), [], []
    tracker = tracking.nothing()._replace(log_figure=lambda *given: told.append(given))
    with pytest.raises(Stopped):
        _followed(job, tmp_path, [_state(2)], stop=lambda: asked.append(1) or len(asked) > 1, tracker=tracker)
    assert folder.read_metrics(tmp_path / folder.METRICS) == [] == told
    assert [row["meta_step"] for row in _followed(job, tmp_path, [_state(2)])] == [2]


def test_nothing_can_be_followed_where_nothing_is_analysed():
    shifts.check(_job())
    shifts.check(_job("--interactions.every=0", "--interactions.seeds=0"))
    with pytest.raises(UserError, match=r"^interactions\.every: there is nothing to follow"):
        shifts.check(_job("--interactions.seeds=0"))


def test_rows_are_of_the_settings_that_made_them():
    made = shifts.digest(_job().config)
    for same in ("--interactions.every=9", "--meta.steps=9", "--log.group=x", "--sensitivities.seeds=5"):
        assert shifts.digest(_job(same).config) == made
    for other in ("--seed=4", "--steps=9", "--interactions.confidence=0.9", "--scenario.users=50"):
        assert shifts.digest(_job(other).config) != made


def test_the_page_tells_what_training_shifted(tmp_path):
    job = _job()
    rows = _followed(job, tmp_path, [_state(step, 0.15 * step) for step in range(6)])
    arrays = measured(PEOPLE, _before(job).values)
    training = [training_row(step) for step in range(5)]
    source, page = written(make(tmp_path / "run", arrays=arrays, rows=[*training, *rows]))
    tested = 3 * len(NAMES)
    assert f"After meta-step 5, 1 of {tested} interactions (pairs on objectives) differ" in page.text
    after = source.split("What training shifted")[1]
    told = row_of(after, "home + takedown")
    share = float(re.search(r"\+(\d+\.\d) % \(\+", told)[1])
    level = float(_before(job).values[:, -1, TOXIC].mean())
    assert share == pytest.approx(100 * 0.75 / level, rel=0.05)
    drawn = [each for each in pictures(source) if "home + takedown: toxic exposure" in str(each[0]["data"])]
    line = next(trace for trace in drawn[-1][0]["data"] if trace["name"].startswith("home + takedown: toxic exposure"))
    assert len(line["y"]) == 1 + len(rows)
    # Nothing confirmed is a sentence, and nothing followed is no heading.
    still = {**rows[0], **{name: False for name in rows[0] if name.startswith("confirmed/")}}
    source, page = written(make(tmp_path / "still", arrays=arrays, rows=[*training, still]))
    assert f"After meta-step 2, 0 of {tested} interactions" in page.text
    source, page = written(make(tmp_path / "none", arrays=arrays, rows=training))
    assert "What training shifted" not in page.text
