"""The documentation holds: snippets run, names and parameters are described, equations exist, the pages build."""

import contextlib
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numpydoc import validate
from numpydoc.docscrape import ClassDoc, FunctionDoc
from threadpoolctl import threadpool_limits

import fairl_sk

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
COMMANDS = [
    "pip install -c constraints.txt -e . && fairl-sk audit",
    'pip install -c constraints.txt -e ".[test]" && pytest',
]

# ------------------------------------------------------------------------------------------------ snippets

_FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", re.M | re.S)
_SKIP = re.compile(r"<!--\s*skip:(?P<reason>(?:(?!-->).)*)-->\s*\Z", re.S)


def snippets(text):
    """(number of the first line of code, code, reason to skip it or None) of each ```python block."""
    for block in _FENCE.finditer(text):
        if block["info"].strip() == "python":
            line = text[: block.start("body")].count("\n") + 1
            skip = _SKIP.search(text[: block.start()])
            yield line, block["body"], skip and skip["reason"].strip()


def run_snippets(page):
    """Run a page's snippets in one namespace; an error shows the page's own line."""
    namespace = {"__name__": "snippet"}
    for line, code, skip in snippets(page.read_text(encoding="utf-8")):
        if skip is not None:
            assert skip, f"{page.name}, line {line}: a skipped snippet needs a reason."
            print(f"{page.name}, line {line}: skipped, {skip}")
            continue
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page, tmp_path, capsys, record_property):
    with contextlib.chdir(tmp_path), threadpool_limits(1):  # on shared cores, BLAS threads wait for each other
        run_snippets(page)
    for line in capsys.readouterr().out.splitlines():
        if ": skipped, " in line:
            record_property("skipped snippet", line)  # printed by conftest.py at the end


@pytest.mark.parametrize("name", ["README.md", "index.md", "quickstart.md", "what_predict_means.md", "sklearn.md"])
def test_the_pages_that_teach_have_snippets(name):
    page = next(page for page in PAGES if page.name == name)
    assert any(skip is None for _, _, skip in snippets(page.read_text(encoding="utf-8")))


def test_snippets_are_found_shared_and_skipped_with_a_reason(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\na = 1\n```\ntext\n<!-- skip: needs a model -->\n```python\nraise OSError\n```\n"
        "```bash\nfalse\n```\n```python\nassert a == 1\nb = c\n```\n"
    )
    with pytest.raises(NameError, match="'c'") as raised:
        run_snippets(page)
    assert raised.traceback[-1].lineno + 1 == 14
    assert capsys.readouterr().out == "page.md, line 7: skipped, needs a model\n"
    page.write_text("<!-- skip: -->\n```python\na = 1\n```\n")
    with pytest.raises(AssertionError, match="needs a reason"):
        run_snippets(page)


# --------------------------------------------------------------------------------------------- public names


def public_modules():
    """The package and every module of it that names its public things in ``__all__``."""
    names = sorted(info.name for info in pkgutil.iter_modules(fairl_sk.__path__) if info.name != "__main__")
    modules = [fairl_sk, *(importlib.import_module(f"fairl_sk.{name}") for name in names)]
    return [module for module in modules if hasattr(module, "__all__")]


def public_objects():
    """Public functions, classes and their own public methods, by dotted name; each object once."""
    found = {}
    for module in public_modules():
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                found.setdefault(thing, f"{module.__name__}.{name}")
    for cls in [thing for thing in found if inspect.isclass(thing)]:
        for name, method in inspect.getmembers(
            cls, lambda member: inspect.isfunction(member) or inspect.ismethod(member)
        ):
            if not name.startswith("_") and method.__module__.startswith("fairl_sk"):
                found.setdefault(method, f"{found[cls]}.{name}")
    return {name: thing for thing, name in found.items()}


def listed_names():
    """Dotted names in the autosummary lists of the API page."""
    module, names = None, set()
    for line in (DOCS / "api.md").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif re.fullmatch(r"   \w+", line):
            names.add(f"{module}.{line.strip()}")
    return names


def resolve(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_the_api_page_lists_every_public_name():
    listed = {id(resolve(name)) for name in listed_names()}
    missing = [
        f"{module.__name__}.{name}"
        for module in public_modules()
        for name in module.__all__
        if id(getattr(module, name)) not in listed
    ]
    assert not missing


def test_the_api_page_lists_public_names_only():
    for name in listed_names():
        module, _, attribute = name.rpartition(".")
        assert attribute in importlib.import_module(module).__all__


def test_public_modules_are_found():
    assert {"fairl_sk", "fairl_sk.datasets", "fairl_sk.metrics"} <= {module.__name__ for module in public_modules()}
    assert {"fairl_sk.FailureAwareIRL", "fairl_sk.FailureAwareIRL.fit", "fairl_sk.make_pairs"} <= set(public_objects())


# ----------------------------------------------------------------------------------------------- docstrings

# Checks of numpydoc.validate. That parameters and docstrings agree is checked below, as one docstring may refer to
# another one ("See `fit`"), which numpydoc's PR01 and PR02 do not know.
CHECKS = {
    "GL01": "text starts on the line of the quotation marks, or on the next",
    "GL05": "no tabs",
    "GL06": "no unknown section",
    "GL08": "there is a docstring",
    "PR05": "the type of a parameter does not end in a full stop",
    "PR06": "types have their Python names",
    "PR10": "a space before the colon of a parameter",
    "RT01": "what returns something has a section Returns",
    "SS01": "there is a summary",
    "SS02": "it starts with a capital letter",
    "SS03": "it ends in a full stop",
    "YD01": "what yields something has a section Yields",
}
_SEE = re.compile(r"\bSee `([\w.]+)`")
OBJECTS = public_objects()


def documented_parameters(thing):
    """Names in the docstring's Parameters, or in the Attributes of a named tuple, which have the same names."""
    doc = ClassDoc(thing) if inspect.isclass(thing) else FunctionDoc(thing)
    entries = [*doc["Parameters"], *doc["Other Parameters"]]
    if inspect.isclass(thing) and issubclass(thing, tuple):
        entries = doc["Attributes"]
    return {name.strip().lstrip("*") for entry in entries for name in entry.name.split(",")} - {""}


def signature_parameters(thing):
    names = inspect.signature(thing).parameters
    return {name for name in names if name not in ("self", "cls")}


def referred(thing, name):
    """The things that "See `name`" in a docstring means: of the same class or module, else by their full name."""
    beside = name.rpartition(".")[0]
    names = [full for target in _SEE.findall(thing.__doc__) for full in (f"{beside}.{target}", target)]
    return [OBJECTS[full] for full in names if full in OBJECTS]


def check_parameters(thing, name):
    if inspect.isclass(thing) and issubclass(thing, Exception):  # its one parameter is the message
        return
    documented, actual = documented_parameters(thing), signature_parameters(thing)
    assert documented <= actual, f"{name} documents {sorted(documented - actual)}, which it does not have."
    if not documented and not inspect.isclass(thing):  # all of them are described elsewhere
        documented = set().union(*map(documented_parameters, referred(thing, name)))
    assert actual <= documented, f"{name} does not document {sorted(actual - documented)}."


@pytest.mark.parametrize("name", OBJECTS)
def test_docstrings_and_signatures_have_the_same_parameters(name):
    check_parameters(OBJECTS[name], name)


@pytest.mark.parametrize("name", OBJECTS)
def test_docstrings_follow_numpydoc(name):
    thing = OBJECTS[name]
    found = {code: message for code, message in validate.validate(name)["errors"] if code in CHECKS}
    if referred(thing, name):
        found.pop("RT01", None)
    assert not found
    summary = thing.__doc__.strip().split("\n\n")[0]
    assert not re.search(r"\beq\.\s", summary), f"{name}: the API page cuts a summary at 'eq.': cite below it."
    assert not re.search(r"[^\n -~\u00a0-\uffff]", thing.__doc__), f"Control characters in {name}: use a raw string."


def test_the_parameter_check_can_fail():
    def missing(a, b):
        """Add.

        Parameters
        ----------
        a : int
        """

    def unknown(a):
        """Add.

        Parameters
        ----------
        a, b : int
        """

    def referring(X, z):
        """Fit. See `fairl_sk.check_pairs`."""

    with pytest.raises(AssertionError, match=r"does not document \['b'\]"):
        check_parameters(missing, "missing")
    with pytest.raises(AssertionError, match=r"documents \['b'\], which it does not have"):
        check_parameters(unknown, "unknown")
    with pytest.raises(AssertionError, match=r"does not document \['z'\]"):
        check_parameters(referring, "referring")


# ------------------------------------------------------------------------------------- equations and pages

_CITED = re.compile(r"theory,\s+(?:#\s*)?eqs?\.\s+(\d+)(?:\s*(to|and|,|-)\s*(\d+))?")
_LABEL = re.compile(r"^\$\$ \(eq-(\d+)\)$", re.M)


def cited_equations(text):
    for first, join, last in _CITED.findall(text):
        yield from range(int(first), int(last) + 1) if join in ("to", "-") else map(int, filter(None, (first, last)))


def theory_equations():
    return [int(number) for number in _LABEL.findall((DOCS / "theory.md").read_text(encoding="utf-8"))]


def test_equations_are_numbered_as_their_labels_say():
    assert theory_equations() == list(range(1, 12))


def test_equations_that_the_code_cites_exist():
    sources = {path.name: path.read_text(encoding="utf-8") for path in Path(fairl_sk.__file__).parent.glob("*.py")}
    cited = {(name, number) for name, text in sources.items() for number in cited_equations(text)}
    assert {"irl.py", "net.py", "objective.py", "failures.py"} <= {name for name, _ in cited}
    assert not {(name, number) for name, number in cited if number not in theory_equations()}


def test_citations_are_read_rightly():
    assert list(cited_equations("(theory, eq. 2), (theory,\n   eq. 4 to 7), theory, eq. 9 and 11")) == [
        2,
        4,
        5,
        6,
        7,
        9,
        11,
    ]


@pytest.fixture(scope="module")
def built_pages(tmp_path_factory):
    """The pages as HTML, built from a copy, so that nothing is written into the checkout; warnings are errors."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("_build", "generated"))
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", "html"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "html"


def test_the_pages_build_without_warnings(built_pages):
    for page in [*DOCS.glob("*.md")]:
        assert (built_pages / f"{page.stem}.html").stat().st_size > 0
    for name in listed_names():
        assert (built_pages / "generated" / f"{name}.html").stat().st_size > 0


def test_the_built_equations_have_the_cited_numbers(built_pages):
    html = (built_pages / "theory.html").read_text(encoding="utf-8")
    shown = re.findall(r'id="equation-eq-(\d+)">\s*<span class="eqno">\((\d+)\)', html)
    assert [(int(label), int(number)) for label, number in shown] == [(n, n) for n in theory_equations()]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_has_the_command(command):
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
