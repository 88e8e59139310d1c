"""Controls in step: who asks is answered together with the others, and as if alone."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba.meta import lockstep


def summing(seen):
    """Answers 10 times each number, and notes how many were asked together."""

    def answer(calls):
        seen.append(len(calls))
        return [ValueError("thirteen") if number == 13 else 10 * number for (number,) in calls]

    return lockstep.asking(answer)


def test_questions_are_answered_together_and_results_come_in_order():
    seen = []
    ask = summing(seen)

    def task(number, times):
        return lambda: [ask(number + n) for n in range(times)]

    assert lockstep.together([task(1, 3), task(2, 1), task(3, 2)]) == [[10, 20, 30], [20], [30, 40]]
    assert seen == [3, 2, 1]
    assert ask(4) == 40  # alone, nobody waits
    assert seen[-1] == 1
    assert lockstep.together([]) == []


@pytest.mark.parametrize("tasks", [(0, 1, 1), (1, 1, 0)])
def test_who_is_ahead_waits_for_those_behind(tasks):
    seen, earlier = [], []
    late = lockstep.asking(lambda calls: seen.append(len(calls)) or [10 * n for (n,) in calls], order=1)
    early = lockstep.asking(lambda calls: earlier.append(len(calls)) or [n for (n,) in calls])
    each = [lambda: early(1) + late(2), lambda: late(3)]
    assert lockstep.together([each[task] for task in tasks]) == [(21, 30)[task] for task in tasks]
    assert (earlier, seen) == ([1], [3])


def test_an_error_of_one_leaves_the_others_alone():
    seen = []
    ask = summing(seen)

    def caught():
        with pytest.raises(ValueError, match="thirteen"):
            ask(13)
        return "caught"

    first, second, third = lockstep.together([lambda: ask(13), lambda: ask(1) + ask(2), caught])
    assert isinstance(first, ValueError) and (second, third) == (30, "caught")


def test_an_answer_that_fails_as_a_whole_ends_every_task():
    ended = []

    def answer(calls):
        raise MemoryError(f"{len(calls)} are too many")

    ask = lockstep.asking(answer)

    def task():
        try:
            ask(1)
        finally:
            ended.append(True)

    before = threading.active_count()
    with pytest.raises(MemoryError, match="3 are too many"):
        lockstep.together([task, task, task])
    assert len(ended) == 3 and threading.active_count() == before


def test_what_is_no_mere_error_of_a_task_reaches_the_caller():
    ask, before = summing([]), threading.active_count()

    def leaves():
        ask(1)
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        lockstep.together([lambda: ask(1) + ask(2) + ask(3), leaves, lambda: ask(2)])
    assert threading.active_count() == before


@pytest.mark.parametrize(("layout", "width"), [("loop", 1), ("vmap", 1), ("vmap", 2), ("vmap", 4)])
def test_calls_side_by_side_are_the_calls_one_by_one(layout, width):
    traced = []

    def kernel(table, x, key, nothing):
        traced.append((table.ndim, x.ndim))
        assert nothing is None
        return jnp.sum(table) * x + jax.random.normal(key), {"double": 2 * x}

    many = lockstep.SideBySide(kernel, layout=layout, width=width, common=1)
    table = jnp.arange(6.0)
    calls = [(table, jnp.float32(i), key, None) for i, key in enumerate(jax.random.split(jax.random.key(0), 5))]
    for call, (value, told) in zip(calls, many(calls), strict=True):
        alone, double = kernel(*call)
        np.testing.assert_allclose(value, alone, rtol=1e-6)
        np.testing.assert_allclose(told["double"], double["double"])
    assert len(many([])) == 0
    # One program for calls of one shape, however many they are.
    del traced[:]
    many([calls[0], calls[1], calls[2], calls[4]])
    many(calls[:1])
    assert not traced
    # And another one for those of another shape, which do not hold each other up.
    vector = (table, jnp.arange(3.0), jax.random.key(7), None)
    results = many([calls[0], vector, calls[1]])
    assert [np.shape(value) for value, _ in results] == [(), (3,), ()]
    assert many.bytes([calls[0], vector]) > 0


def test_what_all_calls_have_in_common_is_passed_once():
    many = lockstep.SideBySide(lambda table, x: table[0] * x, layout="vmap", width=2, common=1)
    shared, own = many._given([(jnp.ones(1000), jnp.float32(1.0)), (jnp.ones(1000), jnp.float32(2.0))])
    assert [leaf.shape for leaf in shared] == [(1000,)]
    assert own[0].shape == (many.width,)
