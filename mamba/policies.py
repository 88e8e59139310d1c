"""Policies: levers that react to what a platform sees.

A lever is a number for a whole rollout. A policy moves some levers at every step by what the platform observes then,

    theta_t = theta + reach * tanh(f(z_t)),      z_t = summary of the view of step t,

with f a small network whose parameters are levers themselves (`Levers["policy"]`), so that every estimator, optimiser
and checkpoint takes them as it takes numbers. Offsets are in unconstrained units and bounded by `reach`; the output layer starts
at zero, so an untrained policy is exactly the numbers. A policy carries no state: it sees levels, and change only
as fresh items against all live ones.

References:
    Lu et al. 2022 (a meta-policy from summaries of the learners around it to actions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mamba.algorithms import nets
from mamba.algorithms.base import Algorithm
from mamba.fields import setting
from mamba.types import Array, Levers, View

NAME = "policy"  # its entry among the levers

_FRESH = 2  # steps: age up to which an item counts as fresh
# What is ordinary: mean and standard deviation of each signal over live items, reports per click, mean and standard deviation
# of sessions over users, in the default world after a day (generated network, 1,000 users).
_ORDINARY = {
    "toxicity_signal": (0.22, 0.19),
    "falsity_signal": (0.20, 0.18),
    "synthetic": (0.11, 0.32),
    "glitter": (0.50, 0.20),
}
_REPORT_RATE = 0.015
_SESSIONS = (0.54, 0.13)

_SCOPES = ("fresh", "live")
FEATURES = (
    *(f"{scope}/{name}/{by}" for scope in _SCOPES for name in _ORDINARY for by in ("items", "clicks")),
    *(f"{scope}/reports" for scope in _SCOPES),
    "sessions",
)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Settings of a policy network."""

    controls: tuple[str, ...] = setting((), "levers that the policy moves, each as algorithm/lever")
    hidden: int = setting(8, "hidden units of the network", unit="units", ge=1, le=256)
    reach: float = setting(1.5, "farthest that the policy moves a lever", unit="unconstrained", gt=0, le=10)


class Policy(NamedTuple):
    """Levers as functions of what the platform observes, in the shape of `algorithms.base.Algorithm`.

    Attributes:
        controls: levers it moves, each as `algorithm/lever`.
        features: names of the F entries of the summary.
        levers: name -> default float32 parameters of the network; what a meta-optimiser turns.
        summary: `(view) -> [F]`, what it looks at.
        act: `(parameters, summary [F], levers) -> levers`, all of them unconstrained; those in `controls` moved.
    """

    controls: tuple[str, ...]
    features: tuple[str, ...]
    levers: Mapping[str, np.ndarray]
    summary: Callable[[View], Array]
    act: Callable[[dict[str, Array], Array, Levers], Levers]


def summary(view: View) -> Array:
    """What a policy looks at, each feature 0 in an ordinary world and of about unit size.

    For fresh items (up to two steps old) and for all live ones: how far the mean of each observed signal is from ordinary, in
    standard deviations of the signal over items, weighing items by existence (`items`) and by existence times running
    clicks (`clicks`, what is actually read); and the relative excess of reports per click, 1 where they are twice the
    ordinary (`reports`). Then the mean running share of active steps, in standard deviations over users (`sessions`). One
    ordinary item or click is added to every mean, so that nothing to see is 0.

    Args:
        view: of the step, before anything is removed.

    Returns:
        [F] in the order of `FEATURES`; dimensionless.
    """
    items = view.items
    live = items.alive
    means, rates = [], []
    for weight in (live * (view.age <= _FRESH), live):
        clicks = weight * items.popularity
        for name, (ordinary, spread) in _ORDINARY.items():
            away = (getattr(items, name) - ordinary) / spread
            means += [jnp.sum(each * away) / (1.0 + jnp.sum(each)) for each in (weight, clicks)]
        excess = weight * items.reports / _REPORT_RATE - clicks
        rates.append(jnp.sum(excess) / (1.0 + jnp.sum(clicks)))
    ordinary, spread = _SESSIONS
    return jnp.stack([*means, *rates, (jnp.mean(view.sessions) - ordinary) / spread])


def network(config: PolicyConfig, *, seed: int = 0) -> Policy:
    """Builds a policy with one hidden layer of tanh units; touches no device.

    Args:
        config: what it controls, its size and reach.
        seed: of numpy's generator, for the weights of the hidden layer (LeCun et al. 1998: variance 1 / F). The output layer is
            zero.

    Raises:
        ValueError: no levers to control, or one of them named twice.
    """
    controls = tuple(config.controls)
    if not controls:
        raise ValueError("policy: controls is empty; name at least one lever as algorithm/lever")
    if len(set(controls)) < len(controls):
        raise ValueError(f"policy: controls {', '.join(controls)} name a lever twice; name each once")
    inputs, outputs = len(FEATURES), len(controls)
    rng = np.random.default_rng(seed)
    levers = {
        "hidden_kernel": rng.normal(0.0, inputs**-0.5, (inputs, config.hidden)).astype(np.float32),
        "hidden_bias": np.zeros(config.hidden, np.float32),
        "output_kernel": np.zeros((config.hidden, outputs), np.float32),
        "output_bias": np.zeros(outputs, np.float32),
    }
    net = nets.Perceptron(config.hidden, outputs)

    def act(parameters: dict[str, Array], seen: Array, given: Levers) -> Levers:
        layers = {
            layer: {part: parameters[f"{layer}_{part}"] for part in ("kernel", "bias")}
            for layer in ("hidden", "output")
        }
        offsets = config.reach * jnp.tanh(jnp.asarray(net.apply({"params": layers}, seen)))
        moved = {name: dict(each) for name, each in given.items()}
        for i, control in enumerate(controls):
            name, lever = control.split("/", 1)
            moved[name][lever] = moved[name][lever] + offsets[i]
        return moved

    return Policy(controls, FEATURES, levers, summary, act)


def check(policy: Policy, algorithms: Mapping[str, Algorithm]) -> None:
    """Refuses a policy that controls what is not there.

    Raises:
        ValueError: a control that is no `algorithm/lever` of these algorithms.
    """
    known = [f"{name}/{lever}" for name, algorithm in algorithms.items() for lever in algorithm.levers]
    for control in policy.controls:
        if control not in known:
            raise ValueError(f"policy: there is no lever '{control}' to control. Known: {', '.join(known)}")
