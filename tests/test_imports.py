"""Imports run downwards only: the house stays a house."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "seepage"
FLOORS = {
    "errors": 0,
    "linalg": 0,
    "types": 1,
    "networks": 1,
    "attacks": 2,
    "federated": 2,
    "metrics": 2,
    "label_scores": 2,
    "data": 2,
    "audit": 3,
    "report": 4,
    "cli": 5,
    "__main__": 6,
}
BUILT_ON: dict[str, dict[str, set[str]]] = {  # of each room that has rooms: what of it they may import
    "attacks": {
        "labels": {"budget"},
        "disaggregation": {"budget", "labels"},
        "walk": {"budget", "labels"},
        "inverters": {"budget", "walk", "labels"},
        "recursion": {"budget", "walk"},
    },
    "audit": {
        "scores": {"findings"},
        "captures": {"catalogue", "findings", "record", "scores", "unread"},
        "sweeps": {"catalogue", "control", "environment", "findings", "findingsfile", "run", "tomlfile", "unread"},
    },
}
SLOW = {"matplotlib", "scipy", "sklearn", "torchmetrics"}
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]
INNER = [path for path in FILES if len(path.relative_to(SOURCE).parts) > 2]


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def names_imported(path: Path, *, at_once: bool = False) -> set[str]:
    """Modules that a file imports; ``at_once`` those alone that it imports before anything is called."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    names = set()
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported(path: Path) -> set[str]:
    """Rooms that a file imports; ``types`` is the vocabulary that ``networks`` shares its floor with."""
    return {name.split(".")[1] for name in names_imported(path) if name.startswith("seepage.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_libraries_that_few_commands_need_are_imported_where_they_are_called(path: Path) -> None:
    at_once = {name.split(".")[0] for name in names_imported(path, at_once=True)}
    assert not at_once & SLOW, f"{path.relative_to(SOURCE)}: a second and more of every command, --help too"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_from_floors_below(path: Path) -> None:
    here = room_of(path)
    for room in imported(path) - {here}:
        below = FLOORS[room] < FLOORS[here] or (here, room) == ("networks", "types")
        assert below, f"{path.relative_to(SOURCE)} ({here}) imports {room}"


@pytest.mark.parametrize("path", INNER, ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_within_a_room_import_one_another_in_one_direction(path: Path) -> None:
    room, here, *_ = path.relative_to(SOURCE).parts
    allowed = {here} | BUILT_ON[room][here]
    for parts in (name.split(".")[2:] for name in names_imported(path) if name.startswith(f"seepage.{room}.")):
        assert parts[0] in allowed, f"{path.relative_to(SOURCE)} imports {'.'.join(parts)}"


def test_attacks_never_name_the_private_batch() -> None:
    for path in (SOURCE / "attacks").rglob("*.py"):
        assert "PrivateBatch" not in path.read_text(encoding="utf8"), path


def test_only_the_command_line_prints() -> None:
    for path in FILES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))) if isinstance(node, ast.Call)]
        prints = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
        assert not prints or room_of(path) == "cli", path
