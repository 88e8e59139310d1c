"""Creators and the ring of items: trade-off, trial and error, ages, expiry, recycled slots."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import SIZES, key, population

from mamba.streams import normals, uniforms
from mamba.types import Creators, Items, Ties, Users, item_column
from mamba.world import candidates, contagion, posting
from mamba.world.parameters import WorldParameters, as_arrays

PARAMETERS = as_arrays(WorldParameters())
N, D = SIZES.creators, SIZES.topics


def users(activity=1.0):
    people = population()
    zero = jnp.zeros(SIZES.users)
    return Users(people.innate, people.interest, zero, zero, zero, zero, zero, zero + activity)


def posts(mode, *, seed=0, own_opinion=False, parameters=PARAMETERS):
    keys = jax.random.split(key(seed), 3)
    people = population()
    return posting.post(
        Creators(people.strategy, jnp.zeros(N)),
        people,
        users(),
        noise=normals(uniforms(keys[0], (N, D + 4))),
        signal_noise=normals(uniforms(keys[1], (N, 3))),
        draws=uniforms(keys[2], (N, 2)),
        parameters=parameters,
        sizes=SIZES,
        mode=mode,
        own_opinion=own_opinion,
    )


def test_glitter_crowds_out_substance():
    glitter = jnp.linspace(-6, 6, 25)
    strategy = jnp.zeros((25, D + 4)).at[:, D + 1].set(glitter)
    topics, columns = posting.attributes(strategy, jnp.full(25, 0.8), D, PARAMETERS)
    np.testing.assert_allclose(columns["substance"], 0.8 * (1 - 0.6 * jax.nn.sigmoid(glitter)), rtol=1e-5)
    assert bool(jnp.all(jnp.diff(columns["substance"]) < 0))
    np.testing.assert_allclose(jnp.sum(topics, axis=-1), 1.0, rtol=1e-6)


def test_posts_are_in_range_and_readable():
    rows, posted = posts("sampled")
    assert rows.shape == (N, D + 12)
    np.testing.assert_allclose(jnp.sum(rows[:, :D], axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(rows[:, item_column("alive", D)], posted)
    for name in ("glitter", "synthetic", "toxicity_signal", "falsity_signal", "substance", "toxicity", "veracity"):
        column = rows[:, item_column(name, D)]
        assert bool(jnp.all((column >= 0) & (column <= 1))), name
    assert bool(jnp.all(jnp.abs(rows[:, item_column("stance", D)]) <= 1))
    assert set(np.unique(rows[:, item_column("verdict", D)])) <= {0.0, 1.0}


def test_expected_and_sampled_posts_agree_in_the_mean():
    always = PARAMETERS.replace(posting_rate=jnp.float32(0.25))
    both = jax.vmap(
        lambda seed: jax.tree.map(jnp.asarray, [_of(seed, mode, always) for mode in ("sampled", "expected")])
    )
    hard, soft = jax.jit(both)(jax.random.split(key(2), 3000))
    verdict, posted = item_column("verdict", D), 0.25
    # who posts is drawn in every mode, by the same draw; what reviewers will say is averaged in expected mode
    np.testing.assert_array_equal(hard[1], soft[1])
    error = 4 * 0.5 / np.sqrt(3000 * N)
    assert abs(float(jnp.mean(hard[1])) - posted) < error
    assert abs(float(jnp.mean(hard[0][..., verdict])) - float(jnp.mean(soft[0][..., verdict]))) < error
    same = jnp.delete(jnp.arange(D + 12), verdict, assume_unique_indices=True)
    np.testing.assert_array_equal(hard[0][..., same], soft[0][..., same])


def _of(seed, mode, parameters):
    keys = jax.random.split(seed, 3)
    people = population()
    return posting.post(
        Creators(people.strategy, jnp.zeros(N)), people, users(), noise=jax.random.normal(keys[0], (N, D + 4)),
        signal_noise=jax.random.normal(keys[1], (N, 3)), draws=jax.random.uniform(keys[2], (N, 2)),
        parameters=parameters, sizes=SIZES, mode=mode, own_opinion=False,
    )  # fmt: skip


def test_creators_who_post_what_they_think():
    rows, posted = posts("sampled", own_opinion=True)
    np.testing.assert_array_equal(posted, 1.0)
    want = jnp.sum(rows[:, :D] * population().innate[:, :N].T, axis=1)
    np.testing.assert_allclose(rows[:, item_column("stance", D)], want, atol=1e-6)


def adapted(reward_of, steps=300, n=200):
    """Mean strategy of `n` creators after `steps` trials that pay `reward_of(columns)`."""
    people = population().replace(strategy=jnp.zeros((n, D + 4)))
    creators = Creators(people.strategy, jnp.zeros(n))

    def one(creators, each):
        noise = jax.random.normal(each, (n, D + 4))
        _, columns = posting.attributes(creators.strategy + 0.4 * noise, jnp.ones(n), D, PARAMETERS)
        reward = reward_of(columns)
        told = {"noise": noise, "posted": jnp.ones(n), "parameters": PARAMETERS}
        return posting.trial_and_error(creators, people, reward=reward, **told), None

    creators = jax.jit(lambda c: jax.lax.scan(one, c, jax.random.split(key(1), steps))[0])(creators)
    return np.asarray(jnp.mean(creators.strategy, axis=0)), np.asarray(jnp.std(creators.strategy, axis=0))


def test_creators_drift_towards_what_pays():
    shiny, spread = adapted(lambda columns: 5.0 * columns["glitter"])
    error = 4 * spread / np.sqrt(200)
    assert shiny[D + 1] > 0.1 + error[D + 1]
    others = np.delete(np.arange(D + 4), D + 1)
    assert np.all(np.abs(shiny[others]) < error[others])
    solid, spread = adapted(lambda columns: 5.0 * columns["substance"])
    assert solid[D + 1] < -0.1 - 4 * spread[D + 1] / np.sqrt(200)


def test_trial_and_error_formula_and_who_did_not_post():
    people = population()
    creators = Creators(people.strategy + 0.5, jnp.full(N, 2.0))
    noise = jax.random.normal(key(3), (N, D + 4))
    posted = jnp.arange(N) % 2 * jnp.ones(N)
    told = {"reward": jnp.full(N, 3.5), "noise": noise, "posted": posted, "parameters": PARAMETERS}
    after = posting.trial_and_error(creators, people, **told)
    move = 0.02 * 0.5 * noise / 0.4 * posted[:, None]
    np.testing.assert_allclose(after.strategy, creators.strategy + move - 0.002 * 0.5, atol=1e-5)
    np.testing.assert_allclose(after.baseline, 2.0 + 0.1 * 1.5 * posted, rtol=1e-6)
    assert posting.no_adaptation(creators, people, **told) is creators


def empty_items():
    m = SIZES.items
    return Items(jnp.zeros((m, D + 12)), jnp.zeros((m, D + 4)), jnp.zeros(m), jnp.zeros(m))


def test_the_ring_ages_and_expires():
    items, lifetime = empty_items(), SIZES.lifetime
    for step in range(2 * lifetime + 3):
        mark = jnp.full((N, D + 12), float(step + 1))
        reward, _, existed = posting.expiring(items, step=jnp.int32(step), sizes=SIZES)
        # what expires is what was posted a lifetime ago, with the reward it has gathered since
        np.testing.assert_array_equal(existed, float(step >= lifetime))
        np.testing.assert_array_equal(reward, max(step - lifetime + 1, 0))
        items = posting.put(items, mark, jnp.zeros((N, D + 4)), jnp.ones(N), step=jnp.int32(step), sizes=SIZES)
        items = items.replace(reward=jnp.where(items.reward == 0, items.table[:, 0], items.reward))
        age = candidates.item_age(jnp.arange(SIZES.items), jnp.int32(step), SIZES)
        assert age.min() == 0 and age.max() == lifetime - 1
        born = items.table[:, 0] - 1
        seen = items.table[:, 0] > 0
        np.testing.assert_array_equal(jnp.where(seen, born, step - age), step - age)


def outbox_with(item, step):
    full = contagion.empty_outbox(SIZES)
    u = SIZES.users
    return contagion.share(full, jnp.full(u, item, jnp.int32), jnp.ones(u), step=jnp.int32(step), sizes=SIZES)


def shared_existence(outbox, step):
    """Existence of the outbox entries drawn by readers who follow one account that posts nothing itself."""
    u, k = SIZES.users, SIZES.followees
    account = SIZES.users - 1  # not a creator: every draw is an outbox entry
    ties = Ties(jnp.full((u, k), account, jnp.int32), jnp.zeros((u, k)).at[:, 0].set(1.0))
    ids, existence = candidates.sampled_ties(
        ties,
        outbox,
        step=jnp.int32(step),
        start_draw=jnp.full(u, 0.5),
        entry_draw=uniforms(key(), (SIZES.in_network, u)),
        sizes=SIZES,
    )
    return ids, existence


def test_a_reshare_is_offered_until_its_slot_is_recycled():
    assert SIZES.outbox < SIZES.lifetime
    old = (4 % SIZES.lifetime) * N + 3  # creator 3 posted it at step 4
    outbox = outbox_with(old, 8)
    ids, existence = shared_existence(outbox, 9)
    assert float(existence.max()) == 1.0
    np.testing.assert_array_equal(ids[existence > 0], old)
    entries = (existence > 0).mean()
    assert abs(float(entries) - 1 / SIZES.outbox) < 0.1  # one of O entries holds something
    # at step 4 + H the slot belongs to a new post: the same entry points to nothing
    assert float(shared_existence(outbox, 4 + SIZES.lifetime - 1)[1].max()) == 1.0
    assert float(shared_existence(outbox, 4 + SIZES.lifetime)[1].max()) == 0.0
    # and an entry is overwritten after O steps
    later = contagion.share(
        outbox, jnp.zeros(SIZES.users, jnp.int32), jnp.zeros(SIZES.users), step=jnp.int32(8 + SIZES.outbox), sizes=SIZES
    )
    assert float(shared_existence(later, 9)[1].max()) == 0.0


def test_an_empty_outbox_offers_nothing():
    assert float(shared_existence(contagion.empty_outbox(SIZES), 0)[1].max()) == 0.0


def test_chosen_reshare_weight_is_the_probability_of_any():
    ids = jnp.arange(20, dtype=jnp.int32).reshape(4, 5)
    reshared = jnp.asarray(np.random.default_rng(0).random((4, 5)), jnp.float32).at[:, 4].set(0.0)
    draw = uniforms(key(), (4, 5))
    item, weight = contagion.chosen(ids, reshared, draw=draw, mode="expected")
    np.testing.assert_allclose(weight, 1 - jnp.prod(1 - reshared, axis=0), rtol=1e-5)
    assert bool(jnp.all(jnp.any(ids == item[None], axis=0)))
    slope = jax.grad(lambda m: jnp.sum(contagion.chosen(ids, m, draw=draw, mode="expected")[1]))(reshared)
    assert bool(jnp.all(jnp.isfinite(slope)))
    # certain reshares have a derivative too
    slope = jax.grad(lambda m: jnp.sum(contagion.chosen(ids, m, draw=draw, mode="expected")[1]))
    assert bool(jnp.all(jnp.isfinite(slope(jnp.ones((4, 5))))))
    hard = (reshared > 0.5).astype(jnp.float32)
    item, weight = contagion.chosen(ids, hard, draw=draw, mode="sampled")
    np.testing.assert_array_equal(weight, jnp.max(hard, axis=0))
    chosen = jnp.sum(jnp.where(ids == item[None], hard, 0), axis=0)
    np.testing.assert_array_equal(chosen, jnp.max(hard, axis=0))
