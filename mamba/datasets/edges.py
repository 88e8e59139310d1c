"""Your own follow graph: from a CSV, TSV, Parquet or NPZ file, or from an array.

Ids must be whole numbers. They are checked where they are read, so that a message can name the file, the line and the
value.
"""

from __future__ import annotations

import csv
import os
import pathlib
import warnings
import zipfile
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mamba.datasets.base import Dataset
from mamba.world.network import check_edges, symmetrise

_SUFFIXES = (".csv", ".tsv", ".parquet", ".npz")
_SPARSE = 10
"""Ids are called sparse when the largest exceeds this many times the number of users that occur."""


def from_edges(
    source: str | os.PathLike[str] | ArrayLike,
    *,
    reader: str = "reader",
    source_column: str = "source",
    n_users: int | None = None,
    directed: bool = True,
    drop_self_loops: bool = False,
    compact_ids: bool = False,
    name: str | None = None,
) -> Dataset:
    """Make a data set of your own follow graph.

    Args:
      source: a file, by suffix, or directed edges `[E, 2]` with rows (reader, source).
        `.csv`, `.tsv`: UTF-8; with a header, the columns named below; without one, the first two columns. Lines that
        start with `#` are comments. `.parquet`: the columns named below; needs pyarrow. `.npz`: the array `edges`.
      reader: column of who follows.
      source_column: column of who is followed.
      n_users: number of users; `None` takes the largest id + 1. Users that no edge names follow nobody.
      directed: when false every row is a friendship and both follow each other.
      drop_self_loops: drop rows whose reader is its own source instead of refusing them.
      compact_ids: number the ids that occur 0..U-1 in ascending order and keep them in `original_ids`.
      name: name of the data set; the stem of the file, or `edges`, by default.

    Returns:
      A `Dataset` with edges only; repeated rows are merged.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: unknown suffix, missing column or key, an empty file, ids that are not whole numbers, sparse ids
        without `compact_ids`, or edges that `mamba.world.network.check_edges` refuses.
    """
    if isinstance(source, (str, os.PathLike)):
        path = pathlib.Path(source)
        array, label, origin = _read(path, reader, source_column), str(path), str(path)
        name = path.stem if name is None else name
    else:
        try:
            array = np.asarray(source)
        except ValueError:  # rows of unequal length: numpy's message is long, that of check_edges says what to do
            array = check_edges(source)
        label, origin = "edges", "array"
        name = "edges" if name is None else name
    original_ids = None
    if compact_ids and np.issubdtype(array.dtype, np.integer) and array.ndim == 2 and array.size:
        if n_users is not None:
            raise ValueError(f"{label}: compact_ids=True already sets the number of users; leave n_users out")
        ids, compact = np.unique(array, return_inverse=True)
        original_ids, array = ids.astype(np.int64), compact.reshape(array.shape)
        n_users = len(ids)
    elif n_users is None and np.issubdtype(array.dtype, np.integer) and array.size:
        largest, occurring = int(array.max()), len(np.unique(array))
        if largest >= _SPARSE * occurring:
            raise ValueError(
                f"{label}: ids are sparse, the largest is {largest} but only {occurring} occur; pass compact_ids=True "
                f"(on the command line scenario.clean_edges=true) to number them 0..{occurring - 1}, "
                f"or n_users={largest + 1} if all those users exist"
            )
    edges = check_edges(array, n_users, drop_self_loops=drop_self_loops, name=label)
    return Dataset(
        name=name,
        title=name,
        source=origin,
        licence="NOASSERTION",
        attribution="",
        n_users=int(array.max()) + 1 if n_users is None else n_users,
        edges=edges if directed else symmetrise(edges),
        original_ids=original_ids,
    )


def _read(path: pathlib.Path, reader: str, source: str) -> NDArray[Any]:
    """Ids `[E, 2]` of a file, by its suffix."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        shown = f"suffix {suffix!r}" if suffix else "no suffix"
        raise ValueError(f"{path}: {shown} is not one of {', '.join(_SUFFIXES)}; convert or rename the file")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; the working folder is {pathlib.Path.cwd()}")
    if not path.is_file():
        raise ValueError(f"{path}: is a folder, not a file; give the file inside it")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty; it needs at least one edge")
    if suffix == ".parquet":
        return _read_parquet(path, reader, source)
    if suffix == ".npz":
        return _read_npz(path)
    return _read_text(path, "\t" if suffix == ".tsv" else ",", reader, source)


def _read_npz(path: pathlib.Path) -> NDArray[Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("a single array, not an .npz archive; save it with np.savez(path, edges=...)")
        with loaded as arrays:
            if "edges" not in arrays.files:
                raise ValueError(
                    f"no array 'edges'; it holds {', '.join(arrays.files) or 'none'}; save one of that name"
                )
            return arrays["edges"]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        problem = str(error)
        if "allow_pickle" in problem or "pickled" in problem:
            problem = (
                "not an .npz of plain numbers (it holds Python objects, or is no npz); save integers with np.savez"
            )
        raise ValueError(f"{path}: {problem}") from None


def _read_parquet(path: pathlib.Path, reader: str, source: str) -> NDArray[Any]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"{path}: reading Parquet needs pyarrow; pip install pyarrow (or the extra mamba-ecosystems[parquet])"
        ) from None
    try:
        _refuse_missing(path, parquet.read_schema(path).names, reader, source)
        table = parquet.read_table(path, columns=[reader, source])
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
    columns = []
    for name in (reader, source):
        column = table.column(name)
        if not arrow.types.is_integer(column.type):
            first = f", first value {column[0].as_py()!r}" if len(column) else ""
            raise ValueError(
                f"{path}: column {name!r} has type {column.type}{first}; ids must be integers, number the users first"
            )
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            raise ValueError(
                f"{path}: column {name!r} has {column.null_count} missing ids, first in row {row}; drop these rows"
            )
        try:
            columns.append(column.cast(arrow.int64()).to_numpy())  # a mix of uint64 and int64 would stack to floats
        except arrow.ArrowInvalid:
            raise ValueError(f"{path}: column {name!r} has ids that do not fit 64 bits; number the users") from None
    return np.stack(columns, axis=1)


def _read_text(path: pathlib.Path, delimiter: str, reader: str, source: str) -> NDArray[np.int64]:
    """Ids `[E, 2]` of a delimited text file; the fast parser reads it, a slow second pass finds what it choked on."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter)
            first = next((row for row in rows if row and not row[0].lstrip().startswith("#")), None)
            skip = rows.line_num
            more = any(row and not row[0].lstrip().startswith("#") for row in rows)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    if first is None:
        raise ValueError(f"{path}: no rows but comments and blank lines; it needs at least one edge")
    header = not any(_is_whole(cell) for cell in first[:2])
    if header:
        names = [cell.strip() for cell in first]
        _refuse_missing(path, names, reader, source)
        if not more:
            raise ValueError(f"{path}: a header but no edges; it needs at least one")
        columns = (names.index(reader), names.index(source))
    else:
        skip, columns = 0, (0, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an id such as 1.0 is parsed with a mere deprecation warning
            return np.loadtxt(
                path,
                dtype=np.int64,
                delimiter=delimiter,
                skiprows=skip,
                usecols=columns,
                ndmin=2,
                encoding="utf-8-sig",
                quotechar='"',
            )
    except (ValueError, OverflowError, DeprecationWarning) as error:
        _refuse_cell(path, delimiter, skip, columns)
        raise ValueError(f"{path}: {error}") from None


def _is_whole(cell: str) -> bool:
    try:
        int(cell)
    except ValueError:
        return False
    return True


def _refuse_missing(path: pathlib.Path, names: list[str], reader: str, source: str) -> None:
    """Raise when a column is not there; which column follows which cannot be guessed."""
    missing = [name for name in (reader, source) if name not in names]
    if missing:
        raise ValueError(
            f"{path}: no column {' nor '.join(map(repr, missing))}; columns are {', '.join(map(repr, names))}; "
            "pass reader=... (who follows) and source_column=... (who is followed), on the command line "
            "scenario.reader_column=... and scenario.source_column=..."
        )


def _refuse_cell(path: pathlib.Path, delimiter: str, skip: int, columns: tuple[int, int]) -> None:
    """Raise on the first cell that is not a whole number of int64."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        for row in rows:
            if rows.line_num <= skip or not row or row[0].lstrip().startswith("#"):
                continue
            if len(row) <= max(columns):
                raise ValueError(
                    f"{path}, line {rows.line_num}: {len(row)} columns, but ids are in columns "
                    f"{columns[0] + 1} and {columns[1] + 1}; is the delimiter {delimiter!r}?"
                )
            for column in columns:
                cell = row[column].strip()
                if not _is_whole(cell):
                    raise ValueError(
                        f"{path}, line {rows.line_num}: id {cell!r} is not a whole number; number the users from 0"
                    )
                if not -(2**63) <= int(cell) < 2**63:
                    raise ValueError(f"{path}, line {rows.line_num}: id {cell} does not fit 64 bits; number the users")
