"""The files of an audit: tables, pictures and pipelines, written all or none; and `load_pipeline`, which reads them."""

import copy
import csv
import importlib
import itertools
import json
import os
import tempfile
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import skops.io
from sklearn.base import BaseEstimator

from ..escaping import csv_cell
from ..features import TransformerEmbedder
from ..plot import HistoryDisplay, MarginDisplay
from .label_errors import review_columns
from .made import make_cards
from .measures import MEASURES
from .page import render_page
from .texts import with_texts
from .training import draw_steps
from .verdict import verdict

RUN_PARAMETERS = {"store": None, "device": "cpu", "verbose": False}  # of this run, not of the reward: not saved


@contextmanager
def results_folder(folder=None, *, force=False):
    """Make a folder for results; an empty one that it made is removed if the body fails.

    Parameters
    ----------
    folder : path, default=None
        None: ``fairl_sk_audit``, or the first of ``fairl_sk_audit_2``, ``_3``, ... that does not exist.
    force : bool, default=False
        Allow a folder that holds files, other than pairs of an interrupted audit. Those of an earlier audit are
        replaced.

    Yields
    ------
    folder : Path

    Raises
    ------
    OSError
        If the folder holds files and ``force`` is False, or cannot be made or written to.
    """
    folder = _default_folder() if folder is None else Path(folder)
    ours = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        _check_folder(folder, force)
        yield folder
    except BaseException:  # an interrupt too
        for path in ours:
            with suppress(OSError):  # not made, or not empty
                path.rmdir()
        raise


def _default_folder():
    names = (f"fairl_sk_audit_{number}" for number in itertools.count(2))
    return next(path for path in map(Path, itertools.chain(["fairl_sk_audit"], names)) if not path.exists())


def _check_folder(folder, force):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        in_use = not force and any(not _is_of_pairs(path) for path in folder.iterdir())
    except OSError as error:
        raise type(error)(f"Cannot write to --out {folder}: {error.strerror}. Name another folder.") from error
    if in_use:
        raise FileExistsError(
            f"--out {folder} already holds files. Name another folder, or add --force to replace the results of an "
            "earlier audit (other files stay)."
        )


def _is_of_pairs(path):
    """Whether a file holds pairs of `model_pairs`, which an interrupted audit leaves and goes on from."""
    return path.suffix == ".jsonl" and path.stem.partition("-")[0] == "pairs"


def write_audit(result, folder, *, texts="shortened"):
    """Write the page, the tables, the pictures and the fitted pipelines of an audit: all, or none after an error.

    Parameters
    ----------
    result : Bunch
        From `audit`.
    folder : path
        From `results_folder`.
    texts : {"shortened", "masked", "none"}, default="shortened"
        Texts of the data in these files. "masked": without e-mail addresses, URLs, @names and long numbers. "none": row
        numbers only, and no pipelines with n-grams, which hold words of the data.

    Returns
    -------
    paths : list of Path
        ``report.html`` (the page), ``table.json`` (everything, with the settings), ``table.csv``, ``failures.csv``,
        ``review.csv`` (probable label errors, which `load_preferences` reads when filled in), ``margins.png``,
        ``history.png``, with several aligned models ``training.png``, ``model_card.md`` and ``data_card.md`` for the
        Hugging Face hub, and ``<learner>.skops`` for each learner, without the store and the device of this run.
    """
    folder, page = Path(folder), render_page(result, texts=texts)
    result = with_texts(result, texts)
    rows = {name: [_plain(row) for row in result[name]] for name in ("table", "kinds", "subtypes", "failures")}
    document = {"verdict": verdict(result)} | {
        part: result[part] for part in ("alignment", "objectives") if result.get(part)
    }
    document |= {"choice": result.choice, **rows, "calibration": result.calibration}
    errors = {name: value for name, value in result.label_errors.items() if name != "review"}
    document |= {"shortcuts": result.shortcuts, "subgroups": result.subgroups, "label_errors": errors}
    document |= {name: result[name] for name in ("novelty", "learning_curve", "compared")}
    document = _plain(document) | {"uncertainty": result.uncertainty, "settings": result.settings}
    columns = ("output",) if result.settings["rows_are"] == "outputs" else ("preferred", "other")
    columns = () if texts == "none" else (*columns, "decided_by")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        temporary = Path(temporary)
        with _open(temporary / "table.json") as file:
            json.dump(document, file, indent=2, ensure_ascii=False, allow_nan=False)
        _write_csv(temporary / "table.csv", [_flat(row) for row in rows["table"]])
        _write_csv(temporary / "failures.csv", rows["failures"], ("index", "margin", "reason", *columns))
        _write_csv(temporary / "review.csv", result.label_errors["review"], review_columns(result, texts))
        for name, text in {"report.html": page, **make_cards(result)}.items():
            with _open(temporary / name) as file:
                file.write(text)
        _draw(result, temporary)
        for name, pipeline in result.pipelines.items():
            if texts == "none" and not isinstance(pipeline["features"], TransformerEmbedder):
                continue
            saved = _without_run_parameters(pipeline)
            skops.io.dump(saved, temporary / f"{name}.skops", compression=zipfile.ZIP_DEFLATED)
        names = sorted(path.name for path in temporary.iterdir())
        for name in names:
            os.replace(temporary / name, folder / name)
    return [folder / name for name in names]


def _plain(value):
    """Intervals as dicts, no arrays, and None for numbers that are not finite: JSON has no NaN."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items() if not isinstance(part, np.ndarray)}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _flat(row):
    """A row of ``table`` with three columns per measure."""
    flat = {"reward": row["reward"], "null": row["null"]}
    for name in MEASURES:
        interval = row[name] or {}
        flat |= {name: interval.get("estimate")}
        flat |= {f"{name}_{end}": interval.get(end) for end in ("low", "high")}
    return flat


def _write_csv(path, rows, columns=None):
    with _open(path) as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)


def _open(path):
    """A text file to write. Half a surrogate pair (a cut emoji) is no UTF-8 and becomes ``\\ud83d``, as in JSON."""
    return open(path, "w", newline="", encoding="utf-8", errors="backslashreplace")


def _draw(result, folder):
    import matplotlib.pyplot as plt

    rows_are = result.settings["rows_are"]
    margins = MarginDisplay(result.margins).plot()
    margins.figure_.suptitle(f"Held-out {rows_are}")
    margins.ax_.set(ylabel=rows_are)
    if rows_are == "outputs":
        margins.ax_.set(xlabel="reward, signed by the label, in standard deviations")
    history = HistoryDisplay.from_estimator(result.pipelines["FailureAwareIRL"]["irl"])
    history.figure_.suptitle(f"FailureAwareIRL, training {rows_are}")
    history.axes_[1].set(ylabel=rows_are)
    figures = {"margins": margins.figure_, "history": history.figure_}
    if result.alignment and len(result.alignment["steps"]) > 2:
        figures["training"] = draw_steps(result.alignment["steps"])
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
        plt.close(figure)


def _without_run_parameters(pipeline):
    """A copy in which this package's estimators have the default store, device and progress bars."""
    copied = copy.deepcopy(pipeline)
    for estimator in _estimators_in(copied):
        if type(estimator).__module__.startswith("fairl_sk."):
            names = RUN_PARAMETERS.keys() & estimator.get_params(deep=False).keys()
            estimator.set_params(**{name: RUN_PARAMETERS[name] for name in names})
    return copied


def _estimators_in(estimator):
    """An estimator, its parts, and the fitted copies of them that it holds."""
    yield estimator
    for part in [*estimator.get_params().values(), *vars(estimator).values()]:
        if isinstance(part, BaseEstimator):
            yield from _estimators_in(part)


def load_pipeline(path):
    """Load a fitted pipeline that skops saved, if it holds types of known libraries only.

    Parameters
    ----------
    path : path
        A ``.skops`` file, from an audit or from ``skops.io.dump``.

    Returns
    -------
    pipeline : estimator

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If skops cannot read the file, or it holds types other than those of scikit-learn, NumPy, SciPy and the
        estimators of this package.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked in {Path.cwd()}). Check the name and the folder.")
    data = path.read_bytes()  # once: the checked bytes are the loaded ones
    try:
        named = skops.io.get_untrusted_types(data=data)
        unknown = [name for name in named if not _is_own_estimator(name)]
        loaded = None if unknown else skops.io.loads(data, trusted=named)
    except Exception as error:  # a damaged archive fails anywhere in zipfile, json, numpy or skops
        raise ValueError(
            f"{path} is not a file that skops can read ({type(error).__name__}: {error}). Expected a fitted pipeline, "
            "saved by an audit or by skops.io.dump."
        ) from error
    if unknown:
        raise ValueError(
            f"{path} holds types that are not trusted: {', '.join(unknown[:5])}. Read that list, load the file "
            "yourself with skops.io.load(path, trusted=[...]), and give its decision_function to fairl_sk.audit.audit."
        )
    return loaded


def _is_own_estimator(name):
    """Whether a type's full name is that of an estimator, a schedule or a detector that this package defines."""
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None) if module.startswith("fairl_sk.") else None
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, BaseEstimator) and found.__module__ == module
