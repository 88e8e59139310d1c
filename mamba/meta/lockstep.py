"""Several host-side programs in step, so that what each asks of the devices is answered together.

Training is host-side control of compiled pieces: it asks for outcomes or derivatives, thinks, asks again. `together` runs several
of such controls and holds each at its question until all have asked; then the questions of one kind are answered by one call. No
control knows of the others: what is trained in step is what would have been trained alone.

Controls are threads of which one runs at a time, in order: there is nothing to race for, and every run meets in the same way.
(Generators would do the same if every function between a control and its questions were one.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mamba import members as mem
from mamba import placement

T = TypeVar("T")
# arguments of N calls -> N results; one that is an exception is raised by its own call
Answer = Callable[[list[tuple[Any, ...]]], Sequence[Any]]


class _Question(NamedTuple):
    order: int
    answer: Answer
    arguments: tuple[Any, ...]


class _Ended(BaseException):
    """Ends a control whose question nobody will answer."""


class _Control:
    """A task in a thread of its own, which runs only while `go_on` waits for it."""

    present = threading.local()

    def __init__(self, task: Callable[[], Any]) -> None:
        self._task = task
        self._turn, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._answer: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.question: _Question | None = None
        self.result: Any = None

    def go_on(self, answer: Any = None) -> None:
        """Hands it an answer and lets it run to its next question or its end."""
        self._answer, self.question = answer, None
        if self._thread.ident is None:
            self._thread.start()
        self._turn.release()
        self._paused.acquire()

    def ask(self, question: _Question) -> Any:
        """Waits for an answer, in its own thread."""
        self.question = question
        self._paused.release()
        self._turn.acquire()
        return _raised(self._answer)

    def _run(self) -> None:
        _Control.present.control = self
        self._turn.acquire()
        try:
            self.result = self._task()
        except BaseException as error:  # what it means is for the caller of `together` to say
            self.result = error
        finally:
            self._paused.release()


def _raised(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


def asking(answer: Answer, *, order: int = 0) -> Callable[..., Any]:
    """A function whose calls by the tasks of `together` are answered together; others are answered at once.

    Args:
        answer: arguments of N calls -> N results in the same order; one that is an exception is raised by its own call.
        order: of several kinds of questions, those of the least order are answered first: who asks what comes later in a task waits
            for those behind.
    """

    def ask(*arguments: Any) -> Any:
        control: _Control | None = getattr(_Control.present, "control", None)
        if control is None:
            return _raised(answer([arguments])[0])
        return control.ask(_Question(order, answer, arguments))

    return ask


def together(tasks: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Runs tasks in step.

    Args:
        tasks: what they share of the devices they ask for through functions made by `asking`. Scopes of jax that belong to a thread
            (`jax.set_mesh`) do not reach them.

    Returns:
        What every task returned, or the exception that it raised; the others go on without it.

    Raises:
        BaseException: one that answering raised as a whole, or a task's own that is no `Exception`; all tasks are ended then.
    """
    controls = [_Control(task) for task in tasks]
    waiting: list[_Control] = []

    def go_on(control: _Control, answer: Any = None) -> None:
        control.go_on(answer)
        if isinstance(control.result, BaseException) and not isinstance(control.result, Exception):
            raise control.result

    try:
        for control in controls:
            go_on(control)
            waiting += [control] if control.question else []
        while waiting:
            first = min((each.question for each in waiting if each.question), key=lambda question: question.order)
            alike = [each for each in waiting if each.question and each.question.answer is first.answer]
            answers = first.answer([each.question.arguments for each in alike if each.question])
            for control, answer in zip(alike, answers, strict=True):
                go_on(control, answer)
            waiting = [each for each in waiting if each.question]
    finally:
        for control in waiting:
            if control.question:
                control.go_on(_Ended())
    return [control.result for control in controls]


def shapes(arguments: Any) -> Any:
    """Structure, shapes and types of a pytree of arrays; hashable."""
    leaves, treedef = jax.tree.flatten(arguments)
    return treedef, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


class SideBySide:
    """Answers calls of a kernel by one compiled program that takes several of them; calls of other shapes are other programs."""

    def __init__(
        self,
        kernel: Callable[..., Any],
        *,
        layout: mem.Layout,
        width: int,
        common: int = 0,
        between: Callable[[], None] | None = None,
    ) -> None:
        """Prepares it.

        Args:
            kernel: pure, from pytrees of arrays to a pytree of arrays; not jitted, and split over no devices of its own.
            layout: on a device, calls one after the other ("loop") or side by side ("vmap").
            width: most calls that run side by side, over all devices; one after the other, every device has one at a time.
            common: leading arguments that all calls have in common; they are passed once.
            between: called where there are calls left after those that went side by side; may raise.
        """
        devices = placement.member_devices()
        self.width = devices if layout == "loop" else -(-max(width, 1) // devices) * devices
        self._common = common
        self._between = between or (lambda: None)

        def one(shared: tuple[Any, ...], own: tuple[Any, ...]) -> Any:
            return kernel(*shared, *own)

        def block(shared: tuple[Any, ...], own: tuple[Any, ...]) -> Any:
            if layout == "vmap":
                return jax.vmap(one, (None, 0))(shared, own)
            return jax.lax.map(lambda each: one(shared, each), own)

        self._run = jax.jit(mem.over_devices(block, shared=1, split=1))

    def __call__(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Results of calls, in their order, as numpy arrays."""
        found: dict[int, Any] = {}
        for numbers in self._chunks(calls):
            if found:
                self._between()
            results = jax.tree.map(np.asarray, self._run(*self._given([calls[number] for number in numbers])))
            found |= {number: jax.tree.map(lambda x, at=at: x[at], results) for at, number in enumerate(numbers)}
        return [found[number] for number in range(len(calls))]

    def bytes(self, calls: Sequence[tuple[Any, ...]]) -> int:
        """Predicted peak memory of calls, over all devices; 0 where the back end does not say."""
        chunks = {shapes(calls[numbers[0]]): numbers for numbers in self._chunks(calls)}
        given = [self._given([calls[number] for number in numbers]) for numbers in chunks.values()]
        return max((mem.predicted_bytes(self._run.lower(*each).compile()) for each in given), default=0)

    def _chunks(self, calls: Sequence[tuple[Any, ...]]) -> list[list[int]]:
        """Numbers of the calls that go together: of one shape, and not too many."""
        alike: dict[Any, list[int]] = {}
        for number, arguments in enumerate(calls):
            alike.setdefault(shapes(arguments), []).append(number)
        return [some[at : at + self.width] for some in alike.values() for at in range(0, len(some), self.width)]

    def _given(self, calls: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What is common to a chunk of calls, and what is not, stacked; filled up: one program, however many calls are left."""
        filled = [*calls, *([calls[-1]] * (self.width - len(calls)))]
        own = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(each[self._common :] for each in filled))
        return calls[0][: self._common], own
