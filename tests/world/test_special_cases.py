"""The literature's opinion models are special cases of the engine, reproduced exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compile, key

from mamba import ecosystem as eco
from mamba.rollout import rollout
from mamba.types import Population, Sizes, item_column
from mamba.world import network
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters

U, STEPS = 40, 150
EDGES = network.erdos_renyi(U, 6.0, seed=3, directed=False)
A = network.adjacency(EDGES, U).toarray()
DEGREE = A.sum(axis=1)
K = int(DEGREE.max())
INNATE = np.random.default_rng(0).uniform(-0.9, 0.9, U)
OPINIONS = Mechanisms(
    opinion="averaging",
    preference="none",
    fatigue="none",
    wellbeing="none",
    trust="none",
    resilience="none",
    activity="none",
    churn="none",
    choice="none",
    candidates="latest",
    posting="opinion",
    contagion="none",
    rewiring="none",
    scrolling="everything",
)


def sizes(user_block=0):
    return Sizes(
        users=U, creators=U, topics=1, lifetime=2, followees=K, in_network=K, recent=1, outbox=1, links=1,
        log_batch=4, user_block=user_block,
    )  # fmt: skip


def people():
    followees, weight = network.followee_table(EDGES, U, K, seed=0)
    zero = jnp.zeros(U)
    return Population(
        innate=jnp.asarray(INNATE[None], jnp.float32),
        interest=jnp.zeros((1, U)),
        susceptibility=zero,
        group=jnp.zeros(U, jnp.int32),
        habit=zero + 1.0,
        strategy=jnp.zeros((U, 5)),
        skill=zero + 0.5,
        synthetic=zero,
        followees=jnp.asarray(followees),
        weight=jnp.asarray(weight),
        followers=jnp.asarray(DEGREE, jnp.float32),
    )


@functools.cache
def compiled(opinion, mode="sampled", user_block=0):
    """`parameters -> (opinions after every step [T, U], stances of the newest posts [T, U], metrics)`."""
    size = sizes(user_block)
    ecosystem = eco.make({}, sizes=size, mechanisms=Mechanisms(**(OPINIONS.__dict__ | {"opinion": opinion})))

    def probe(state, metrics):
        return state.world.users.opinion[0], state.world.items.table[:, item_column("stance", 1)]

    def run(parameters):
        given = eco.inputs(ecosystem, people(), parameters=parameters)
        _, metrics, (opinions, stances) = rollout(
            ecosystem, given, key=key(), steps=STEPS, mode=mode, segment=0, probe=probe
        )
        return opinions, stances, metrics

    return compile(run)


def opinions(kind, mode="sampled", user_block=0, **numbers):
    out = compiled(kind, mode, user_block)(eco.as_arrays(WorldParameters(**numbers)))
    return jax.tree.map(np.asarray, out)


def test_friedkin_johnsen_converges_to_its_closed_form():
    x, _, metrics = opinions("averaging", self_weight=0.0, innate_weight=1.0)
    laplacian = np.diag(DEGREE) - A
    np.testing.assert_allclose(x[-1], np.linalg.solve(np.eye(U) + laplacian, INNATE), atol=1e-4)
    np.testing.assert_allclose(metrics["polarisation"][-1], np.var(x[-1]), rtol=1e-4)
    # polarisation-disagreement identity of Musco, Musco and Tsourakakis 2018
    centred, mean = INNATE - INNATE.mean(), x[-1].mean()
    identity = centred @ np.linalg.solve(np.eye(U) + laplacian, centred)
    np.testing.assert_allclose(np.sum((x[-1] - mean) ** 2) + x[-1] @ laplacian @ x[-1], identity, rtol=1e-4)


def test_every_step_is_the_map_of_friedkin_and_johnsen():
    x, stances, metrics = opinions("averaging", self_weight=0.0, innate_weight=1.0)
    before = np.concatenate([np.float32(INNATE)[None], x[:-1]])
    np.testing.assert_allclose(x, (before @ A.T + INNATE) / (DEGREE + 1), atol=1e-5)
    # Order of events: what is posted at step t is the opinion at the start of step t, and is read in the same step.
    for t in (0, 1, 2, 7):
        block = slice((t % 2) * U, (t % 2 + 1) * U)
        np.testing.assert_allclose(stances[t, block], before[t], atol=1e-6)
    np.testing.assert_allclose(metrics["exposures"], A.sum())
    np.testing.assert_array_equal(metrics["clicks"], 0.0)


@pytest.mark.parametrize("user_block", [15])
def test_blocks_of_users_change_nothing_where_nothing_is_drawn(user_block):
    # 40 users in blocks of 15: the last block is padded, and padding must not be seen anywhere. Nobody reports.
    numbers = {"self_weight": 0.0, "innate_weight": 1.0, "report_base": -100.0}
    whole = opinions("averaging", **numbers)
    parts = opinions("averaging", "sampled", user_block, **numbers)
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-6)
    for name, value in whole[2].items():
        np.testing.assert_allclose(parts[2][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_degroot_agrees_on_the_degree_weighted_mean():
    x, _, _ = opinions("averaging", self_weight=1.0, innate_weight=0.0)
    consensus = np.sum((DEGREE + 1) * INNATE) / np.sum(DEGREE + 1)
    np.testing.assert_allclose(x[-1], consensus, atol=1e-4)
    # The weighted mean is conserved from the first step on.
    np.testing.assert_allclose(x @ (DEGREE + 1) / np.sum(DEGREE + 1), consensus, atol=1e-5)


def test_hegselmann_krause():
    x, _, _ = opinions("bounded_averaging", self_weight=1.0, confidence=0.4, confidence_width=1e-6)
    want = INNATE.copy()
    for step in range(5):
        near = (np.abs(want[:, None] - want[None]) <= 0.4) & ((A > 0) | np.eye(U, dtype=bool))
        want = near @ want / near.sum(axis=1)
        np.testing.assert_allclose(x[step], want, atol=1e-5)


def test_mean_field_of_a_world_without_chance_is_the_world_and_has_its_derivative():
    ecosystem = eco.make({}, sizes=sizes(), mechanisms=OPINIONS)
    parameters = WorldParameters(self_weight=0.0, innate_weight=1.0)

    def polarisation(innate):
        given = eco.inputs(ecosystem, people().replace(innate=innate), parameters=parameters)
        state, metrics, _ = rollout(ecosystem, given, key=key(), steps=STEPS, mode="expected", segment=0)
        return metrics["polarisation"][-1], state.world.users.opinion[0]

    slope, opinion = compile(jax.grad(polarisation, has_aux=True))(people().innate)
    np.testing.assert_allclose(opinion, opinions("averaging", self_weight=0.0, innate_weight=1.0)[0][-1], atol=1e-6)
    got = np.asarray(slope)[0]
    inverse, centre = np.linalg.inv(np.eye(U) + np.diag(DEGREE) - A), np.eye(U) - 1 / U
    want = 2 * inverse @ centre @ inverse @ INNATE / U
    np.testing.assert_allclose(got, want, atol=1e-6, rtol=1e-3)
