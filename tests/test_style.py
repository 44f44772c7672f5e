"""The code keeps the rules that CONTRIBUTING.md tells: style, sizes, imports and docstrings."""

import ast
import importlib
import inspect
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fairl_sk", "benchmarks", "examples", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
TREES = {name: ast.parse(text) for name, text in TEXTS.items()}
MODULES = [name for name in TREES if name.startswith("fairl_sk/")]

# A room imports only rooms that stand before it.
ROOMS = """warn escaping extras device cluster messages prompts labels pairs  datasets failures features metrics
           learning diagnosis implicit rewards generate export plot  serving audit  cli_serve cli_suggest cli""".split()
PUBLIC_PATHS = ["__init__", "__main__", "identify", "store"]  # they lead to names that live in the rooms


def violations(check, names):
    """What a check of one file finds, by the name of the file, where it finds something."""
    return {name: found for name in names if (found := check(name))}


@pytest.mark.parametrize("command", ["ruff check --no-cache", "ruff format --no-cache --check", "mypy --cache-dir={}"])
def test_the_checkers_find_nothing(command, tmp_path):
    command = [sys.executable, "-m", *command.format(tmp_path).split()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr


def imported(name, tree):
    """Paths below fairl_sk of what a file imports from the package: (room, ..., imported name)."""
    folder = name.split("/")[1:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            path = node.module.split(".") if node.module else []
            if node.level:
                path = folder[: len(folder) + 1 - node.level] + path
            elif path.pop(0) != "fairl_sk":
                continue
            yield from ((*path, alias.name) for alias in node.names)


def private_imports(name):
    names = [path[-1] for path in imported(name, TREES[name])]
    return [name for name in names if name.startswith("_") and not name.endswith("__")]


def test_no_module_imports_a_private_name_of_another():
    assert not violations(private_imports, TREES)


def room_of(name):
    return name.split("/")[1].removesuffix(".py")


def imports_of_later_rooms(name):
    rooms = {path[0] for path in imported(name, TREES[name])} - {room_of(name), "__version__"}
    return rooms - set(ROOMS[: ROOMS.index(room_of(name))])


def test_imports_run_one_way():
    modules = [name for name in MODULES if room_of(name) not in PUBLIC_PATHS]
    assert {room_of(name) for name in modules} == set(ROOMS), "Tell a new room here and in docs/architecture.md."
    assert not violations(imports_of_later_rooms, modules)


def n_lines(node):
    """Lines of a function or class without the docstrings in it."""
    parts = [part for part in ast.walk(node) if isinstance(part, (ast.FunctionDef, ast.ClassDef))]
    texts = [part.body[0] for part in parts if ast.get_docstring(part)]
    return node.end_lineno - node.lineno + 1 - sum(text.end_lineno - text.lineno + 1 for text in texts)


def too_long(tree):
    limits = {ast.FunctionDef: 60, ast.ClassDef: 300}
    return [node.name for node in ast.walk(tree) if type(node) in limits and n_lines(node) > limits[type(node)]]


def test_functions_classes_and_modules_are_short():
    assert not violations(lambda name: too_long(TREES[name]), TREES)
    lines = {name: TEXTS[name].count("\n") for name in MODULES}
    assert not {name: n for name, n in lines.items() if n > 600}
    assert statistics.median(lines.values()) < 250


def undocumented(thing, module):
    """Public names of a module, or of a class in it, that neither have a docstring nor inherit one."""
    for name, member in vars(thing).items():
        own = inspect.isfunction(member) or inspect.isclass(member) or isinstance(member, (property, classmethod))
        if own and not name.startswith("_") and getattr(member, "__module__", module) == module:
            yield from [] if inspect.getdoc(getattr(thing, name)) else [name]
            yield from undocumented(member, module) if inspect.isclass(member) else []


def bare_names(name):
    module = importlib.import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    return [*undocumented(module, module.__name__), *([] if module.__doc__ else ["the module"])]


def test_every_public_name_is_documented():
    assert not violations(bare_names, [name for name in MODULES if room_of(name) != "__main__"])


def test_the_rules_can_be_broken():
    assert list(imported("fairl_sk/room/a.py", ast.parse("from ..other.b import _x"))) == [("other", "b", "_x")]
    lines = "    x = 1\n" * 60
    assert too_long(ast.parse(f"def long():\n{lines}")) == ["long"]
    assert not too_long(ast.parse(f'def short():\n    """Text.\n\n    More.\n    """\n{lines[10:]}'))
    bare = type("Bare", (), {"method": lambda self: None, "__module__": __name__})
    assert list(undocumented(bare, __name__)) == ["method"]
