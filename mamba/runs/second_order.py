"""The stage that tells what of the meta-gradient is second-order, and through whom it passes.

`second_order.npz` holds the gradient of the goal at the default levers, whole and with parts of the feedback held back, against the
gradient of the sampled model (finite differences); and for every lever that was trained what it brought its own team at once and
what it brought the ecosystem in the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from mamba import passing
from mamba.interactions.findings import Finding
from mamba.interactions.statistics import Estimate, estimate
from mamba.meta import constraints, evolution, players, second_order, systems, vector
from mamba.meta.second_order import FULL, LEARN, MYOPIC, Closeness
from mamba.objectives import NAMES
from mamba.runs import folder, progress, results, stops
from mamba.runs.errors import UserError
from mamba.runs.job import Job
from mamba.runs.tracking import Tracker
from mamba.streams import stream

STAGE = "second_order"
FILE = "second_order.npz"
STATED = ("mean", "error", "low", "high", "p")
_RESULTS = results.of_stage(
    FILE,
    reads={STAGE: results.ALL, "interactions": ("confidence",), "sensitivities": ("own",)},
    indifferent=("evaluation.transfer",),
)
digest = functools.partial(results.digest, _RESULTS)
is_stale = functools.partial(results.is_stale, _RESULTS)
_FEWEST = {"seeds": 2, "audit_seeds": 4}  # fewer say nothing of their own noise
_TOLD = 0.05  # share from which a block is worth a word
_WORDS = {
    "users": "users (opinions, interests, fatigue, trust)",
    "creators": "creators (what they learn to make)",
    "items": "posts that are out",
    "outbox": "what users share on",
    "footprint": "the platform's record of clicks and reach",
    "ties": "who follows whom",
    "learn": "everything that algorithms learn",
    "world": "everything outside the algorithms",
}


def check(job: Job) -> None:
    """Refuses too few rollouts, and own metrics that do not exist.

    Raises:
        UserError: one line that names the setting.
    """
    config = job.config.second_order
    for name, fewest in _FEWEST.items():
        if 0 < getattr(config, name) < fewest:
            raise UserError(
                f"second_order.{name}: {getattr(config, name)} do not tell an effect from noise; give 0, or at least {fewest}"
            )
    try:
        players.own_metrics(job.ecosystem, job.config.sensitivities.own)
    except ValueError as error:
        raise UserError(f"sensitivities.{error}") from error


def run(
    job: Job,
    path: Path,
    trained: np.ndarray,
    *,
    shares: np.ndarray | None,
    evaluation: Mapping[str, np.ndarray],
    tracker: Tracker,
    stop: Callable[[], bool],
) -> dict[str, np.ndarray] | None:
    """Results, from the folder where they are there; None where a stop left something out.

    Args:
        job: the job.
        path: run folder.
        trained: [P] levers at the end of training, unconstrained.
        shares: [B] shares of derivatives that passed at the end of training; None where all did. "The whole gradient" is what is
            left where a block was closed.
        evaluation: objectives [S, J] on fresh seeds of the sampled model, `before` and `after` training.
        tracker: where to log.
        stop: whether a signal asks to stop.

    Raises:
        UserError: the file is damaged.
    """
    target = path / FILE
    trained = np.asarray(trained, np.float64)
    if target.exists() and not is_stale(job, path):
        kept = folder.read_arrays(target)
        if np.array_equal(kept.get("trained", ()), trained):
            return kept
    try:
        arrays = _measured(job, trained, evaluation, shares, stop)
    except stops.Stopped:
        return None
    folder.write_arrays(target, arrays)
    tracker.log(0, row(arrays))
    return arrays


def row(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Scalars for the tracker."""
    found = {}
    for v, name in enumerate(arrays["variants"].tolist()):
        found[f"{STAGE}/share/{name}"] = float(arrays["full_error"][v])
        found[f"{STAGE}/cosine_to_full/{name}"] = float(arrays["full_cosine"][v])
        if "sampled_cosine" in arrays:
            found[f"{STAGE}/cosine_to_sampled/{name}"] = float(arrays["sampled_cosine"][v])
            found[f"{STAGE}/error_to_sampled/{name}"] = float(arrays["sampled_error"][v])
    for p, name in enumerate(arrays["levers"].tolist()):
        for part in ("own_gain", "effect", "promised"):
            found[f"{STAGE}/{part}/{name}"] = float(arrays[f"{part}_mean"][p])
    return {name: value for name, value in found.items() if np.isfinite(value)}


def spoken(name: str) -> str:
    """A block or a group in words."""
    if name.startswith(passing.LEARNER):
        return f"what {name.removeprefix(passing.LEARNER)} learns"
    return _WORDS.get(name, name)


def blocks_of(variants: Sequence[str]) -> list[int]:
    """Indices of the variants that stop one single block."""
    return [
        v for v, name in enumerate(variants) if name.startswith("stopped/") and name not in (LEARN, second_order.WORLD)
    ]


def _measured(
    job: Job,
    trained: np.ndarray,
    evaluation: Mapping[str, np.ndarray],
    shares: np.ndarray | None,
    stop: Callable[[], bool],
) -> dict[str, np.ndarray]:
    """Everything that the file holds.

    Raises:
        Stopped: a signal arrived while something was still to be done.
    """
    config, ecosystem = job.config.second_order, job.ecosystem
    confidence = job.config.interactions.confidence
    key = stream(job.key, STAGE)
    before, after = (np.asarray(evaluation[when], np.float64)[:, : len(NAMES)] for when in ("before", "after"))
    goal = constraints.goal(job.config.meta.minimise, job.config.meta.keep)
    baseline, kept = before.mean(axis=0), len(goal.kept)
    # Without multipliers: the utility in relative changes of the default platform's objectives.
    slope = constraints.slope(np.zeros(kept), baseline, goal, multipliers=np.zeros(kept), penalty=0.0)
    asked = np.array(sorted({*np.flatnonzero(goal.weights), *goal.kept}), np.int64)
    weights = slope[asked]
    own = players.own_metrics(ecosystem, job.config.sensitivities.own)
    owner = vector.owner(ecosystem, job.inputs.levers)
    default = np.asarray(vector.flat(job.inputs.levers), np.float64)
    move = trained - default

    parts = _derivatives(
        job, trained, asked=asked, weights=weights, own=own, owner=owner, shares=shares, key=key, stop=stop
    )
    names = parts["variants"].tolist()
    gradient = parts["slopes"]  # [S, V, P] of the goal
    whole, myopic = gradient[:, names.index(FULL)], gradient[:, names.index(MYOPIC)]
    signed = second_order.signs(whole, myopic, level=1.0 - confidence)
    arrays = {
        "digest": np.array(digest(job)),
        "trained": trained,
        "closed": np.array([] if shares is None else np.array(passing.blocks(ecosystem))[np.asarray(shares) == 0], str),
        "default": default,
        "names": np.array(ecosystem.names),
        "objectives": np.array(NAMES),
        "levers": np.array(vector.names(job.inputs.levers)),
        "owner": owner,
        "own_row": own.row,
        "outcomes": np.array([NAMES[k] for k in asked]),
        "weights": weights,
        "goal_weights": goal.weights[asked],
        "sign_p": signed.p,
        "flipped": signed.flipped,
        **parts,
        **_against("full", gradient, whole, paired=True, confidence=confidence),
    }
    whole_each, myopic_each = parts["objective_slopes"][:, 0], parts["objective_slopes"][:, 1]  # [S, G, P]
    each = [
        second_order.closeness(myopic_each[:, g], whole_each[:, g], paired=True, confidence=confidence)
        for g in range(len(asked))
    ]
    for field in ("error", "error_low", "error_high"):
        arrays[f"objective_{field}"] = np.array([getattr(one, field) for one in each])  # [G]
    if config.audit_seeds:
        sampled = _audited(job, stream(key, "audit"), stop)[:, asked]  # [S, G, P]
        arrays["sampled_jacobian"] = sampled
        reference = np.einsum("g,sgp->sp", weights, sampled)
        arrays |= _against("sampled", gradient, reference, paired=False, confidence=confidence)

    arrays |= _gaps(parts, owner=owner, own=own, confidence=confidence)
    own_slopes = _own_slopes(parts, own=own, owner=owner)  # [S, 2, P] at default and trained levers, one step
    held = parts["trained_slopes"]  # [S, 2, P] full, one step
    gains = {
        "own_gain": -100.0 * second_order.trapezoid(own_slopes[:, 0], own_slopes[:, 1], move),
        "effect": second_order.trapezoid(whole, held[:, 0], move),
        "promised": second_order.trapezoid(myopic, held[:, 1], move),
    }
    for name, samples in gains.items():
        arrays |= _stated(name, samples, confidence)
        arrays |= _stated(f"{name}_total", samples.sum(axis=1), confidence)
    expected = (parts["trained_values"] - parts["values"])[:, asked] @ weights
    arrays |= _stated("expected_change", expected, confidence)
    arrays |= _stated("measured_change", (after - before)[:, asked] @ weights, confidence)
    return arrays


def _derivatives(
    job: Job,
    trained: np.ndarray,
    *,
    asked: np.ndarray,
    weights: np.ndarray,
    own: players.Own,
    owner: np.ndarray,
    shares: np.ndarray | None,
    key: jax.Array,
    stop: Callable[[], bool],
) -> dict[str, np.ndarray]:
    """Derivatives at the default levers (every variant) and at the trained ones (whole and one step), of all keys."""
    config, ecosystem, steps = job.config.second_order, job.ecosystem, job.config.steps
    system = systems.platform(ecosystem)
    point = vector.flat(job.inputs.levers)
    live = second_order.differentiable(system, job.inputs, point)
    chosen = second_order.variants(
        system.blocks, steps=steps, groups=second_order.platform_groups(system.blocks), among=live
    )
    passed = systems.everything_passes(system) if shares is None else np.asarray(shares, np.float32)
    chosen = [variant._replace(shares=variant.shares * passed) for variant in chosen]
    by_name = {variant.name: variant for variant in chosen}
    every = np.eye(len(system.outcomes))
    metrics = np.array(sorted({int(own.row[a]) for a in set(owner.tolist()) if a != vector.NOBODY}), np.int64)
    views = [by_name[name] for name in (FULL, MYOPIC, LEARN) if name in by_name]
    goal_row = np.zeros((1, len(system.outcomes)))
    goal_row[0, asked] = weights
    pair = [by_name[FULL], by_name[MYOPIC]]
    wanted = second_order.joined(second_order.tasks(goal_row, chosen), second_order.tasks(every[asked], pair))
    if len(metrics):
        wanted = second_order.joined(wanted, second_order.tasks(every[metrics], views))
    again = second_order.tasks(goal_row, pair)
    if len(metrics):
        again = second_order.joined(again, second_order.tasks(every[metrics], [by_name[MYOPIC]]))

    run = jax.jit(second_order.kernel(system, steps=steps))
    keys = jax.random.split(stream(key, "derivatives"), config.seeds)
    total = config.seeds * sum(-(-len(some.rows) // second_order.CHUNK) for some in (wanted, again))
    with progress.progress(total, "derivatives with parts held back") as meter:
        begun = 0

        def heed() -> None:
            nonlocal begun
            stops.heed(stop)
            meter.advance(int(begun > 0))
            begun += 1

        values, slopes = second_order.measured(run, job.inputs, np.asarray(point), tasks=wanted, keys=keys, heed=heed)
        later, there = second_order.measured(run, job.inputs, trained, tasks=again, keys=keys, heed=heed)
        meter.advance()
    seeds, first = len(keys), len(chosen)
    count = first + len(pair) * len(asked)
    return {
        "variants": np.array([variant.name for variant in chosen]),
        "slopes": slopes[:, :first],
        "objective_slopes": slopes[:, first:count].reshape(seeds, len(pair), len(asked), -1),
        "views": np.array([variant.name for variant in views]),
        "metrics": metrics,
        "own_slopes": slopes[:, count:].reshape(seeds, len(views), len(metrics), -1),
        "trained_slopes": there[:, :2],
        "trained_own_slopes": there[:, 2:],
        "values": values,
        "trained_values": later,
    }


def _audited(job: Job, key: jax.Array, stop: Callable[[], bool]) -> np.ndarray:
    """Jacobian [S, J + A, P] of each key of the sampled model at the default levers."""
    config, sigma = job.config.second_order, job.config.meta.audit_sigma
    stops.heed(stop)
    members = evolution.perturbed(
        job.inputs, jax.random.split(key, config.audit_seeds), pairs=config.audit_pairs, sigma=sigma
    )
    total, levers = len(members.keys), int(vector.flat(job.inputs.levers).size)
    with progress.progress(total, f"gradient of the sampled model: {total:,} rollouts") as meter:
        values = np.asarray(job.evaluate(members, stops.counted(meter, stop, total=total)), np.float64)
    seeds, pairs = config.audit_seeds, config.audit_pairs
    return evolution.each_key(values, n_parameters=levers, n_keys=seeds, pairs=pairs, sigma=sigma)[0]


def _against(
    name: str, gradients: np.ndarray, reference: np.ndarray, *, paired: bool, confidence: float
) -> dict[str, np.ndarray]:
    """Every variant's gradient [S, V, P] against one."""
    found = [
        second_order.closeness(gradients[:, v], reference, paired=paired, confidence=confidence)
        for v in range(gradients.shape[1])
    ]
    return {f"{name}_{field}": np.array([getattr(one, field) for one in found]) for field in Closeness._fields}


def _gaps(
    parts: Mapping[str, np.ndarray], *, owner: np.ndarray, own: players.Own, confidence: float
) -> dict[str, np.ndarray]:
    """What each team gets wrong of its own gradient [A] when it takes the day's world, or what is learned, as given."""
    views = parts["views"].tolist()
    each = _of_teams(parts, own)  # [S, V, A, P]
    result = {}
    for name, view in (("step_gap", MYOPIC), ("learn_gap", LEARN)):
        found: list[Closeness | None] = [None] * len(own.row)
        if view in views and each.size:
            whole, held = each[:, views.index(FULL)], each[:, views.index(view)]
            found = second_order.shaping_gap(whole, held, owner=owner, confidence=confidence)
        for field in ("error", "error_low", "error_high"):
            result[f"{name}_{field}"] = np.array([np.nan if one is None else getattr(one, field) for one in found])
    return result


def _of_teams(parts: Mapping[str, np.ndarray], own: players.Own) -> np.ndarray:
    """Derivatives [S, V, A, P] of each algorithm's own metric; 0 where nobody asked for it."""
    metrics = parts["metrics"].tolist()
    slopes = parts["own_slopes"]
    nothing = np.zeros(slopes.shape[:2] + slopes.shape[3:])
    return np.stack([slopes[:, :, metrics.index(r)] if r in metrics else nothing for r in own.row.tolist()], axis=2)


def _own_slopes(parts: Mapping[str, np.ndarray], *, own: players.Own, owner: np.ndarray) -> np.ndarray:
    """One-step derivative [S, 2, P] of each lever's owner's own loss relative to its level, at default and trained levers; NaN
    for a lever without an owner, or whose owner has no own metric."""
    views, metrics = parts["views"].tolist(), parts["metrics"].tolist()
    scale = players.loss_weights(own, parts["values"])  # [A, J + A]
    found = np.full((len(parts["values"]), 2, len(owner)), np.nan)
    for p, team in enumerate(owner.tolist()):
        if team == vector.NOBODY or not scale[team].any():
            continue
        outcome = int(own.row[team])
        at = metrics.index(outcome)
        both = (parts["own_slopes"][:, views.index(MYOPIC), at, p], parts["trained_own_slopes"][:, at, p])
        found[:, :, p] = scale[team, outcome] * np.stack(both, axis=1)
    return found


def _stated(name: str, samples: np.ndarray, confidence: float) -> dict[str, np.ndarray]:
    found: Estimate = estimate(samples, confidence)
    return {f"{name}_{part}": np.asarray(getattr(found, part)) for part in STATED}


# ---- in words


def findings(job: Job, arrays: Mapping[str, np.ndarray]) -> list[Finding]:
    """How much of the goal's gradient is second-order, through whom, and which signs a one-step view gets wrong."""
    names = arrays["variants"].tolist()
    at = names.index(MYOPIC)
    share, low, high = (float(arrays[f"full_{part}"][at]) for part in ("error", "error_low", "error_high"))
    if not np.isfinite(share):
        return []
    interval = f"{100 * job.config.interactions.confidence:g} % CI {100 * low:.0f} to {100 * high:.0f}"
    sentence = (
        f"A one-step view, in which each team takes today's users, creators and models as given, misses {100 * share:.0f} % of the "
        f"goal's gradient ({interval}; expected mode, default levers)"
    )
    through = sorted(
        (v for v in blocks_of(names) if arrays["full_error_low"][v] > 0 and arrays["full_error"][v] > _TOLD),
        key=lambda v: -arrays["full_error"][v],
    )
    if through:
        told = ", ".join(
            f"{spoken(names[v].removeprefix('stopped/'))} ({100 * arrays['full_error'][v]:.0f} %)" for v in through[:2]
        )
        sentence += f"; most of it passes through {told}"
    sentence += "."
    flipped = [str(name) for name, turned in zip(arrays["levers"], arrays["flipped"], strict=True) if turned]
    if flipped:
        few = ", ".join(flipped[:3]) + (" and others" if len(flipped) > 3 else "")
        sentence += f" It gets the sign of {len(flipped)} of {len(arrays['levers'])} levers wrong ({few})."
    if "sampled_cosine" in arrays and np.isfinite(arrays["sampled_cosine"][[names.index(FULL), at]]).all():
        whole, step = (arrays["sampled_cosine"][names.index(name)] for name in (FULL, MYOPIC))
        sentence += f" Against the gradient of the sampled model the whole one has cosine {whole:.2f}, the one-step one {step:.2f}."
    return [Finding(STAGE, sentence, str(arrays["outcomes"][0]), 100 * share, 100 * low, 100 * high)]
