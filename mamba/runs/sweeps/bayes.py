"""Choices that learn from the members before them: a tree-structured Parzen estimator, by optuna (an extra).

Choices are asked for a batch at a time. A sweep that goes on asks again from the first choice on and answers what is known, so
that it makes the choices it would have made without the interruption.

References:
    Bergstra et al. 2011 (tree-structured Parzen estimator).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mamba.runs.errors import UserError
from mamba.runs.sweeps.spec import EDGE, Choice, Spec


class Asked(NamedTuple):
    """A choice, and what optuna wants to be told of it."""

    choice: Choice
    trial: Any


class Chooser:
    """Asks for choices and is told what came of them."""

    def __init__(self, spec: Spec, *, seed: int) -> None:
        """Begins.

        Raises:
            UserError: optuna is not installed.
        """
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "method: bayes needs optuna; pip install optuna (or the extra mamba-ecosystems[bayes])"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._spec = spec
        # `constant_liar` keeps the members of a batch, of which nothing is known yet, apart.
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._failed = optuna.trial.TrialState.FAIL

    def ask(self, count: int) -> list[Asked]:
        """The next choices."""
        return [self._one(self._study.ask()) for _ in range(count)]

    def tell(self, asked: Sequence[Asked], scores: Sequence[float | None]) -> None:
        """What came of them, less is better; None where a member has no score."""
        for each, score in zip(asked, scores, strict=True):
            if score is None:
                self._study.tell(each.trial, state=self._failed)
            else:
                self._study.tell(each.trial, score)

    def _one(self, trial: Any) -> Asked:
        choice: Choice = {}
        for each in self._spec.parameters:
            if each.distribution == "int_uniform" and each.values:
                choice[each.name] = trial.suggest_int(each.name, each.values[0], each.values[-1])
            elif each.values:
                choice[each.name] = each.values[trial.suggest_categorical(each.name, list(range(len(each.values))))]
            else:  # a share of the distribution that the file names
                choice[each.name] = each.quantile(trial.suggest_float(each.name, EDGE, 1.0 - EDGE))
        return Asked(choice, trial)
