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


def test_questions_of_different_kinds_wait_for_their_like():
    seen, other = [], []
    ask, look = summing(seen), summing(other)
    first = lambda: look(1) + ask(2)  # noqa: E731
    second = lambda: ask(3)  # noqa: E731
    assert lockstep.together([first, second, second]) == [30, 30, 30]
    assert (other, seen) == ([1], [3])


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


@pytest.mark.parametrize(("layout", "width"), [("loop", 1), ("vmap", 1), ("vmap", 2), ("vmap", 4)])
def test_calls_side_by_side_are_the_calls_one_by_one(layout, width):
    traced = []

    def kernel(table, x, key, nothing):
        traced.append((table.ndim, x.ndim))
        assert nothing is None
        return jnp.sum(table) * x + jax.random.normal(key), {"double": 2 * x}

    many = lockstep.SideBySide(kernel, layout=layout, width=width)
    table, other = jnp.arange(6.0), jnp.ones(3)
    keys = jax.random.split(jax.random.key(0), 5)
    calls = [(table if i != 3 else other, jnp.float32(i), key, None) for i, key in enumerate(keys)]
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
    assert many.bytes(calls[:2]) > 0


def test_what_all_calls_share_is_passed_once():
    def kernel(table, x):
        return table[0] * x

    many = lockstep.SideBySide(kernel, layout="vmap", width=2)
    table = jnp.ones(1000)
    _, (shared, own) = many._chunk([(table, jnp.float32(1.0)), (table, jnp.float32(2.0))])
    assert [leaf.shape for leaf in shared] == [(1000,)]
    assert own[0].shape[0] >= 2
