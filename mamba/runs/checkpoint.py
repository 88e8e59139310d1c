"""Checkpoints: what a run needs to go on, written so that a kill at any moment leaves a usable one.

    checkpoints/
      0000000005/          meta-step 5
        state/             arrays, by orbax
        checkpoint.json    paths, dtypes and shapes of the leaves, what the caller adds, a digest of all that, and its provenance
      0000000005.aside/    an older one of meta-step 5, until the one above has its place

A checkpoint is built in a hidden folder and renamed, so one with its final name is whole. One of the same step is put
aside before, under a name that is found, too: at every moment a whole one of that step or of an earlier one is there.
orbax reads a file with a flipped byte silently and casts a wrong dtype silently: a SHA-256 over all leaves is checked on
load, and so are paths, dtypes and shapes. Leaves without elements, which orbax refuses, are in `checkpoint.json` alone.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from mamba.runs.errors import UserError
from mamba.runs.folder import plain, provenance, unwritable
from mamba.runs.progress import warn

FORMAT = 1
_FILE, _STATE = "checkpoint.json", "state"
_APART = ".npz"  # of a state that one of several processes wrote
_ASIDE = ".aside"  # of one that another of its step replaces
_ROOM = "room"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES)


class Restored(NamedTuple):
    """What `latest` gives.

    Attributes:
        step: the meta-step after which it was saved.
        tree: the pytree, with a jax array wherever the template has one and a numpy array elsewhere.
        meta: what was saved beside it.
        provenance: where it was made: versions, platform, git commit, devices, and what the caller said of the run;
            empty in one that an older version saved.
    """

    step: int
    tree: Any
    meta: dict[str, Any]
    provenance: dict[str, Any]


def save(directory: str | Path, step: int, tree: Any, meta: Mapping[str, Any], *, keep: int = 3, **facts: Any) -> Path:
    """Writes a checkpoint, replaces one of the same step, and removes the oldest beyond `keep`.

    One of the same step that is whole and has the same digest stays as it is.

    Args:
        directory: folder of the checkpoints; made where there is none.
        step: number of the checkpoint, at least 0.
        tree: pytree of jax or numpy arrays (of typed keys, save `jax.random.key_data`).
        meta: what belongs to the tree, such as the configuration, as JSON can hold it; part of the digest.
        keep: how many of the newest stay; this one does in any case.
        **facts: what else to record of its provenance, such as the name of the run; no part of the digest.

    Returns:
        Folder of the checkpoint.

    Raises:
        UserError: it cannot be written; those before are as they were.
    """
    directory = Path(directory).absolute()
    paths, leaves = _flat(tree)
    record = {
        "format": FORMAT,
        "step": step,
        "leaves": _described(paths, leaves),
        "digest": _digest(paths, leaves, plain(meta)),
        "meta": plain(meta),
        "provenance": {**_provenance(), **plain(facts)},
    }
    final, building = directory / f"{step:010d}", directory / f".{step:010d}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _tidy(directory)
        if not _holds(final, paths, leaves, digest=record["digest"]):
            _build(building, record, leaves)
            if final.exists():
                os.rename(final, final.with_suffix(_ASIDE))
            os.rename(building, final)
    except OSError as error:
        with suppress(OSError):
            _tidy(directory)  # a full disk needs the room
        raise unwritable(final, error) from error
    shutil.rmtree(final.with_suffix(_ASIDE), ignore_errors=True)
    newest = sorted({at for at, _ in _found(directory)}, reverse=True)[:keep]
    for at, old in _found(directory):
        if at not in (step, *newest):
            shutil.rmtree(old, ignore_errors=True)
    return final


def _tidy(directory: Path) -> None:
    """Clears away what a process left that was killed, or found no room, while it saved.

    Raises:
        OSError: what was put aside cannot get its name back.
    """
    for left in directory.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
    for aside in directory.glob(f"*{_ASIDE}"):
        if aside.with_suffix("").exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, aside.with_suffix(""))


def _build(folder: Path, record: Mapping[str, Any], leaves: list[NDArray[Any]]) -> None:
    """Writes everything of a checkpoint into a new folder.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir()
    if stored := {f"{i:05d}": leaf for i, leaf in enumerate(leaves) if leaf.size}:
        _store(folder / _STATE, stored)
    with open(folder / _FILE, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


@functools.cache
def _provenance() -> dict[str, Any]:
    """Where this process makes its checkpoints, as `summary.json` says it."""
    devices = jax.devices()
    found = provenance("", device_kind=devices[0].device_kind, devices=len(devices), processes=jax.process_count())
    return {name: value for name, value in plain(found).items() if name != "command"}


def _store(path: Path, leaves: dict[str, NDArray[Any]]) -> None:
    """Writes arrays: by orbax, or where there are several processes by numpy.

    Raises:
        OSError: they cannot be written.
    """
    # Asked first, by a file as large: when a disk fills up under orbax, its threads print tracebacks that nobody can catch.
    room = path.with_name(_ROOM)
    with open(room, "wb") as file:
        file.write(bytes(sum(leaf.nbytes + 2**10 for leaf in leaves.values()) + 2**17))  # and what orbax says of them
        file.flush()
        os.fsync(file.fileno())
    room.unlink()
    if jax.process_count() > 1:
        # Every process writes a folder of its own (`mamba.runs.distributed`), and orbax would have all write one together.
        with open(path.with_suffix(_APART), "wb") as file:
            np.savez(file, allow_pickle=False, **leaves)
            file.flush()
            os.fsync(file.fileno())
        return
    try:
        with _quiet():
            _orbax()[0](path, leaves)
    except OSError:
        raise
    except Exception as error:
        # tensorstore tells of a full disk by a ValueError that quotes the system's error.
        if found := re.search(r"os_error_code='(\d+)'", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        if found := next((each for each in _NO_ROOM if os.strerror(each) in str(error)), None):
            raise OSError(found, os.strerror(found), str(path)) from error
        raise


def latest(directory: str | Path, like: Any) -> Restored | None:
    """Reads the newest checkpoint that is whole; warns of each newer one that is not.

    Args:
        directory: folder of the checkpoints.
        like: pytree of arrays with the structure, dtypes and shapes that are expected.

    Returns:
        The checkpoint; None where there is none at all.

    Raises:
        UserError: there are checkpoints, but none can be used.
    """
    _provenance()  # of the code that runs: by the first save the checkout may be another one
    problems = []
    for step, folder in _found(Path(directory).absolute()):
        try:
            restored = _read(folder, step, like)
        except _Unusable as error:
            problems.append(f"checkpoint {folder.name} {error}")
            continue
        for problem in problems:
            warn(f"{problem}; going back to {folder.name}")
        return restored
    if problems:
        raise UserError(
            f"{directory}: no checkpoint can be used\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + f"\nto start anew, remove {directory} or give another --run_dir"
        )
    return None


class _Unusable(Exception):
    """Why a checkpoint cannot be used; completes `checkpoint 5 ...`."""


def _found(directory: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the checkpoints, newest first; after one of a step, one of the same step that was put aside."""
    if not directory.is_dir():
        return []
    named = [(path.name.removesuffix(_ASIDE), path) for path in directory.iterdir()]
    found = [(int(name), path) for name, path in named if name.isdecimal()]
    return sorted(found, key=lambda each: (-each[0], each[1].name))


def _read(folder: Path, step: int, like: Any) -> Restored:
    """A checkpoint.

    Raises:
        _Unusable: it is damaged, or does not fit.
    """
    record = _record(folder)
    leaves = _leaves(folder, record, *_flat(like))
    originals, structure = jax.tree.flatten(like)
    placed = [_placed(leaf, original) for leaf, original in zip(leaves, originals, strict=True)]
    return Restored(step, jax.tree.unflatten(structure, placed), record["meta"], record.get("provenance", {}))


def _holds(folder: Path, paths: list[str], leaves: list[NDArray[Any]], *, digest: str) -> bool:
    """Whether a folder is a whole checkpoint of these leaves, with this digest."""
    try:
        record = _record(folder)
        if record["digest"] != digest:
            return False
        _leaves(folder, record, paths, leaves)
    except _Unusable:
        return False
    return True


def _record(folder: Path) -> dict[str, Any]:
    """What `checkpoint.json` says.

    Raises:
        _Unusable: it is damaged, or of another format.
    """
    try:
        record = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        version, *_ = (record[name] for name in ("format", "leaves", "digest", "meta"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Unusable(f"is damaged: {_FILE} cannot be read") from error
    if version != FORMAT:
        raise _Unusable(f"has format {version}, this version of mamba reads format {FORMAT}")
    return record


def _leaves(
    folder: Path, record: Mapping[str, Any], paths: list[str], templates: list[NDArray[Any]]
) -> list[NDArray[Any]]:
    """Leaves of a checkpoint with this record.

    Raises:
        _Unusable: they are damaged, or are not those that are expected.
    """
    expected = _described(paths, templates)
    if record["leaves"] != expected:
        raise _Unusable(f"does not fit this run: {_difference(record['leaves'], expected)}")
    wanted = {f"{i:05d}": leaf for i, leaf in enumerate(templates) if leaf.size}
    stored: dict[str, Any] = {}
    if wanted:
        try:
            apart = (folder / _STATE).with_suffix(_APART)
            if apart.exists():
                with np.load(apart, allow_pickle=False) as file:
                    # numpy writes types that it does not know, such as bfloat16, as bare bytes.
                    stored = {name: file[name].view(leaf.dtype) for name, leaf in wanted.items()}
            else:
                with _quiet():
                    stored = _orbax()[1](folder / _STATE, wanted)
        except Exception as error:  # whatever a damaged file makes orbax and tensorstore raise
            raise _Unusable(
                f"is damaged: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}"
            ) from error
    leaves = [np.asarray(stored[f"{i:05d}"]) if leaf.size else leaf for i, leaf in enumerate(templates)]
    if _digest(paths, leaves, record["meta"]) != record["digest"]:
        raise _Unusable("is damaged: its digest does not match what it holds")
    return leaves


def _placed(leaf: NDArray[Any], original: Any) -> Any:
    """The leaf where the original is; uncommitted where that is, so that nothing compiles anew after a resume."""
    if not isinstance(original, jax.Array):
        return leaf
    return jax.device_put(leaf, original.sharding if getattr(original, "committed", True) else None)


def _flat(tree: Any) -> tuple[list[str], list[NDArray[Any]]]:
    """Paths and leaves of a pytree, the leaves as numpy arrays."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path) for path, _ in pairs], [np.asarray(leaf) for _, leaf in pairs]


def _described(paths: list[str], leaves: list[NDArray[Any]]) -> list[list[Any]]:
    return [[path, leaf.dtype.name, list(leaf.shape)] for path, leaf in zip(paths, leaves, strict=True)]


def _difference(described: Any, expected: list[list[Any]]) -> str:
    """The first thing that differs between two lists of leaves, in words."""
    try:
        had = {path: f"{dtype}{shape}" for path, dtype, shape in described}
    except (TypeError, ValueError):
        return f"{_FILE} is damaged"
    want = {path: f"{dtype}{shape}" for path, dtype, shape in expected}
    for path in [*want, *had]:
        if had.get(path) != want.get(path):
            return f"{path} is {had.get(path, 'absent')} there and {want.get(path, 'absent')} here"
    return "the order of its parts differs"


def _digest(paths: list[str], leaves: list[NDArray[Any]], meta: Any) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for entry, leaf in zip(_described(paths, leaves), leaves, strict=True):
        digest.update(json.dumps(entry).encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


@functools.cache
def _orbax() -> tuple[Callable[..., None], Callable[..., Any]]:
    """`save(path, tree)` and `load(path, like)`; imported late, because that takes a while."""
    with _quiet():
        from orbax.checkpoint import v1
    # Releases before 0.12 have only the second name.
    names = dir(v1)
    return getattr(v1, "save" if "save" in names else "save_pytree"), getattr(
        v1, "load" if "load" in names else "load_pytree"
    )


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keeps what orbax and absl say off the terminal: what goes wrong is raised, too, and told in one line."""
    loggers = [logging.getLogger(name) for name in ("absl", "orbax")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
