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
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mamba import members as mem
from mamba import placement

T = TypeVar("T")
# arguments of N calls -> N results; one that is an exception is raised by its own call
Answer = Callable[[list[tuple[Any, ...]]], Sequence[Any]]


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
        self.question: tuple[Answer, tuple[Any, ...]] | None = None
        self.result: Any = None

    def go_on(self, answer: Any = None) -> None:
        """Hands it an answer and lets it run to its next question or its end."""
        self._answer, self.question = answer, None
        if self._thread.ident is None:
            self._thread.start()
        self._turn.release()
        self._paused.acquire()

    def ask(self, answer: Answer, arguments: tuple[Any, ...]) -> Any:
        """Waits for an answer, in its own thread."""
        self.question = (answer, arguments)
        self._paused.release()
        self._turn.acquire()
        return _raised(self._answer)

    def _run(self) -> None:
        _Control.present.control = self
        self._turn.acquire()
        try:
            self.result = self._task()
        except _Ended:
            pass
        except Exception as error:  # what it means is for the caller of `together` to say
            self.result = error
        self._paused.release()


def _raised(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


def asking(answer: Answer) -> Callable[..., Any]:
    """A function whose calls by the tasks of `together` are answered together; others are answered at once.

    Args:
        answer: arguments of N calls -> N results in the same order; one that is an exception is raised by its own call.
    """

    def ask(*arguments: Any) -> Any:
        control: _Control | None = getattr(_Control.present, "control", None)
        return _raised(answer([arguments])[0]) if control is None else control.ask(answer, arguments)

    return ask


def together(tasks: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Runs tasks in step.

    Args:
        tasks: what they share of the devices they ask for through functions made by `asking`. Scopes of jax that belong to a thread
            (`jax.set_mesh`) do not reach them.

    Returns:
        What every task returned, or the exception that it raised; the others go on without it.

    Raises:
        Exception: one that answering raised as a whole; all tasks are ended then.
    """
    controls = [_Control(task) for task in tasks]
    waiting: list[_Control] = []
    try:
        for control in controls:
            control.go_on()
            waiting += [control] if control.question else []
        while waiting:
            asked = [(each, each.question) for each in waiting if each.question]
            kind = asked[0][1][0]  # one kind at a time: who is ahead waits for those behind
            alike = [(each, arguments) for each, (answer, arguments) in asked if answer is kind]
            for (control, _), answer in zip(alike, kind([arguments for _, arguments in alike]), strict=True):
                control.go_on(answer)
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
    """Answers calls of a kernel by one compiled program that takes several of them.

    Calls of different shapes are different programs. An array that all calls of a chunk have in common, the very same one, is
    passed once.
    """

    def __init__(self, kernel: Callable[..., Any], *, layout: mem.Layout, width: int) -> None:
        """Prepares it.

        Args:
            kernel: pure, from pytrees of arrays to a pytree of arrays; not jitted, and split over no devices of its own.
            layout: on a device, calls one after the other ("loop") or side by side ("vmap").
            width: most calls that run side by side, over all devices; one after the other, every device has one at a time.
        """
        devices = placement.member_devices()
        self._kernel, self._layout = kernel, layout
        self._size = devices if layout == "loop" else -(-max(width, 1) // devices) * devices
        self._programs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Results of calls, in their order, as numpy arrays."""
        alike: dict[Any, list[int]] = {}
        for number, arguments in enumerate(calls):
            alike.setdefault(shapes(arguments), []).append(number)
        found: dict[int, Any] = {}
        for numbers in alike.values():
            for begin in range(0, len(numbers), self._size):
                chunk = numbers[begin : begin + self._size]
                program, given = self._chunk([calls[number] for number in chunk])
                results = jax.tree.map(np.asarray, program(*given))
                found |= {number: jax.tree.map(lambda x, at=at: x[at], results) for at, number in enumerate(chunk)}
        return [found[number] for number in range(len(calls))]

    def bytes(self, calls: Sequence[tuple[Any, ...]]) -> int:
        """Predicted peak memory of calls of one shape, over all devices; 0 where the back end does not say."""
        program, given = self._chunk(calls[: self._size])
        return mem.predicted_bytes(jax.jit(program).lower(*given).compile())

    def _chunk(self, calls: Sequence[tuple[Any, ...]]) -> tuple[Callable[..., Any], tuple[list[Any], list[Any]]]:
        """The program of a chunk of calls of one shape, and what to give it: what is common to all, and what is not."""
        flat, treedef = [jax.tree.leaves(arguments) for arguments in calls], jax.tree.structure(calls[0])
        # Filled up: one program, however many calls are left.
        columns = list(zip(*(flat + [flat[-1]] * (self._size - len(flat))), strict=True))
        common = tuple(all(leaf is column[0] for leaf in column) for column in columns)
        if len(calls) == 1 < self._size:  # it has everything in common with itself, so that any program does
            common = next((known for like, known in self._programs if like == treedef), (False,) * len(columns))
        if (treedef, common) not in self._programs:
            self._programs[treedef, common] = self._program(treedef, common)
        shared = [column[0] for column, is_ in zip(columns, common, strict=True) if is_]
        own = [jnp.stack(column) for column, is_ in zip(columns, common, strict=True) if not is_]
        return self._programs[treedef, common], (shared, own)

    def _program(self, treedef: Any, common: tuple[bool, ...]) -> Callable[..., Any]:
        def one(shared: list[Any], own: list[Any]) -> Any:
            parts = {True: iter(shared), False: iter(own)}
            return self._kernel(*jax.tree.unflatten(treedef, [next(parts[is_]) for is_ in common]))

        def block(shared: list[Any], own: list[Any]) -> Any:
            if self._size == 1:
                return jax.tree.map(lambda leaf: leaf[None], one(shared, own))
            if self._layout == "vmap":
                return jax.vmap(one, (None, 0))(shared, own)
            return jax.lax.map(lambda each: one(shared, each), own)

        return jax.jit(mem.over_devices(block, shared=1, split=1))
