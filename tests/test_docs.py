"""The documentation holds: snippets run, names and parameters are described, equations exist, the pages build."""

import contextlib
import functools
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import distributed
import pytest
from numpydoc import validate
from numpydoc.docscrape import ClassDoc, FunctionDoc
from threadpoolctl import threadpool_limits

import fairl_sk

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

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
def test_snippets_run(page, tmp_path, capsys, record_property, monkeypatch):
    threads = functools.partial(distributed.Client, processes=False, dashboard_address=":0")  # processes start slowly
    monkeypatch.setattr("dask.distributed.Client", threads)
    with contextlib.chdir(tmp_path), threadpool_limits(1):  # on shared cores, BLAS threads wait for each other
        run_snippets(page)
    for line in capsys.readouterr().out.splitlines():
        if ": skipped, " in line:
            record_property("skipped snippet", line)  # printed by conftest.py at the end


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


def listed_names():
    """Dotted names in the lists of the API page."""
    module, names = None, []
    for line in (DOCS / "api.md").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif re.fullmatch(r"   \w+", line):
            names.append(f"{module}.{line.strip()}")
    return names


def resolve(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def exported_names():
    """Dotted names in ``__all__`` of the package, of its rooms and of the modules beside them."""
    rooms = [f"fairl_sk.{info.name}" for info in pkgutil.iter_modules(fairl_sk.__path__) if info.name != "__main__"]
    modules = [importlib.import_module(name) for name in ["fairl_sk", *rooms]]
    return [f"{module.__name__}.{name}" for module in modules for name in getattr(module, "__all__", [])]


def public_objects():
    """Public functions, classes and their own public methods, by dotted name; each object once."""
    found = {}
    for name in [*listed_names(), *exported_names()]:
        thing = resolve(name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            found.setdefault(thing, name)
    for cls in [thing for thing in found if inspect.isclass(thing)]:
        for name, method in inspect.getmembers(cls, inspect.isroutine):
            if not name.startswith("_") and "fairl_sk" in str(getattr(method, "__module__", "")):
                found.setdefault(method, f"{found[cls]}.{name}")
    return {name: thing for thing, name in found.items()}


def test_the_api_page_lists_every_public_name_once_and_no_other():
    listed = [id(resolve(name)) for name in listed_names()]
    assert not [name for name in exported_names() if id(resolve(name)) not in listed]
    assert len(listed) == len(set(listed))
    for name in listed_names():
        module, _, attribute = name.rpartition(".")
        assert attribute in importlib.import_module(module).__all__


# ----------------------------------------------------------------------------------------------- docstrings

# Checks of numpydoc.validate. That parameters and docstrings agree is checked below, as one docstring may refer to
# another one ("See `fit`"), which numpydoc's PR01 and PR02 do not know.
CHECKS = "GL01 GL05 GL06 GL08 PR05 PR06 PR10 RT01 SS01 SS02 SS03 YD01".split()
_SEE = re.compile(r"\bSee `([\w.]+)`")
OBJECTS = public_objects()


def documented_parameters(thing):
    """Names in the docstring's Parameters, or in the Attributes of a named tuple, which have the same names."""
    doc = ClassDoc(thing) if inspect.isclass(thing) else FunctionDoc(thing)
    entries = [*doc["Parameters"], *doc["Other Parameters"]]
    if inspect.isclass(thing) and issubclass(thing, tuple):
        entries = doc["Attributes"]
    return {name.strip().lstrip("*") for entry in entries for name in entry.name.split(",")} - {""}


def referred(thing, name):
    """The things that "See `name`" in a docstring means: of the same class or module, else by their full name."""
    beside = name.rpartition(".")[0]
    names = [full for target in _SEE.findall(thing.__doc__) for full in (f"{beside}.{target}", target)]
    return [OBJECTS[full] for full in names if full in OBJECTS]


def check_parameters(thing, name):
    if inspect.isclass(thing) and issubclass(thing, Exception):  # its one parameter is the message
        return
    documented, actual = documented_parameters(thing), set(inspect.signature(thing).parameters) - {"self", "cls"}
    assert documented <= actual, f"{name} documents {sorted(documented - actual)}, which it does not have."
    if not documented and not inspect.isclass(thing):  # all of them are described elsewhere
        documented = set().union(*map(documented_parameters, referred(thing, name)))
    assert actual <= documented, f"{name} does not document {sorted(actual - documented)}."


@pytest.mark.parametrize("name", OBJECTS)
def test_docstrings_describe_the_parameters_and_follow_numpydoc(name):
    thing = OBJECTS[name]
    check_parameters(thing, name)
    found = {code: message for code, message in validate.validate(name)["errors"] if code in CHECKS}
    if referred(thing, name):
        found.pop("RT01", None)
    assert not found
    summary = thing.__doc__.strip().split("\n\n")[0]
    assert not re.search(r"\beq\.\s", summary), f"{name}: the API page cuts a summary at 'eq.': cite below it."
    assert not re.search(r"[^\n -~\u00a0-\uffff]", thing.__doc__), f"Control characters in {name}: use a raw string."


def test_the_parameter_check_can_fail():
    def described(a, b):
        """Add.

        Parameters
        ----------
        a, c : int
        """

    def referring(X, z):
        """Fit. See `fairl_sk.check_pairs`."""

    with pytest.raises(AssertionError, match=r"documents \['c'\], which it does not have"):
        check_parameters(described, "described")
    described.__doc__ = described.__doc__.replace(", c", "")
    with pytest.raises(AssertionError, match=r"does not document \['b'\]"):
        check_parameters(described, "described")
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


def test_equations_that_the_code_cites_exist():
    cited = cited_equations("(theory, eq. 2), (theory,\n   eq. 4 to 7), theory, eq. 9 and 11")
    assert list(cited) == [2, 4, 5, 6, 7, 9, 11]
    numbers = theory_equations()
    assert numbers == list(range(1, len(numbers) + 1))
    package = Path(fairl_sk.__file__).parent
    texts = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    cited = [(name, number) for name, text in texts.items() for number in cited_equations(text)]
    assert {"learning", "metrics"} <= {name.split("/")[0] for name, _ in cited}
    assert not [(name, number) for name, number in cited if number not in numbers]


def test_the_pages_build_without_warnings_and_equations_have_their_numbers(tmp_path):
    """From a copy, so that nothing is written into the checkout; formulas need no network."""
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("_build", "generated", "examples"))
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", "html"]
    command += ["-D", "plot_gallery=0"]  # tests/test_examples.py runs the examples
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    pages = [*(page.stem for page in DOCS.glob("*.md")), *(f"generated/{name}" for name in listed_names())]
    pages += [f"examples/{script.stem}" for script in (ROOT / "examples").glob("*.py")]
    assert not [page for page in pages if not (tmp_path / "html" / f"{page}.html").is_file()]
    html = (tmp_path / "html" / "theory.html").read_text(encoding="utf-8")
    shown = re.findall(r'id="equation-eq-(\d+)">\s*<span class="eqno">\((\d+)\)', html)
    assert [(int(label), int(number)) for label, number in shown] == [(n, n) for n in theory_equations()]
    assert html.count("<math ") > len(shown)
    assert not re.search(r'<(script|link)[^>]+"https?:', html)


def test_the_readme_is_short_and_has_the_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 120
    assert "pip install -c constraints.txt -e . && fairl-sk audit" in text
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in text


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
