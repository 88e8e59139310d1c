"""Designs: which runs to make so that effects and interactions can be told apart.

A design is a table of gates and learning switches with one row a run. Effects are linear maps [..., R] of what the R rows
gave (`statistics.contrast` applies them), so that paired seeds give their standard errors for free.

    full          every subset of A algorithms, R = 2^A, row g opens the bits of g
    fractional    9 to 16 algorithms on 128 or 256 rows, every mean, main and pair effect clear of each other
    switched_off  everything on, then without each algorithm and each pair: the effects in today's context
    learning      {off, frozen, learning} of one pair, everybody else on and learning: 9 rows

Averages over the rows of the two-level designs, with signs x = 2 gate - 1 and y the outcome:

    main_i  = 2/R sum_r x_ri y_r          mean over the other gates of y(i on) - y(i off)
    pair_ij = 4/R sum_r x_ri x_rj y_r     mean change of the effect of i when j comes on

The factor 1/2 that some texts put on a pair effect is left out.

References:
    Box, Hunter and Hunter 2005 (two-level designs, resolution). Hedayat, Sloane and Stufken 1999 (an orthogonal array of
    strength 4 keeps means, mains and pairs clear; at most 8 columns on 64 rows, 15 on 128). Nordstrom and Robinson 1967;
    Forney, Sloane and Trott 1993 (the code as the Gray image of the octacode).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

FULL_LIMIT = 12  # algorithms; beyond, 2^A runs and the maps over them fit nowhere
_FRACTIONAL = range(9, 17)

# The octacode of Forney, Sloane and Trott 1993: a self-dual code of length 8 over the integers modulo 4. Its columns are in
# an order in which, for every A, the first A columns of the design have the fewest three-way terms on pair effects.
_OCTACODE = (
    (3, 1, 2, 1, 1, 0, 0, 0),
    (0, 3, 1, 2, 1, 1, 0, 0),
    (0, 0, 3, 1, 1, 2, 1, 0),
    (0, 0, 0, 3, 1, 1, 2, 1),
)
_GRAY = ((0, 0), (0, 1), (1, 1), (1, 0))
_FIXED = 9  # the column that is held on and dropped where 15 columns are enough

OFF, FROZEN, LEARNING = 0, 1, 2  # levels of the design `learning`


class Design(NamedTuple):
    """Runs to make.

    Attributes:
        gates: [R, A] float32, 0 or 1.
        learning: [R, A] float32, 0 or 1; means nothing where the gate is 0.
        kind: `full`, `fractional`, `switched_off` or `learning`.
    """

    gates: np.ndarray
    learning: np.ndarray
    kind: str


class Index(NamedTuple):
    """Effects of algorithms and of their pairs, as linear maps of design rows.

    Attributes:
        main: [A, R] float64.
        pair: [A, A, R], symmetric, zero diagonal.
    """

    main: np.ndarray
    pair: np.ndarray


def gates(n_algorithms: int) -> np.ndarray:
    """All gate settings, [2^A, A] float32; row `g` opens the bits of `g`."""
    rows = np.arange(2**n_algorithms)[:, None]
    return ((rows >> np.arange(n_algorithms)[None, :]) & 1).astype(np.float32)


def full(n_algorithms: int) -> Design:
    """Every subset of the algorithms, in bit order; the last row is everything on.

    Args:
        n_algorithms: A, 1 to `FULL_LIMIT`.

    Raises:
        ValueError: A outside that range.
    """
    if not 1 <= n_algorithms <= FULL_LIMIT:
        raise ValueError(
            f"a full factorial takes 1 to {FULL_LIMIT} algorithms, got {n_algorithms} (2^{n_algorithms} runs a seed); "
            f"use `fractional` for {_FRACTIONAL[0]} to {_FRACTIONAL[-1]}, or group algorithms"
        )
    table = gates(n_algorithms)
    return Design(table, np.ones_like(table), "full")


def fractional(n_algorithms: int, *, clear_of_triples: bool = False) -> Design:
    """The smallest known two-level design, of a power of two rows, on which main and pair effects are clear.

    The mean, all main effects and all pair effects are estimated free of each other (resolution V): 128 rows for 9 to 15
    algorithms, where effects of three algorithms leak into pair effects; 256 rows for 16, where only those of four do
    (resolution VI). The regular fractions that textbooks tabulate need 256 rows from 12 algorithms on.

    Args:
        n_algorithms: A, 9 to 16.
        clear_of_triples: take resolution VI, 256 rows, for fewer algorithms too.

    Returns:
        Rows in bit order of their gates (bit i is algorithm i); the last is everything on.

    Raises:
        ValueError: A outside that range.
    """
    if n_algorithms not in _FRACTIONAL:
        raise ValueError(
            f"a fractional design takes {_FRACTIONAL[0]} to {_FRACTIONAL[-1]} algorithms, got {n_algorithms}; "
            f"use `full` below, and group algorithms above"
        )
    mixtures = np.array(list(itertools.product(range(4), repeat=len(_OCTACODE))))
    words = np.array(_GRAY)[mixtures @ np.array(_OCTACODE) % 4].reshape(
        len(mixtures), -1
    )  # [256, 16], Nordstrom-Robinson
    if n_algorithms < words.shape[1] and not clear_of_triples:
        words = np.delete(words[words[:, _FIXED] == 1], _FIXED, axis=1)
    words = words[:, :n_algorithms]
    words = words[np.argsort(words @ 2 ** np.arange(n_algorithms))]
    return Design(words.astype(np.float32), np.ones(words.shape, np.float32), "fractional")


def switched_off(n_algorithms: int) -> Design:
    """Everything on, without each algorithm, and without each pair: 1 + A + A (A - 1) / 2 rows.

    The least that tells what switching algorithms off today would do, at any A. Each effect rests on 2 to 4 rows only, so
    it is noisier than an average over a factorial of as many rows.

    Args:
        n_algorithms: A, at least 1.

    Raises:
        ValueError: no algorithm.
    """
    if n_algorithms < 1:
        raise ValueError(f"a design needs at least 1 algorithm, got {n_algorithms}")
    rows = [(), *((i,) for i in range(n_algorithms)), *itertools.combinations(range(n_algorithms), 2)]
    table = np.ones((len(rows), n_algorithms), np.float32)
    for row, without in zip(table, rows, strict=True):
        row[list(without)] = 0.0
    return Design(table, np.ones_like(table), "switched_off")


def learning(n_algorithms: int, pair: tuple[int, int]) -> Design:
    """The factor {off, frozen, learning} of algorithms i and j, with all others on and learning.

    Frozen means that an algorithm acts on what it knew at the start of the run (its warm-up).

    Args:
        n_algorithms: A.
        pair: indices (i, j), not equal.

    Returns:
        9 rows; row 3 a + b has i at level a and j at level b (`OFF`, `FROZEN`, `LEARNING`). The last is everything on and
        learning.

    Raises:
        ValueError: not two algorithms of the platform.
    """
    if len(set(pair)) != 2 or not all(0 <= k < n_algorithms for k in pair):
        raise ValueError(f"a pair is two different indices below {n_algorithms}, got {tuple(pair)}")
    levels = np.array(list(itertools.product((OFF, FROZEN, LEARNING), repeat=2)))  # [9, 2]
    on, learns = np.ones((2, len(levels), n_algorithms), np.float32)
    on[:, list(pair)] = levels != OFF
    learns[:, list(pair)] = levels == LEARNING
    return Design(on, learns, "learning")


def averages(gates: np.ndarray) -> Index:
    """Average main and pair effects of a two-level design as linear maps of its rows.

    Both are exact where no effect of three or more algorithms leaks in, and on a full factorial always.

    Args:
        gates: [R, A] 0 or 1, on which mean, mains and pairs are clear of each other.

    Raises:
        ValueError: the effects of such rows cannot be told apart by averaging.
    """
    signs = 2.0 * np.asarray(gates, np.float64) - 1.0
    rows, n = signs.shape
    upper = np.triu_indices(n, 1)
    columns = np.concatenate([np.ones((rows, 1)), signs, signs[:, upper[0]] * signs[:, upper[1]]], axis=1)
    if not np.array_equal(columns.T @ columns, rows * np.eye(columns.shape[1])):
        raise ValueError(
            f"on these {rows} rows the mean, main and pair effects of {n} algorithms are not clear of each other; take the "
            "gates of `full` or `fractional`"
        )
    pair = np.zeros((n, n, rows))
    pair[upper] = 4.0 / rows * columns[:, 1 + n :].T
    return Index(2.0 / rows * signs.T, pair + pair.swapaxes(0, 1))


def today(n_algorithms: int) -> Index:
    """Effects while all other algorithms are on, of the design `switched_off`.

    main_i = y(all) - y(all without i), pair_ij = y(all) - y(all without i) - y(all without j) + y(all without both).
    """
    n, rows = n_algorithms, 1 + n_algorithms + n_algorithms * (n_algorithms - 1) // 2
    main = np.zeros((n, rows))
    main[:, 0] = 1.0
    main[np.arange(n), 1 + np.arange(n)] = -1.0
    pair = np.zeros((n, n, rows))
    i, j = np.triu_indices(n, 1)
    pair[i, j, 0] = 1.0
    pair[i, j, 1 + i] = -1.0
    pair[i, j, 1 + j] = -1.0
    pair[i, j, 1 + n + np.arange(len(i))] = 1.0
    return Index(main, pair + pair.swapaxes(0, 1))


class Relearning(NamedTuple):
    """Contrasts of the design `learning` for the ordered pair (i, j), as linear maps of its 9 rows.

    The first axis is i frozen, i learning.

    Attributes:
        effect: [2, 3, 9] y(i on) - y(i off) while j is off, frozen, learning.
        interaction: [2, 2, 9] effect of i while j is frozen, learning, less the effect of i while j is off.
        relearned: [2, 9] effect of i while j learns, less the effect of i while j is on but frozen. What of an effect of i is
            lost (opposite sign) or gained (same sign) because j learns. It holds both j's answer to i and that i meets a
            better trained j; the two are not told apart, which would take j's training without i replayed against i.
    """

    effect: np.ndarray
    interaction: np.ndarray
    relearned: np.ndarray


def relearning() -> Relearning:
    """Maps of the design `learning`."""
    rows = np.eye(9).reshape(3, 3, 9)
    effect = rows[FROZEN:] - rows[:FROZEN]
    return Relearning(
        effect=effect,
        interaction=effect[:, FROZEN:] - effect[:, :FROZEN],
        relearned=effect[:, LEARNING] - effect[:, FROZEN],
    )
