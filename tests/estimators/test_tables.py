"""Files of sequences: what is read of them, and how a bad row is named."""

import numpy as np
import pytest

pytest.importorskip("pandas", reason="pandas is not installed: kru_ref[sklearn]")
import pandas as pd

from kru_ref.estimators.tables import as_targets, read_table

GOOD = """\
id,time,a,b,kind
x,2,3,,up
y,1,10,20,down
x,1,1,2.5,up
x,3,5,6,up
y,10,1e1,-2,down
"""


def written(tmp_path, text, name="data.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_long_form(tmp_path):
    """Sequences in the order of their first rows, steps in that of time."""
    table = read_table(written(tmp_path, GOOD), target="kind")
    assert table.ids == ["x", "y"]
    assert table.channels == ["a", "b"]
    np.testing.assert_array_equal(table.X[0], [[1, 3, 5], [2.5, np.nan, 6]])
    np.testing.assert_array_equal(table.X[1], [[10, 10], [20, -2]])
    assert list(table.y) == ["up", "down"]
    assert table.n_missing == 1
    assert not table.holds_symbols


def test_other_columns_separators_and_dates(tmp_path):
    path = written(
        tmp_path,
        "﻿who\twhen\ta\n" + "".join(f"{i}\t{t}\t{v}\n" for i, t, v in (
            ("p", "2024-10-02", 2), ("p", "2024-09-30", 1), ("p", "2025-01-01 12:00", 3),
        )),
        "data.tsv",
    )  # fmt: skip
    table = read_table(path, id="who", time="when")
    np.testing.assert_array_equal(table.X[0], [[1, 2, 3]])
    assert table.y is None


def test_chosen_channels_in_their_order(tmp_path):
    table = read_table(written(tmp_path, GOOD), channels=["b", "a"])
    np.testing.assert_array_equal(table.X[1], [[20, -2], [10, 10]])


def test_a_frame_in_long_form(tmp_path):
    frame = pd.read_csv(written(tmp_path, GOOD))
    table = read_table(frame, target="kind")
    of_file = read_table(tmp_path / "data.csv", target="kind")
    for x, y in zip(table.X, of_file.X, strict=True):
        np.testing.assert_array_equal(x, y)
    assert table.ids == of_file.ids
    assert list(table.y) == list(of_file.y)
    frame["time"] = pd.to_datetime(frame["time"], unit="D")
    np.testing.assert_array_equal(read_table(frame, target="kind").X[0], table.X[0])
    frame.loc[4, "kind"] = "up"
    with pytest.raises(ValueError, match=r"the frame, row 4: .* kind 'up', but .* row 1"):
        read_table(frame, target="kind")


def test_symbols(tmp_path):
    text = "id,time,base,kind\n" + "".join(f"s,{t},{c},n\n" for t, c in enumerate("GATTACA"))
    table = read_table(written(tmp_path, text), target="kind")
    assert table.holds_symbols
    assert "".join(map(chr, table.X[0])) == "GATTACA"


BAD = {
    "no number": (("1e1", "ten"), r"line 6: a value must be a number, got 'ten' in a$"),
    "two of them": (("3,,", "x,y,"), r"line 2: .* got 'x' in a$"),
    "a comma": (
        ("1e1", '"1,5"'),
        "line 6: decimals must follow a point, not a comma, got '1,5' in a",
    ),
    "infinity": (("1e1", "inf"), "line 6: a value must be finite, got 'inf' in a"),
    "no identifier": (("y,10", ",10"), "line 6: an identifier is missing"),
    "no time": (("y,10", "y,"), "line 6: a time must be a number, as the others are, got ''"),
    "a time twice": (("y,10", "y,1"), "line 6: sequence y has the time 1 twice"),
    "another target": (
        ("6,up", "6,on"),
        "line 5: sequence x has the kind 'on', but 'up' in line 2",
    ),
    "no target": (("6,up", "6,"), "line 5: a target is missing"),
    "a field more": (("6,up", "6,up,7"), "is no table: .*line 5"),
    "no such column": (("kind", "sort"), "has no column 'kind'; it has id, time, a, b, sort"),
    "a field more in all": (("a,b,kind", "a,kind"), "is no table"),
    "a comma behind all": (("kind\n", "kind,\n"), "has a column without a name"),
    "an index": (("id,", ",id,"), "has a column without a name, such as the index"),
    "no rows": ((GOOD[17:], ""), "has no rows"),
    "nothing": ((GOOD, ""), "is no table"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, what):
    (old, new), message = BAD[what]
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as raised:
        read_table(path, target="kind")
    assert str(path) in str(raised.value)


def test_columns_that_are_no_values(tmp_path):
    with pytest.raises(ValueError, match="has no column of values beside id, kind, time"):
        read_table(written(tmp_path, "id,time,kind\na,1,b\n"), target="kind")
    commas = "id;time;s\na;1;1,5\na;2;,7\n".replace(";", "\t")
    with pytest.raises(ValueError, match="line 2: decimals must follow a point, not a comma"):
        read_table(written(tmp_path, commas, "data.tsv"))
    with pytest.raises(ValueError, match="line 3: a symbol must be a single character, got 'bc'"):
        read_table(written(tmp_path, "id,time,s\na,1,b\na,2,bc\n"))
    with pytest.raises(ValueError, match=r"a time must be a number or a date, .* got 'soon'"):
        read_table(written(tmp_path, "id,time,s\na,soon,1\na,later,2\n"))


def test_npz(tmp_path, rng):
    X, y = rng.standard_normal((4, 2, 3)), np.array([0.5, 1, 2, 3])
    np.savez(tmp_path / "data.npz", X=X, y=y)
    table = read_table(tmp_path / "data.npz", target="y")
    np.testing.assert_array_equal(np.stack(table.X), X)
    np.testing.assert_array_equal(table.y, y)
    assert table.channels == ["channel 0", "channel 1"]
    with pytest.raises(ValueError, match="has no array 'z', but X, y"):
        read_table(tmp_path / "data.npz", target="z")
    np.savez(tmp_path / "data.npz", X=X, y=y[:2])
    with pytest.raises(ValueError, match="y has 2 entries, X has 4 sequences"):
        read_table(tmp_path / "data.npz", target="y")
    np.savez(tmp_path / "data.npz", X=np.array([{}] * 3, object))
    with pytest.raises(ValueError, match=r"is no \.npz of plain arrays"):
        read_table(tmp_path / "data.npz")


TS = """\
@problemName toy
@timeStamps false
@missing false
@univariate true
@equalLength true
@seriesLength 3
@classLabel true a b
@data
1,2,3:a
4,5,6:b
"""


def test_ts(tmp_path):
    pytest.importorskip("aeon", reason="aeon, which reads .ts files, is not installed")
    table = read_table(written(tmp_path, TS, "data.ts"), target="class")
    np.testing.assert_array_equal(np.stack(table.X), [[[1, 2, 3]], [[4, 5, 6]]])
    assert list(table.y) == ["a", "b"]
    with pytest.raises(ValueError, match=r"is no \.ts file that aeon can read"):
        read_table(written(tmp_path, TS.replace("5", "five"), "data.ts"))


def test_files_of_other_kinds(tmp_path):
    with pytest.raises(ValueError, match=r"must end in one of \.csv, .* got '\.xlsx'"):
        read_table(tmp_path / "data.xlsx")
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("y", "task", "expected"),
    [
        (["a", "b"], "auto", "classification"),
        (["1", "2", "1"], "auto", "classification"),
        (["1", "2.5"], "auto", "regression"),
        ([str(i) for i in range(30)], "auto", "regression"),
        ([str(i) for i in range(30)], "classification", "classification"),
        (["1", "2"], "regression", "regression"),
    ],
)
def test_targets_are_classes_or_numbers(y, task, expected):
    found, kind = as_targets(np.array(y), task)
    assert kind == expected
    assert (found.dtype.kind == "f") == (kind == "regression")


def test_targets_that_are_neither():
    with pytest.raises(ValueError, match="a regression's targets must be numbers, got 'a'"):
        as_targets(np.array(["a", "b"]), "regression")
    with pytest.raises(ValueError, match="targets must be finite"):
        as_targets(np.array(["1", "nan"]), "auto")


def test_lines_are_those_of_the_file(tmp_path):
    """Behind a field of two lines, and a blank one; blank lines at the end are nothing."""
    text = 'id,time,a,note\nx,1,1,"two\nlines"\n\nx,2,one,short\n\n'
    with pytest.raises(ValueError, match="line 5: a value must be a number, got 'one' in a"):
        read_table(written(tmp_path, text), channels=["a"])
    table = read_table(written(tmp_path, text.replace("one", "2")), channels=["a"])
    np.testing.assert_array_equal(table.X, [[[1, 2]]])


def test_days_come_in_the_form_of_the_first(tmp_path):
    """Guessed one by one, 11/02 would be in November and 13/02 in February."""
    days = ["11/02/2020", "12/02/2020", "13/02/2020", "01/03/2020"]
    text = "id,time,a\n" + "".join(f"x,{day},{i}\n" for i, day in enumerate(days))
    with pytest.raises(ValueError, match="line 4: a time must be a number or a date, as the first"):
        read_table(written(tmp_path, text))
    later = text.replace("11/02", "14/02")
    np.testing.assert_array_equal(read_table(written(tmp_path, later)).X[0], [[1, 2, 0, 3]])


def test_times_of_many_digits(tmp_path):
    text = "id,time,a\nx,1600000000000000101,2\nx,1600000000000000100,1\n"
    np.testing.assert_array_equal(read_table(written(tmp_path, text)).X[0], [[1, 2]])


def test_what_a_frame_lacks_is_missing():
    frame = pd.DataFrame({"id": [1, None, 2], "time": [0, 1, 0], "a": [1.0, 2, 3]})
    with pytest.raises(ValueError, match="the frame, row 1: an identifier is missing"):
        read_table(frame)
    frame = pd.DataFrame({"id": [1, 2], "time": [0, 0], "a": [1.0, 2], "k": ["x", None]})
    with pytest.raises(ValueError, match="the frame, row 1: a target is missing"):
        read_table(frame, target="k")
    twice = pd.DataFrame([[1, 2, 3, 4]], columns=["id", "time", "a", "a"])
    with pytest.raises(ValueError, match="columns of one name"):
        read_table(twice)


def test_npz_with_labels_of_text(tmp_path, rng):
    np.savez(tmp_path / "d.npz", X=rng.standard_normal((2, 1, 3)), y=np.array([["a"], ["b"]]))
    assert list(read_table(tmp_path / "d.npz", target="y").y) == ["a", "b"]
