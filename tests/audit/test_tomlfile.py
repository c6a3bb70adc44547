"""Every error of a TOML file names the file, the line, what was expected and what was found."""

from pathlib import Path

import pytest

from seepage.audit.tomlfile import Table, read_toml
from seepage.errors import InputError

TEXT = """# a comment
name = "x"
share = 1.5

[grid]
sizes = [4,
  8, 8]
"quoted" = true

[[part]]
count = 1
[[part]]
count = "two"
"""


@pytest.fixture
def file(tmp_path: Path) -> Table:
    (tmp_path / "a.toml").write_text(TEXT)
    return read_toml(tmp_path / "a.toml")


def test_values_are_read(file: Table) -> None:
    assert file.text("name") == "x"
    assert file.number("share", low=0, high=2) == 1.5
    assert file.table("grid").flag("quoted", False)
    assert file.tables("part")[0].integer("count", low=1) == 1
    assert file.texts("name") == ("x",)
    assert file.texts("absent", ["y"]) == ("y",)


def test_a_wrong_value_is_named_with_its_line(file: Table) -> None:
    with pytest.raises(InputError, match=r"a\.toml, line 3: `share` should be a number from 0 to 1; found 1\.5"):
        file.number("share", low=0, high=1)
    with pytest.raises(InputError, match=r"line 6: `grid\.sizes` should be a list of different whole numbers"):
        file.table("grid").integers("sizes", low=1)
    with pytest.raises(InputError, match=r"line 13: `part\.count` should be a whole number.*'two'"):
        file.tables("part")[1].integer("count", low=1)


def test_a_missing_key_is_named_with_its_table(file: Table) -> None:
    with pytest.raises(InputError, match=r"line 5: `grid\.network` should be a text; it is missing"):
        file.table("grid").text("network")


def test_an_unknown_key_is_named_beside_those_known(file: Table) -> None:
    grid = file.table("grid")
    grid.flag("quoted", False)
    with pytest.raises(InputError, match=r"line 6: `grid\.sizes` is not known; known here: quoted"):
        grid.nothing_else()


def test_what_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("a = 1\nb = = 2\n")
    with pytest.raises(InputError, match=r"b\.toml.*line 2"):
        read_toml(tmp_path / "b.toml")
    with pytest.raises(InputError, match=r"none\.toml"):
        read_toml(tmp_path / "none.toml")
