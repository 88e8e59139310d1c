"""Verdicts: what two algorithms do to each other, in one word with an error rate.

With b_i and b_j what each improves alone, b_ij what both improve, all in the healthy direction and against the same
background, I = b_ij - b_i - b_j is the interaction and b_i|j = b_ij - b_j the effect of i while j is on:

| verdict          | condition                                                                               |
|------------------|-----------------------------------------------------------------------------------------|
| none             | the whole interval of I lies within +- margin, the margin being a share of the spread   |
| working_against  | both help alone, b_ij < max(b_i, b_j)                                                   |
| reversing        | b_i and b_i|j have different signs (or b_j and b_j|i)                                   |
| reinforcing      | both help alone, I > 0                                                                  |
| redundant        | both help alone, I < 0, b_ij >= max(b_i, b_j) - margin                                  |
| compounding_harm | both hurt alone, I < 0                                                                  |
| saturating_harm  | both hurt alone, I > 0                                                                  |
| remedy_amplified | one helps alone, one hurts, I > 0                                                       |
| remedy_undermined| one helps alone, one hurts, I < 0                                                       |
| conditional      | I is confirmed, the sign of an effect alone is not resolved                             |
| unresolved       | everything else, "not significant" included                                             |

The first row that holds is the verdict. `none` is an equivalence test and comes first: an interaction that is measurable but
negligible is `none` and stays `confirmed`. All other verdicts need I to be confirmed by Benjamini-Hochberg over all pairs and
objectives, and every sign they speak of to be resolved by an interval that allows for the pair's having been picked. A
maximum is never estimated: b_ij < max(b_i, b_j) if and only if b_i|j < 0 or b_j|i < 0, so both are compared on their own.

Arithmetic makes every pair that works against each other also reverse one of its effects (b_ij < b_j is b_i|j < 0 < b_i).
The narrower word is kept for two that help alone; `reversed_by` says who turns whom in either case.

References:
    Benjamini and Hochberg 1995 (false discovery rate); Benjamini and Yekutieli 2005 (intervals of picked effects);
    Schuirmann 1987 (equivalence by an interval); Berger 1982 (a claim of several signs needs each one resolved).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mamba.interactions.statistics import Estimate, discoveries, equivalent, estimate, selected

VERDICTS = (
    "unresolved",
    "none",
    "reinforcing",
    "redundant",
    "working_against",
    "compounding_harm",
    "saturating_harm",
    "remedy_amplified",
    "remedy_undermined",
    "reversing",
    "conditional",
)
CODES = {name: np.int8(code) for code, name in enumerate(VERDICTS)}

_WORDS = {
    "unresolved": "unresolved at this number of seeds",
    "none": "no interaction at this resolution",
    "reinforcing": "reinforce each other",
    "redundant": "are redundant: together they help, by less than the sum",
    "working_against": "work against each other: together they help less than the better one alone",
    "compounding_harm": "compound each other's harm",
    "saturating_harm": "harm by less together than the sum of their harms",
    "remedy_amplified": "the remedy works better against this harm than on its own",
    "remedy_undermined": "the remedy is undermined",
    "reversing": "the effect of one changes sign when the other is on",
    "conditional": "interact, but an effect alone is too small to tell help from harm",
}


class Verdicts(NamedTuple):
    """Verdicts on all pairs of A algorithms and J objectives; everything is a benefit, positive is healthier.

    Attributes:
        codes: [A, A, J] int8, index into `VERDICTS`; symmetric, diagonal `unresolved`.
        reversed_by: [A, A, J] bool, `[i, j]` says that i's effect has another sign once j is on. Set wherever that is
            resolved, whatever the verdict's name; `none` sets nothing.
        interaction: estimates [A, A, J] of I; symmetric, NaN on the diagonal. Intervals at the plain confidence.
        alone: estimates [A, A, J]: effect of i while j is off.
        given: estimates [A, A, J]: effect of i while j is on.
        both: estimates [A, A, J] of b_ij, symmetric.
        picked: `interaction` with the wider intervals that the confirmed pairs are reported with.
        p: [A, A, J] two-sided p-values of I.
        confirmed: [A, A, J] bool, discoveries among all pairs and objectives.
        margin: [J] interactions within +- margin are negligible, in the objective's unit.
    """

    codes: np.ndarray
    reversed_by: np.ndarray
    interaction: Estimate
    alone: Estimate
    given: Estimate
    both: Estimate
    picked: Estimate
    p: np.ndarray
    confirmed: np.ndarray
    margin: np.ndarray


def words(verdict: str | int | np.integer) -> str:
    """A short phrase for people, of a name in `VERDICTS` or its code."""
    return _WORDS[verdict if isinstance(verdict, str) else VERDICTS[int(verdict)]]


def from_square(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Changes that two algorithms make, from their four platforms.

    Args:
        values: [S, 2, 2, ...]: seed, first off or on, second off or on.

    Returns:
        `(alone, both)`, each [S, 2, 2, ...], as `judge` takes them: `alone[:, 0, 1]` is the first while the second is off.
    """
    table = np.asarray(values, np.float64)
    start, second, first, both = table[:, 0, 0], table[:, 0, 1], table[:, 1, 0], table[:, 1, 1]
    none = np.full_like(start, np.nan)

    def matrix(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        return np.stack([np.stack([none, upper], 1), np.stack([lower, none], 1)], 1)

    return matrix(first - start, second - start), matrix(both - start, both - start)


def judge(
    alone: np.ndarray,
    both: np.ndarray,
    *,
    better: np.ndarray,
    spread: np.ndarray,
    confidence: float = 0.95,
    false_discovery_rate: float = 0.05,
    resolution: float = 0.05,
) -> Verdicts:
    """Judges every pair on every objective.

    Args:
        alone: [S, A, A, J], `[:, i, j]` the change from switching i on while j is off, against the pair's background (the
            others all off, all on, or averaged over); S at least 2 paired seeds, the diagonal is not read.
        both: [S, A, A, J] the change from switching i and j on, against the same background; the upper triangle is read.
        better: [J] +1 where more of the objective is healthier, -1 where less is.
        spread: [J] standard deviation of the objective between policies: the scale that `resolution` is a share of.
        confidence: of the intervals.
        false_discovery_rate: Benjamini-Hochberg level over all pairs and objectives.
        resolution: interactions within this share of the spread count as none.

    Returns:
        The verdicts. A pair with a value that is not finite is `unresolved` and not counted as a test. Where the spread is 0 or
        not finite only an interaction of exactly 0 in every seed is `none`.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 seeds, or a resolution below 0.
    """
    alone, both, better, spread = (np.asarray(x, np.float64) for x in (alone, both, better, spread))
    _check(alone, both, better, spread, resolution)
    seeds, count = len(alone), alone.shape[1]
    i, j = np.triu_indices(count, 1)
    margin = np.where(np.isfinite(spread), resolution * spread, 0.0)

    # Everything below has axes [S, pairs, J].
    b_i, b_j, b_both = better * alone[:, i, j], better * alone[:, j, i], better * both[:, i, j]
    samples = {
        "interaction": b_both - b_i - b_j,
        "i": b_i,
        "j": b_j,
        "both": b_both,
        "i_given": b_both - b_j,
        "j_given": b_both - b_i,
    }
    valid = np.all([np.isfinite(each).all(axis=0) for each in samples.values()], axis=0)
    plain = {name: estimate(np.where(valid, each, np.nan), confidence) for name, each in samples.items()}
    p = plain["interaction"].p
    confirmed = discoveries(p, false_discovery_rate)
    chosen = {"chosen": int(confirmed.sum()), "among": int(valid.sum()), "confidence": confidence}
    picked = {name: selected(each, seeds, **chosen) for name, each in plain.items()}
    codes, reversed_i, reversed_j = _rule(plain["interaction"], picked, confirmed=confirmed, margin=margin)

    def square(upper: np.ndarray, lower: np.ndarray, empty: object) -> np.ndarray:
        out = np.full((count, count, len(better)), empty, upper.dtype)
        out[i, j], out[j, i] = upper, lower
        return out

    def estimates(upper: Estimate, lower: Estimate) -> Estimate:
        return Estimate(*(square(a, b, np.nan) for a, b in zip(upper, lower, strict=True)))

    return Verdicts(
        codes=square(codes, codes, CODES["unresolved"]),
        reversed_by=square(reversed_i, reversed_j, False),
        interaction=estimates(plain["interaction"], plain["interaction"]),
        alone=estimates(plain["i"], plain["j"]),
        given=estimates(plain["i_given"], plain["j_given"]),
        both=estimates(plain["both"], plain["both"]),
        picked=estimates(picked["interaction"], picked["interaction"]),
        p=square(p, p, np.nan),
        confirmed=square(confirmed, confirmed, False),
        margin=margin,
    )


def _check(alone: np.ndarray, both: np.ndarray, better: np.ndarray, spread: np.ndarray, resolution: float) -> None:
    if alone.ndim != 4 or alone.shape[1] != alone.shape[2] or both.shape != alone.shape:
        raise ValueError(
            f"alone and both must have one shape [S, A, A, J], got {list(alone.shape)} and {list(both.shape)}"
        )
    if better.shape != alone.shape[3:] or spread.shape != alone.shape[3:]:
        raise ValueError(
            f"better and spread must have one entry for each of the {alone.shape[3]} objectives, got shapes "
            f"{list(better.shape)} and {list(spread.shape)}"
        )
    if resolution < 0:
        raise ValueError(f"resolution = {resolution} must be at least 0; it is a share of the spread")


def _rule(
    interaction: Estimate, picked: dict[str, Estimate], *, confirmed: np.ndarray, margin: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The table of the module docstring: codes, whether j reverses i, whether i reverses j; each [pairs, J]."""
    helps = {name: each.low > 0 for name, each in picked.items()}
    hurts = {name: each.high < 0 for name, each in picked.items()}
    negligible = equivalent(interaction, margin=margin)
    judged = confirmed & ~negligible
    turned = {
        one: judged & ((helps[one] & hurts[f"{one}_given"]) | (hurts[one] & helps[f"{one}_given"]))
        for one in ("i", "j")
    }
    reversal = turned["i"] | turned["j"]
    gain, loss = judged & (interaction.mean > 0), judged & (interaction.mean < 0)
    both_help, both_hurt = helps["i"] & helps["j"], hurts["i"] & hurts["j"]
    mixed = (helps["i"] & hurts["j"]) | (hurts["i"] & helps["j"])
    less = hurts["i_given"] | hurts["j_given"]
    # Exact substitutes add exactly nothing, which no interval can show to be at least 0: not worse by more than the margin.
    no_less = (picked["i_given"].low >= -margin) & (picked["j_given"].low >= -margin)
    table = (
        ("none", negligible),
        ("working_against", loss & both_help & less),
        ("reversing", reversal),
        ("reinforcing", gain & both_help),
        ("redundant", loss & both_help & no_less),
        ("compounding_harm", loss & both_hurt),
        ("saturating_harm", gain & both_hurt),
        ("remedy_amplified", gain & mixed),
        ("remedy_undermined", loss & mixed),
        ("conditional", judged & ~(both_help | both_hurt | mixed)),
    )
    codes = np.select([holds for _, holds in table], [CODES[name] for name, _ in table], CODES["unresolved"])
    return codes.astype(np.int8), turned["i"], turned["j"]


class LearningContrast(NamedTuple):
    """What one algorithm does while another is frozen and while it learns; estimates [J] in the objective's own unit.

    Attributes:
        frozen: effect of switching it on while the other acts on what it knew at the start.
        learning: the same effect while the other learns.
        difference: `learning` minus `frozen`: what the other's learning adds to the effect or takes from it.
    """

    frozen: Estimate
    learning: Estimate
    difference: Estimate


def learning_contrast(values: np.ndarray, *, confidence: float = 0.95) -> LearningContrast:
    """The effect of i while j is frozen, while j learns, and the paired difference of the two.

    Args:
        values: [S, 2, 2, J]: seed, i off or on, j frozen or learning.
        confidence: of the intervals.

    Raises:
        ValueError: another shape, or fewer than 2 seeds.
    """
    if values.ndim != 4 or values.shape[1:3] != (2, 2):
        raise ValueError(f"values of a learning contrast have shape [S, 2, 2, J], got {list(values.shape)}")
    effect = np.diff(np.asarray(values, np.float64), axis=1)[:, 0]  # [S, frozen or learning, J]
    frozen, learning = effect[:, 0], effect[:, 1]
    return LearningContrast(*(estimate(each, confidence) for each in (frozen, learning, learning - frozen)))
