"""Estimators of meta-gradients behind one interface, in optax's shape.

    Estimator(init, estimate):  init(theta) -> state
                                estimate(key, theta, state, rows=None, worlds=None) -> (Gradient, state)

`estimate` returns the R x P Jacobian of `rows @ outcomes` with standard errors; without rows that of all J outcomes.
`worlds` are samples of the world to average over (robust training); without, the world is that of the context. An estimator
is host-side control of jitted pieces; its state is a pytree of arrays, so that it can be checkpointed.

    pathwise          through the whole run, reverse mode, memory sqrt(T); the default to train with
    forward           the same in forward mode: few parameters, any T
    truncated         through the last W steps of one long life
    es                perturbed runs with common random numbers: verification, hard thresholds, chaos
    pes               persistent evolution strategies: unbiased from W steps of one long life at a time
    control_variate   perturbed sampled runs less the same of the expected mode, plus pathwise: for gradients that are reported
    hybrid            pathwise, audited by `es` every so often and combined with it entry by entry by inverse mean squared error

Where they must disagree: `truncated`, and perturbations over W steps, are biased by everything that takes longer than W;
`pathwise` and `forward` by what the expected mode gets wrong; everything that is differentiated by a system that explodes
(`mamba.meta.growth`).

References:
    Salimans et al. 2017 (evolution strategies); Vicol et al. 2021 (persistent evolution strategies); Parmas et al. 2018 and
    Suh et al. 2022 (inverse-variance combination); Owen 2013, chapter 8 (control variates).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mamba.meta import derivatives, evolution, systems
from mamba.meta.evolution import Measure
from mamba.meta.systems import System
from mamba.streams import stream
from mamba.types import Array

MOST_FORWARD = 32  # parameters up to which forward mode is offered
_DOUBT = 4.0  # two standard errors, squared


class Gradient(NamedTuple):
    """A Jacobian with its uncertainty.

    Attributes:
        value: [J] outcomes.
        jacobian: [R, P].
        error: [R, P] standard errors; infinite where one run leaves nothing to compare.
        told: what else the estimator has to say, by name; arrays.
    """

    value: np.ndarray
    jacobian: np.ndarray
    error: np.ndarray
    told: dict[str, Any]


class Worlds(NamedTuple):
    """Samples of the world.

    Attributes:
        samples: pytree, leaves [W, ...]; what `System.varied` takes.
        weights: [W], sum 1.
    """

    samples: Any
    weights: np.ndarray


class Estimate(Protocol):
    """One estimate of derivatives."""

    def __call__(
        self, key: Array, theta: np.ndarray, state: Any, rows: np.ndarray | None = None, worlds: Worlds | None = None
    ) -> tuple[Gradient, Any]:
        """Estimates.

        Args:
            key: typed key; consumed.
            theta: [P] where.
            state: of the estimator.
            rows: [R, J] weighted sums of outcomes; None takes every outcome.
            worlds: to average over; None takes the world of the context.

        Returns:
            `(gradient, state)`.
        """
        ...


class Estimator(NamedTuple):
    """Estimates derivatives.

    Attributes:
        init: `theta [P] -> state`.
        estimate: see `Estimate`.
    """

    init: Callable[[np.ndarray], Any]
    estimate: Estimate


def averaged(values: np.ndarray, slopes: np.ndarray, weights: np.ndarray | None = None) -> Gradient:
    """The gradient of an average over keys.

    Args:
        values: [S, J].
        slopes: [S, R, P].
        weights: [S], sum 1; None takes all keys alike.
    """
    values, slopes = np.asarray(values, np.float64), np.asarray(slopes, np.float64)
    count = len(slopes)
    share = np.full(count, 1.0 / count) if weights is None else np.asarray(weights, np.float64)
    mean = np.einsum("s,srp->rp", share, slopes)
    if count > 1:
        spread = np.einsum("s,srp->rp", share**2, (slopes - mean) ** 2)
        error = np.sqrt(spread * count / (count - 1))
    else:
        error = np.full(mean.shape, np.inf)
    return Gradient(share @ values, mean, error, {})


# ---- differentiated


def pathwise(
    system: System,
    context: Any,
    *,
    steps: int,
    keys: int = 4,
    segment: int | None = None,
    slope: Callable[..., tuple[Any, Any]] | None = None,
) -> Estimator:
    """Reverse mode through the whole run, averaged over fresh keys.

    The state is the shares of derivatives that pass through each block, [B] or [T, B]; all do at the start, and
    `growth.guarded` moves them.

    Args:
        system: what to differentiate.
        context: see `System`.
        steps: T.
        keys: S.
        segment: see `mamba.unroll.unroll`.
        slope: what `derivatives.reverse` gives, compiled, for estimators that share it; None compiles one.
    """
    if slope is None:
        slope = jax.jit(derivatives.reverse(system, steps=steps, segment=segment))

    def estimate(key: Array, theta: np.ndarray, state: Any, rows: Any = None, worlds: Worlds | None = None):
        given = np.eye(len(system.outcomes)) if rows is None else rows
        drawn, samples, weights = _drawn(key, keys, worlds)
        values, slopes = slope(context, *_floats(theta, given, state), drawn, samples)
        return averaged(np.asarray(values), np.asarray(slopes), weights), state

    return Estimator(lambda theta: jnp.asarray(systems.everything_passes(system)), estimate)


def forward(system: System, context: Any, *, steps: int, keys: int = 4, chunk: int = 8) -> Estimator:
    """Forward mode through the whole run, at most `MOST_FORWARD` parameters; arguments as `pathwise` and `derivatives.forward`.

    Raises:
        ValueError: when estimating, more parameters than forward mode is good for.
    """
    slope = jax.jit(derivatives.forward(system, steps=steps, chunk=chunk))

    def estimate(key: Array, theta: np.ndarray, state: Any, rows: Any = None, worlds: Worlds | None = None):
        count = len(theta)
        if count > MOST_FORWARD:
            raise ValueError(f"{count} parameters in forward mode: use pathwise beyond {MOST_FORWARD}")
        passed = np.ones((count, len(system.blocks)))
        drawn, samples, weights = _drawn(key, keys, worlds)
        values, columns = slope(context, *_floats(theta, np.eye(count), passed), drawn, samples)
        return averaged(np.asarray(values), _of_rows(np.asarray(columns).swapaxes(1, 2), rows), weights), state

    return Estimator(lambda theta: (), estimate)


class Life(NamedTuple):
    """Where an online estimator stands in the lives it follows.

    Attributes:
        index: int32, steps done.
        begun: int32, lives done.
        state: pytree [S, ...] of systems; before the first step of a life it is whatever it was.
        total: [S, P] sum of the perturbations of each life (`pes`), else empty.
    """

    index: Array
    begun: Array
    state: Any
    total: Array


class Online(NamedTuple):
    """An estimator that follows lives, as pure functions: what `truncated` and `pes` jit, and what a loop on the device scans.

    Attributes:
        init: `(context, theta [P], root) -> Life`; `root` is the key of the lives.
        advance: `(context, theta [P], rows [R, J], life, root, key) -> (values [S, J], slopes [S, R, P], life)`: one window, in
            each of S lives or pairs of lives; `key` draws the perturbations.
    """

    init: Callable[[Any, Array, Array], Life]
    advance: Callable[[Any, Array, Array, Life, Array, Array], tuple[Array, Array, Life]]


def windowed(system: System, *, window: int, horizon: int | None = None, keys: int = 4) -> Online:
    """What `truncated` does, whose arguments see."""

    def init(context: Any, theta: Array, root: Array) -> Life:
        return _unborn(lambda: jax.vmap(system.begin, (None, None, 0))(context, theta, jax.random.split(root, keys)))

    def advance(context: Any, theta: Array, rows: Array, life: Life, root: Array, key: Array):
        del key

        def one(state: Any, key: Array) -> tuple[Array, Array, Any]:
            def outcomes(theta: Array) -> tuple[Array, Any]:
                # What a life begins with may depend on theta; where a window begins is held fixed.
                taken = jax.lax.cond(
                    life.index == 0,
                    lambda: system.begin(context, theta, key),
                    lambda: jax.lax.stop_gradient(state),
                )
                index = system.first + life.index
                after, value = systems.run(system, context, theta, key=key, steps=window, state=taken, first=index)
                return value, after

            value, pull, after = jax.vjp(outcomes, theta, has_aux=True)
            return value, jax.lax.map(lambda row: pull(row.astype(value.dtype))[0], rows), after

        values, slopes, state = jax.vmap(one)(life.state, _lives(root, life.begun, keys))
        return values, slopes, _aged(life._replace(state=state), window, horizon)

    return Online(init, advance)


def truncated(
    system: System, context: Any, *, window: int, key: Array, horizon: int | None = None, keys: int = 4
) -> Estimator:
    """Reverse mode through W steps of a life that goes on from estimate to estimate (truncated backpropagation through time).

    Biased by everything that takes longer than W steps.

    Args:
        system: what to differentiate.
        context: see `System`.
        window: W.
        key: typed key of the lives: `estimate` adds no randomness of its own.
        horizon: steps after which a new life begins; None never.
        keys: S lives at a time.
    """
    return _following(windowed(system, window=window, horizon=horizon, keys=keys), system, context, root=key)


# ---- perturbed


def es(measure: Measure, *, pairs: int = 16, sigma: float = 0.3, keys: int = 2) -> Estimator:
    """Antithetic perturbations along a Hadamard design under common random numbers; see `mamba.meta.evolution`.

    Args:
        measure: `(thetas [B, P], keys [B]) -> outcomes [B, J]`, of the sampled model.
        pairs: antithetic pairs, rounded up to a power of two.
        sigma: size of the perturbation.
        keys: S, common to all perturbations.
    """

    def estimate(key: Array, theta: np.ndarray, state: Any, rows: Any = None, worlds: Worlds | None = None):
        return of_audit(_audited(measure, key, theta, worlds, pairs=pairs, sigma=sigma, keys=keys), rows), state

    return Estimator(lambda theta: (), estimate)


def of_audit(audit: evolution.Audit, rows: np.ndarray | None) -> Gradient:
    """An audit as the gradient of `rows @ outcomes`; objectives' errors are correlated, and the rows' errors know it."""
    given = np.eye(len(audit.value)) if rows is None else np.asarray(rows, np.float64)
    jacobian = given @ audit.jacobian
    error = np.sqrt(np.maximum(np.einsum("rj,pjk,rk->rp", given, audit.covariance, given), 0.0))
    return Gradient(audit.value, jacobian, error, {})


def control_variate(sampled: Measure, expected: Measure, path: Estimator, **design: Any) -> Estimator:
    """Perturbed sampled runs, less the same runs of the expected mode, plus the expected mode's own derivative.

    Unbiased for the smoothed outcomes of the sampled model, up to what smoothing does to the expected mode (of the order of
    sigma squared); what both modes share, and that is most of it, drops out of the variance. All of the expected mode's
    derivative must pass: what a closed block holds back would be missing.

    Args:
        sampled: outcomes of the sampled model.
        expected: outcomes of the expected mode, on the same perturbations and keys.
        path: derivative of the expected mode.
        **design: `pairs`, `sigma` and `keys` as for `es`.
    """

    def difference(thetas: np.ndarray, keys: Array, samples: Any) -> np.ndarray:
        hard, soft = (np.asarray(each(thetas, keys, samples), np.float64) for each in (sampled, expected))
        return hard - soft

    apart = es(difference, **design)

    def estimate(key: Array, theta: np.ndarray, state: Any, rows: Any = None, worlds: Worlds | None = None):
        base, state = path.estimate(stream(key, "path"), theta, state, rows, worlds)
        rest, _ = apart.estimate(stream(key, "apart"), theta, (), rows, worlds)
        known = np.where(np.isfinite(base.error), base.error, 0.0)
        error = np.sqrt(known**2 + rest.error**2)
        return Gradient(base.value + rest.value, base.jacobian + rest.jacobian, error, base.told), state

    return Estimator(path.init, estimate)


def persistent_lives(
    system: System, *, window: int, sigma: float, pairs: int, horizon: int | None = None, persistent: bool = True
) -> Online:
    """What `pes` does, whose arguments see; a pair of lives counts as one, S = N."""

    def own(root: Array, begun: Array | int) -> Array:
        # Perturbed lives of a pair see the same noise.
        return (
            jnp.repeat(_lives(root, begun, pairs), 2)
            if persistent
            else jnp.repeat(_lives(root, begun, 1), 2 * pairs + 1)
        )

    def init(context: Any, theta: Array, root: Array) -> Life:
        keys = own(root, 0) if persistent else own(root, 0)[:1]
        life = _unborn(lambda: jax.vmap(system.begin, (None, None, 0))(context, theta, keys))
        return life._replace(total=jnp.zeros((2 * pairs if persistent else 0, len(theta)), theta.dtype))

    def advance(context: Any, theta: Array, rows: Array, life: Life, root: Array, key: Array):
        noise = sigma * jax.random.normal(key, (pairs, len(theta)), theta.dtype)
        signed = jnp.stack([noise, -noise], axis=1).reshape(2 * pairs, -1)
        # Without persistence, one life that is not perturbed goes on beside the branches.
        moved = theta[None] + (signed if persistent else jnp.concatenate([signed, jnp.zeros_like(signed[:1])]))
        keys = own(root, life.begun)
        held = life.state if persistent else jax.tree.map(lambda x: jnp.repeat(x, len(moved), axis=0), life.state)
        fresh = life.index == 0
        begin = jax.vmap(system.begin, (None, 0, 0))
        state = jax.lax.cond(fresh, lambda: begin(context, moved, keys), lambda: held)

        def one(theta: Array, state: Any, key: Array) -> tuple[Any, Array]:
            index = system.first + life.index
            return systems.run(system, context, theta, key=key, steps=window, segment=0, state=state, first=index)

        after, values = jax.vmap(one)(moved, state, keys)
        if persistent:
            total = jnp.where(fresh, jnp.zeros_like(life.total), life.total) + signed
            life, weights = life._replace(state=after, total=total), total[::2]
        else:
            life, weights = life._replace(state=jax.tree.map(lambda x: x[-1:], after)), noise
        table = values[: 2 * pairs].reshape(pairs, 2, -1)
        apart = jnp.einsum("rj,nj->nr", rows, table[:, 0] - table[:, 1], precision="highest")
        slopes = apart[:, :, None] * weights[:, None, :] / (2.0 * sigma**2)
        return table.mean(axis=1), slopes, _aged(life, window, horizon)

    return Online(init, advance)


def pes(
    system: System,
    context: Any,
    *,
    window: int,
    sigma: float,
    pairs: int,
    key: Array,
    horizon: int | None = None,
    persistent: bool = True,
) -> Estimator:
    """Persistent evolution strategies: W steps of perturbed lives at a time, each weighted with all its perturbations so far.

    Unbiased for the smoothed average of a life's windows, W however short, where outcomes are averages over time; an outcome
    that is taken at the end, or is a ratio, is that of each window here. The variance grows with the number of windows in a life.

    Args:
        system: of the sampled model.
        context: see `System`.
        window: W.
        sigma: standard deviation of the perturbations.
        pairs: N antithetic pairs of lives.
        key: typed key of the lives; `estimate` draws the perturbations.
        horizon: steps after which new lives begin; None never.
        persistent: False keeps one life, from which perturbed ones branch off for W steps: plain evolution strategies on
            a window, biased like `truncated`.

    Returns:
        The estimator; the error of N = 1 is infinite.
    """
    online = persistent_lives(system, window=window, sigma=sigma, pairs=pairs, horizon=horizon, persistent=persistent)
    return _following(online, system, context, root=key)


# ---- combined


class Audited(NamedTuple):
    """State of `hybrid`.

    Attributes:
        index: int32, estimates made.
        audited: int32, 1 once an audit exists.
        jacobian: [J, P] of the last audit.
        covariance: [P, J, J] of the errors of each parameter's column.
        bias_squared: [R, P] smoothed squared bias of the differentiated rows, each row of unit norm.
        theta: [P] where the last audit was made.
        path: state of the differentiating estimator.
    """

    index: Array
    audited: Array
    jacobian: Array
    covariance: Array
    bias_squared: Array
    theta: Array
    path: Any


def hybrid(
    path: Estimator,
    measure: Measure,
    *,
    every: int,
    outcomes: int,
    n_rows: int = 1,
    pairs: int = 16,
    sigma: float = 0.3,
    keys: int = 2,
) -> Estimator:
    """A differentiating estimator, audited by `es` every so often and combined with it entry by entry.

    Each entry's weight is the inverse of its mean squared error, with the bias of the derivative estimated by its distance from the
    audit: where the relaxation lies, the estimator leans on the audit by itself. An audit holds around where it was made, as far
    as it looked: at a distance of sigma (root mean square over the parameters) its error is as large as itself, so that later
    estimates lean on the derivative again.

    `told`: `pathwise`, `audited`, `audited_error` and `weight` (of the derivative) [R, P], `fresh` (1 when this estimate made an
    audit).

    Args:
        path: `pathwise`, `forward` or `truncated`.
        measure: outcomes of the sampled model.
        every: estimates from one audit to the next; 0 audits never.
        outcomes: J.
        n_rows: R, the number of rows every estimate asks for.
        pairs: see `es`.
        sigma: see `es`.
        keys: see `es`.
    """

    def estimate(key: Array, theta: np.ndarray, state: Audited, rows: Any = None, worlds: Worlds | None = None):
        given = np.eye(outcomes) if rows is None else np.asarray(rows, np.float64)
        found, inner = path.estimate(stream(key, "pathwise"), theta, state.path, given, worlds)
        shape, nothing = found.jacobian.shape, np.full(found.jacobian.shape, np.nan)
        fresh = every > 0 and int(state.index) % every == 0
        state = state._replace(index=state.index + 1, path=inner)
        told = {"pathwise": found.jacobian, "fresh": np.int32(fresh)}
        if not (fresh or int(state.audited)):
            apart = {"audited": nothing, "audited_error": nothing, "weight": np.ones(shape)}
            return found._replace(told={**found.told, **told, **apart}), state
        if fresh:
            seen = _audited(measure, stream(key, "audit"), theta, worlds, pairs=pairs, sigma=sigma, keys=keys)
        else:
            known, spread = np.asarray(state.jacobian, np.float64), np.asarray(state.covariance, np.float64)
            seen = evolution.Audit(known, spread, found.value)
        checked = of_audit(seen, given)
        usable = np.isfinite(found.jacobian)
        here = np.where(usable, found.jacobian, 0.0)
        if not fresh:
            away = np.sqrt(np.mean((np.asarray(theta, np.float64) - np.asarray(state.theta)) ** 2)) / sigma
            checked = checked._replace(error=np.sqrt(checked.error**2 + (away * checked.jacobian) ** 2))
        scale = np.maximum(np.linalg.norm(here, axis=1, keepdims=True), 1e-12)
        bias = np.asarray(state.bias_squared, np.float64)
        if fresh:
            spread = _path_variance(found, checked) + checked.error**2
            # A difference counts as bias only beyond what noise alone would show: an unlucky audit must not take over.
            seen_bias = np.maximum((checked.jacobian - here) ** 2 - _DOUBT * spread, 0.0) / scale**2
            bias = np.where(usable, 0.5 * bias + 0.5 * seen_bias if int(state.audited) else seen_bias, bias)
        jacobian, error, weight = combine(found, checked, bias * scale**2)
        told |= {"audited": checked.jacobian, "audited_error": checked.error, "weight": weight}
        if not np.isfinite(seen.jacobian).all():  # of this estimate only: the next one leans on the audit before it
            return Gradient(found.value, jacobian, error, {**found.told, **told}), state
        kept = {"jacobian": seen.jacobian, "covariance": seen.covariance, "bias_squared": bias}
        kept |= {"theta": theta} if fresh else {}
        state = state._replace(audited=jnp.int32(1), **{name: jnp.asarray(x, jnp.float32) for name, x in kept.items()})
        return Gradient(found.value, jacobian, error, {**found.told, **told}), state

    def init(theta: np.ndarray) -> Audited:
        return Audited(
            index=jnp.int32(0),
            audited=jnp.int32(0),
            jacobian=jnp.zeros((outcomes, len(theta))),
            covariance=jnp.zeros((len(theta), outcomes, outcomes)),
            bias_squared=jnp.zeros((n_rows, len(theta))),
            theta=jnp.zeros(len(theta)),
            path=path.init(theta),
        )

    return Estimator(init, estimate)


def combine(path: Gradient, checked: Gradient, bias_squared: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inverse mean-squared-error combination of a differentiated and an audited gradient.

    Args:
        path: differentiated.
        checked: audited, unbiased.
        bias_squared: [R, P] estimated squared bias of `path`.

    Returns:
        `(jacobian [R, P], root mean squared error [R, P], weight [R, P])`: the weight of the differentiated part, in [0, 1].
    """
    checked_variance = checked.error**2
    lies = _path_variance(path, checked) + bias_squared
    weight = checked_variance / (checked_variance + lies + 1e-30)
    # What overflowed must not come back as 0 times infinity.
    usable = np.isfinite(path.jacobian)
    weight = np.where(usable, weight, 0.0)
    jacobian = weight * np.where(usable, path.jacobian, 0.0) + (1.0 - weight) * checked.jacobian
    return jacobian, np.sqrt(weight**2 * lies + (1.0 - weight) ** 2 * checked_variance), weight


def _path_variance(path: Gradient, checked: Gradient) -> np.ndarray:
    """[R, P]; one key leaves no spread to measure, then the audit's own error stands in for it."""
    return np.where(np.isfinite(path.error), path.error, checked.error) ** 2


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two vectors; 0 where either vanishes, NaN where one is not finite."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 0.0 if norm == 0 else float(np.dot(a, b)) / norm


# ---- parts


def _floats(*arrays: Any) -> tuple[Array, ...]:
    """Arrays on the device, in the floating-point type of this process."""
    return tuple(jnp.asarray(each, jnp.result_type(float)) for each in arrays)


def _of_rows(slopes: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """Slopes [S, J, P] of outcomes as those of rows [R, J], [S, R, P]."""
    return slopes if rows is None else np.einsum("rj,sjp->srp", np.asarray(rows, np.float64), slopes)


def _drawn(key: Array, count: int, worlds: Worlds | None) -> tuple[Array, Any, np.ndarray | None]:
    """Keys [S], the sample of the world that each runs in [S], and their weights [S]; every world gets as many keys as another."""
    if worlds is None:
        return jax.random.split(key, count), None, None
    each = -(-count // len(worlds.weights))
    samples = jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf), each, axis=0), worlds.samples)
    weights = np.repeat(np.asarray(worlds.weights, np.float64) / each, each)
    return jax.random.split(key, len(weights)), samples, weights


def _audited(
    measure: Measure, key: Array, theta: np.ndarray, worlds: Worlds | None, *, pairs: int, sigma: float, keys: int
) -> evolution.Audit:
    drawn, samples, weights = _drawn(key, keys, worlds)
    thetas, repeated = evolution.points(theta, drawn, pairs=pairs, sigma=sigma)
    times = len(thetas) // len(drawn)
    values = measure(thetas, repeated, jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), samples))
    return evolution.audit(
        values, n_parameters=len(theta), n_keys=len(drawn), pairs=pairs, sigma=sigma, weights=weights
    )


def _lives(key: Array, begun: Array | int, count: int) -> Array:
    """Keys of lives, [count]; new ones for every `begun`."""
    return jax.random.split(jax.random.fold_in(key, begun), count)


def _unborn(begin: Callable[[], Any]) -> Life:
    """A life of which nothing is run yet: only the shapes of its state are known."""
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(begin))
    return Life(jnp.int32(0), jnp.int32(0), state, jnp.zeros(()))


def _aged(life: Life, window: int, horizon: int | None) -> Life:
    """A life `window` steps later; at the horizon the next one is about to begin."""
    index = life.index + window
    if horizon is None:
        return life._replace(index=index)
    over = index >= horizon
    return life._replace(index=jnp.where(over, 0, index), begun=life.begun + over)


def _following(online: Online, system: System, context: Any, *, root: Array) -> Estimator:
    """The estimator of one long life."""
    advance = jax.jit(online.advance)

    def estimate(key: Array, theta: np.ndarray, state: Life, rows: Any = None, worlds: Worlds | None = None):
        if worlds is not None:
            raise ValueError("an estimator that follows one long life does so in one world: use pathwise, hybrid or es")
        given = np.eye(len(system.outcomes)) if rows is None else rows
        point, weights = _floats(theta, given)
        values, slopes, state = advance(context, point, weights, state, root, key)
        return averaged(np.asarray(values), np.asarray(slopes)), state

    def init(theta: np.ndarray) -> Life:
        (point,) = _floats(theta)
        return online.init(context, point, root)

    return Estimator(init, estimate)
