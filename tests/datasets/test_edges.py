"""Reading your own graph: every format, and one clear line for everything that can be wrong with it."""

import sys

import numpy as np
import pytest

from mamba import datasets
from mamba.world import network

ROWS = np.array([[0, 1], [1, 2], [2, 0], [3, 0]])


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "reader,source\n0,1\n1,2\n2,0\n3,0\n"),
        ("a.csv", "\ufeffsource,weight,reader\r\n1,x,0\r\n2,x,1\r\n0,x,2\r\n0,x,3\r\n"),
        ("a.csv", "0,1\n1,2,99\n\n2,0\n3,0"),
        ("a.csv", '# from somewhere\n"reader","source"\n"0","1"\n 1, 2\n# note\n2,0\n3,0\n'),
        ("a.tsv", "# nodes: 4\n0\t1\n1\t2\n2\t0\n3\t0\n"),
        ("a.CSV", "0,1\n0,1\n1,2\n2,0\n3,0\n"),
    ],
)
def test_text_files(tmp_path, name, text):
    loaded = datasets.from_edges(write(tmp_path, name, text))
    np.testing.assert_array_equal(loaded.edges, ROWS)
    assert (loaded.n_users, loaded.name, loaded.original_ids) == (4, "a", None)


def test_named_columns_direction_and_size(tmp_path):
    path = write(tmp_path, "follows.csv", "follower,followed\n0,1\n1,2\n")
    loaded = datasets.from_edges(str(path), reader="follower", source_column="followed", n_users=9, name="mine")
    np.testing.assert_array_equal(loaded.edges, [[0, 1], [1, 2]])
    assert (loaded.n_users, loaded.name, loaded.licence) == (9, "mine", "NOASSERTION")
    both = datasets.from_edges(path, reader="followed", source_column="follower", directed=False)
    np.testing.assert_array_equal(both.edges, [[0, 1], [1, 0], [1, 2], [2, 1]])


def test_arrays_and_npz(tmp_path):
    np.savez(tmp_path / "a.npz", edges=ROWS, other=np.zeros(2))
    for source in (ROWS, ROWS.tolist(), tmp_path / "a.npz"):
        np.testing.assert_array_equal(datasets.from_edges(source).edges, ROWS)
    assert datasets.from_edges(ROWS).name == "edges"


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"x": list("abcd"), "reader": ROWS[:, 0], "source": ROWS[:, 1]}), path)
    np.testing.assert_array_equal(datasets.from_edges(path).edges, ROWS)
    with pytest.raises(ValueError, match="no column 'who'; columns are 'x', 'reader', 'source'"):
        datasets.from_edges(path, reader="who")
    with pytest.raises(ValueError, match="column 'x' has type string, first value 'a'; ids must be integers"):
        datasets.from_edges(path, reader="x")
    parquet.write_table(arrow.table({"reader": [0, None, 1], "source": [1, 2, 0]}), path)
    with pytest.raises(ValueError, match="column 'reader' has 1 missing ids, first in row 1"):
        datasets.from_edges(path)
    mixed = arrow.table({"reader": ROWS[:, 0].astype(np.uint64), "source": ROWS[:, 1].astype(np.int8)})
    parquet.write_table(mixed, path)
    np.testing.assert_array_equal(datasets.from_edges(path).edges, ROWS)
    parquet.write_table(arrow.table({"reader": np.array([2**63], np.uint64), "source": [1]}), path)
    with pytest.raises(ValueError, match="column 'reader' has ids that do not fit 64 bits"):
        datasets.from_edges(path)
    write(tmp_path, "bad.parquet", "no parquet")
    with pytest.raises(ValueError, match=r"bad\.parquet: not a readable Parquet file"):
        datasets.from_edges(tmp_path / "bad.parquet")


def test_parquet_without_pyarrow_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = write(tmp_path, "a.parquet", "anything")
    with pytest.raises(
        ValueError, match=r"needs pyarrow; pip install pyarrow \(or the extra mamba-ecosystems\[parquet\]"
    ):
        datasets.from_edges(path)


def test_sparse_ids_need_consent(tmp_path):
    path = write(tmp_path, "a.csv", "5,1000000000\n7,5\n")
    with pytest.raises(
        ValueError, match=r"a\.csv: ids are sparse, the largest is 1000000000 but only 3 occur; pass compact"
    ):
        datasets.from_edges(path)
    loaded = datasets.from_edges(path, compact_ids=True)
    np.testing.assert_array_equal(loaded.edges, [[0, 2], [1, 0]])
    np.testing.assert_array_equal(loaded.original_ids, [5, 7, 10**9])
    assert loaded.n_users == 3
    np.testing.assert_array_equal(datasets.part(loaded, 3, seed=0).original_ids, [5, 7, 10**9])
    assert datasets.from_edges([[0, 500]], n_users=501).n_users == 501
    with pytest.raises(ValueError, match="leave n_users out"):
        datasets.from_edges(path, compact_ids=True, n_users=3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "a.csv: the file is empty"),
        ("a.csv", "# only\n\n", "no rows but comments"),
        ("a.csv", "reader,source\n", "a header but no edges"),
        ("a.csv", "src,dst\n0,1\n", "no column 'reader' nor 'source'; columns are 'src', 'dst'; pass reader="),
        ("a.csv", "reader,to\n0,1\n", "no column 'source'; columns"),
        ("a.csv", "ann,bob\nbob,cat\n", "no column 'reader' nor 'source'; columns are 'ann', 'bob'"),
        ("a.csv", "# c\nreader,source\n0,1\n2,bob\n", "a.csv, line 4: id 'bob' is not a whole number"),
        ("a.csv", "0,1\n1.0,2\n", "a.csv, line 2: id '1.0' is not a whole number"),
        ("a.csv", "0,1\n1,\n", "a.csv, line 2: id '' is not a whole number"),
        ("a.csv", "0,1\n1,nan\n", "a.csv, line 2: id 'nan' is not a whole number"),
        ("a.csv", "0,1\n1\n", "a.csv, line 2: 1 columns, but ids are in columns 1 and 2; is the delimiter ','"),
        ("a.csv", "0\t1\n", "no column 'reader'"),
        ("a.csv", f"0,1\n{2**64},2\n", f"line 2: id {2**64} does not fit 64 bits"),
        ("a.csv", "0,1\n-2,1\n", r"a.csv: 1 negative id, first in row 1 \(e.g. -2\)"),
        ("a.csv", "0,1\n1,1\n", "a.csv: 1 self-loop, first in row 1.*drop_self_loops=True"),
        ("a.txt", "0,1\n", "suffix '.txt' is not one of .csv, .tsv, .parquet, .npz"),
        ("edges", "0,1\n", "no suffix is not one of"),
        ("a.npz", "not a zip", "a.npz: not an .npz of plain numbers"),
        ("a.npz", "PK\x03\x04 torn", "a.npz: "),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message) as error:
        datasets.from_edges(write(tmp_path, name, text))
    assert "\n" not in str(error.value)


def test_other_bad_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: no such file; the working folder is"):
        datasets.from_edges(tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        datasets.from_edges(tmp_path / "folder.csv")
    (tmp_path / "latin.csv").write_bytes(b"reader,source\n0,\xe9\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        datasets.from_edges(tmp_path / "latin.csv")
    np.savez(tmp_path / "k.npz", follows=ROWS)
    with pytest.raises(ValueError, match=r"k\.npz: no array 'edges'; it holds follows"):
        datasets.from_edges(tmp_path / "k.npz")
    np.savez(tmp_path / "o.npz", edges=np.array([["ann", 1]], object))
    with pytest.raises(ValueError, match=r"o\.npz: not an \.npz of plain numbers"):
        datasets.from_edges(tmp_path / "o.npz")
    np.save(tmp_path / "single", ROWS)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with pytest.raises(ValueError, match=r"single\.npz: a single array, not an \.npz"):
        datasets.from_edges(tmp_path / "single.npz")
    np.savez(tmp_path / "f.npz", edges=ROWS.astype(float))
    with pytest.raises(ValueError, match=r"f\.npz: ids have dtype float64"):
        datasets.from_edges(tmp_path / "f.npz")
    with pytest.raises(ValueError, match="edges: ids have dtype <U3"):
        datasets.from_edges([["ann", "bob"]], compact_ids=True)
    with pytest.raises(ValueError, match="id not below n_users = 2"):
        datasets.from_edges(ROWS, n_users=2)
    with pytest.raises(ValueError, match="edges: rows of unequal length"):
        datasets.from_edges([[0, 1], [2]])
    assert datasets.from_edges([[0, 1], [2, 2]], drop_self_loops=True).n_users == 3
    np.testing.assert_array_equal(datasets.from_edges([[0, 0], [0, 1]], drop_self_loops=True).edges, [[0, 1]])


def test_a_real_friendship_graph(shared):
    graph = datasets.from_edges(shared / "data" / "lastfm_asia" / "lastfm_asia.npz", directed=False)
    assert (graph.n_users, len(graph.edges)) == (7624, 2 * 27_806)
    assert len(network.largest_component(graph.edges, graph.n_users)) == 7624
