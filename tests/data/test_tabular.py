"""A decoded row is the very text of the table; a table that cannot be read is refused with its line."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seepage.data import InputKind, load_dataset
from seepage.data.delimited import read_rows
from seepage.data.tabular import fit_encoding
from seepage.errors import InputError


def write(folder: Path, text: str, name: str = "table.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def assert_decodes_to_its_rows(path: Path) -> None:
    dataset = load_dataset(str(path))
    rows = read_rows(path)
    assert dataset.table is not None
    features = [column.name for column in dataset.table.columns]
    expected = [{name: row[name] for name in features} for row in rows]  # whole numbers: canonical is the cell itself
    assert dataset.table.decode(dataset.inputs) == expected
    seen = dataset.batch(torch.arange(len(dataset))).inputs
    assert dataset.table.decode(dataset.normalization.invert(seen)) == expected


@pytest.mark.parametrize("name", ["adult.data", "adult.test", "german_credit.csv"])
def test_real_tables_survive_the_round_trip_cell_by_cell(shared_data: Path, name: str) -> None:
    assert_decodes_to_its_rows(shared_data / "tabular" / name)


def test_adult_is_read_as_its_readme_says(shared_data: Path) -> None:
    train = load_dataset(str(shared_data / "tabular/adult.data"))
    test = load_dataset(str(shared_data / "tabular/adult.test"))
    assert train.class_names == test.class_names == ("<=50K", ">50K")
    assert train.labels.bincount().tolist() == [24720, 7841]
    assert test.labels.bincount().tolist() == [12435, 3846]
    assert train.table is not None
    workclass = next(column for column in train.table.columns if column.name == "workclass")
    assert "?" in workclass.categories
    other = train.table.encode(read_rows(shared_data / "tabular/adult.test")[:50])
    assert other.shape == (50, train.table.features)


TEXT = "age,height,town,income\n30,1.50,Ulm,low\n 40 , 2,?,high\n50,1.75,Bern,low\n"


def test_a_table_is_encoded_and_decoded(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, TEXT), normalize="none")
    assert dataset.kind is InputKind.TABLE
    assert dataset.class_names == ("high", "low")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.inputs.tolist() == [[0, 0, 0, 0, 1], [0.5, 1, 1, 0, 0], [1, 0.5, 0, 1, 0]]
    assert dataset.table is not None
    assert dataset.table.decode(dataset.inputs)[1] == {"age": "40", "height": "2.00", "town": "?"}
    assert dataset.table.columns[1].unit == 0.01


def test_the_target_can_be_chosen(tmp_path: Path) -> None:
    assert load_dataset(write(tmp_path, TEXT), target="town").class_names == ("?", "Bern", "Ulm")
    with pytest.raises(InputError, match="`target` should be one of age, height, town, income; found `x`"):
        load_dataset(write(tmp_path, TEXT), target="x")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,a,yes\n2,b,no\n", ["column 1", "column 2", "column 3"]),
        ("|comment\n\n1,a,yes.\n2,b,no.\n", ["column 1", "column 2", "column 3"]),
        ("x;y;z\n1;a;yes\n", ["x", "y", "z"]),
        ("x\ty\tz\n1\ta\tyes\n", ["x", "y", "z"]),
        (",y,z\n0,a,yes\n1,b,no\n", ["column 1", "y", "z"]),
        ("\ufeffx,y,z\n1,a,yes\n", ["x", "y", "z"]),
        ("colour,taste,z\nred,sweet,yes\ngreen,sour,no\n", ["colour", "taste", "z"]),
        ("red,sweet,yes\ngreen,sour,no\nred,sour,no\n", ["column 1", "column 2", "column 3"]),
        ("?,sweet,yes\n1,sour,no\n2,sour,no\n", ["column 1", "column 2", "column 3"]),
        ("a,?,yes\nb,1,no\nc,2,no\n", ["column 1", "column 2", "column 3"]),
        ("007,sweet,yes\n008,sour,no\n", ["column 1", "column 2", "column 3"]),
        ('x,"y, in m",z\n1,2,yes\n', ["x", "y, in m", "z"]),
    ],
)
def test_headers_are_told_from_data(tmp_path: Path, text: str, names: list[str]) -> None:
    assert list(read_rows(Path(write(tmp_path, text)))[0]) == names


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x,y\n1,a\n2,b,c\n", "expected 2 cells in every row; found 3 in line 3"),
        ("|c\nx,y\n1,a\n\n2\n", "found 1 in line 5"),
        ("", "at least one row"),
        ("\n \n", "at least one row"),
        ("x,y\n", "at least one row"),
        ("x,x\n1,a\n2,b\n", "`x` twice"),
        ("x,y\nnan,a\n2,b\n", "`x` should hold finite numbers; found `nan` in line 2"),
        ("x,y\n1,a\n-inf,b\n", "found `-inf` in line 3"),
        ("1,a\n-inf,b\n", "found `-inf` in line 2"),  # no header
        ('|c\nx,y\n\n1,"a\nb"\nnan,c\n', "found `nan` in line 6"),  # a comment, a blank line, a cell of two lines
        ('x,y\n1,"a\nb",2\n', "found 3 in line 2"),
        ("x,y\n1,0.5\n2,0.7\n", "should be a category"),
        ("x,y\n" + "".join(f"1,{k}\n" for k in range(101)), "found 101 different values"),
        ("x,y\n" + "".join(f"id{k},a\n" for k in range(1001)), "remove it if it only identifies a row"),
        ('x,y\n1,"a\n', "cannot be read"),
        ("y\na\na\n", "at least one column besides the target"),
        ("x,y\n-1e308,a\n1e308,b\n", "finite range"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(InputError, match=found) as caught:
        load_dataset(write(tmp_path, text))
    assert "table.csv" in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"x,y\n\xff\xfe,a\n")
    with pytest.raises(InputError, match="text in UTF-8"):
        load_dataset(str(tmp_path / "table.csv"))


def test_size_is_for_images_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`size` is for images"):
        load_dataset(write(tmp_path, TEXT), size=8)


def test_missing_numbers_have_an_indicator_and_come_back(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, "x,y\n1,a\n?,b\n,b\n3,a\n"))
    assert dataset.table is not None
    assert dataset.input_shape == (3,)
    assert [
        row["x"] for row in dataset.table.decode(dataset.normalization.invert(dataset.batch(torch.arange(4)).inputs))
    ] == ["1", "?", "", "3"]


def test_codes_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, "zip,y\n01234,a\n12345,b\n"))
    assert dataset.table is not None
    assert [row["zip"] for row in dataset.table.decode(dataset.inputs)] == ["01234", "12345"]


def test_numbers_finer_than_float32_are_marked() -> None:
    encoding = fit_encoding({"id": ["1000000001", "9000000002"], "fine": ["0.123456789", "0.9"], "age": ["1", "90"]})
    assert [column.lossless for column in encoding.columns] == [False, False, True]


@given(
    cents=st.lists(st.integers(-2_000_000, 2_000_000), min_size=1, max_size=30),
    decimals=st.integers(0, 8),
    texts=st.lists(st.sampled_from(["a", "b", "?", "nan", "Zürich"]), min_size=30, max_size=30),
)
def test_any_lossless_table_survives_the_round_trip(cents: list[int], decimals: int, texts: list[str]) -> None:
    cells = [f"{value / 10**decimals:.{decimals}f}" for value in cents]
    cells = ["0" + cell[2:] if cell.startswith("-0") and float(cell) == 0 else cell for cell in cells]
    table = {"number": cells, "text": texts[: len(cells)]}
    encoding = fit_encoding(table)
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    assert encoding.columns[0].lossless
    assert encoding.decode(encoding.encode(rows)) == rows == [encoding.canonical(row) for row in rows]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_broken_reconstructions_decode_to_something_else_and_do_not_crash(tmp_path: Path, bad: float) -> None:
    dataset = load_dataset(write(tmp_path, TEXT))
    assert dataset.table is not None
    truth = dataset.table.decode(dataset.inputs)
    for row, true in zip(dataset.table.decode(torch.full((3, 5), bad)), truth, strict=True):
        assert row["age"] != true["age"]
        assert row["height"] != true["height"]
    with pytest.raises(InputError, match=r"shape \[N, 5\]"):
        dataset.table.decode(torch.zeros(3, 4))


def test_unknown_cells_are_named() -> None:
    encoding = fit_encoding({"age": ["1", "2"], "town": ["Ulm", "Bern"]})
    with pytest.raises(InputError, match="Column `town` should hold one of 2 known texts; found `Rome` in row 1"):
        encoding.encode([{"age": "1", "town": "Ulm"}, {"age": "1", "town": "Rome"}])
    with pytest.raises(InputError, match="Column `age` should hold a number; found `x` in row 0"):
        encoding.encode([{"age": "x", "town": "Ulm"}])
    with pytest.raises(InputError, match="found rows without it"):
        encoding.encode([{"age": "1"}])
