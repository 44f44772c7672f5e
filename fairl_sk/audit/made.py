"""How an audit was made: data, settings and versions, as a section and as cards. `page` and `report` read it."""

import json

from ..escaping import visible
from .choice import shown_reward
from .label_errors import RULE as LABEL_RULE
from .sections import Section, Table
from .shortcuts import RULE as PROPERTY_RULE
from .subgroups import RULE as SUBGROUP_RULE
from .verdict import verdict

CARDS = {"model_card.md": "README.md of a model repository", "data_card.md": "README.md of a dataset repository"}


def made_section(result):
    """The section on data, settings and versions."""
    settings = result.settings
    command = settings.get("command")
    words = [
        f"{settings['rows']:,} {settings['rows_are']} in {settings['groups']} groups were read, and whole groups held "
        f"out. The audit took {settings['seconds']:.0f} seconds with seed {settings['seed']}.",
        "It was made from Python: the settings below reproduce it." if command is None else f"Made by: {command}",
    ]
    data = dict(settings["data"] or {})
    rows = {name: value for name, value in data.items() if value is not None}
    rows |= {"rows": settings["rows"], "groups": settings["groups"]}
    rows |= {"training rows": settings["train_rows"], "held-out rows": settings["test_rows"]}
    rows |= {f"dropped: {reason}": count for reason, count in settings["dropped"].items()}
    if settings["columns not read"]:
        rows["columns not read"] = ", ".join(map(str, settings["columns not read"]))
    left = ("data", "dropped", "learners", "versions", "columns not read", "command", "rows", "groups")
    others = {name: value for name, value in settings.items() if name not in (*left, "train_rows", "test_rows")}
    learners = [[name, _text(parameters)] for name, parameters in settings["learners"].items()]
    return Section(
        "How was this made?",
        "\n".join(words),
        tables=[
            Table("Rules of this report", ["what", "rule"], _rules(result)),
            Table("Data", ["what", "value"], _two_columns(rows)),
            Table("Settings", ["what", "value"], _two_columns(others)),
            Table("Parameters of the learners", ["learner", "parameters"], learners),
            Table("Versions", ["package", "version"], _two_columns(settings["versions"])),
        ],
    )


def _rules(result):
    """What a report claims, and when."""
    rules = [["properties", PROPERTY_RULE], ["subgroups", SUBGROUP_RULE], ["label errors", LABEL_RULE]]
    if (alpha := result.uncertainty.get("alpha")) is not None:
        how = "Standard deviations of MaxEntropyIRL's reward, by a Laplace approximation of its posterior, with the L2 "
        rules.append(["uncertainty", f"{how}strength of greatest evidence (alpha = {alpha:.2g})."])
    return rules


def _two_columns(values):
    return [[str(name), _text(value)] for name, value in values.items() if value not in (None, {}, [])]


def _text(value):
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(part)}" for name, part in value.items() if part is not None)
    return str(value)


def source_name(settings):
    """Where the rows of an audit come from, in a few words."""
    data = settings["data"] or {}
    return data.get("file") or ("the package's own pairs" if "made by" in data else f"{settings['rows']} rows")


def make_cards(result):
    """Make a model card and a data card in the format of the Hugging Face hub. They hold no texts of the data.

    Parameters
    ----------
    result : Bunch
        From `audit`.

    Returns
    -------
    cards : dict of str to str
        Markdown with YAML front matter, by the name of the file; each becomes the README.md of its repository.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fairl_sk.audit"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"yaml": json.dumps, "line": _line}
    name = shown_reward(result.choice)
    known = {
        "name": name,
        "row": next(row for row in result.table if row["reward"] == name),
        "measures": ("pair_accuracy", "output_auc", "label_auc", "starc"),
        "source": source_name(result.settings),
        "verdict": verdict(result),
        "settings": result.settings,
        "size": _size_category(result.settings["rows"]),
    }
    return {file: environment.get_template(file).render(known) for file in CARDS}


def _line(value):
    """A value as one line of Markdown, in which no character of it is markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in visible(_text(value)))


def _size_category(n_rows):
    limits = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((name for limit, name in limits.items() if n_rows < limit), "1M<n<10M")
