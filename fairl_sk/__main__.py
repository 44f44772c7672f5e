"""The command line: ``fairl-sk audit``."""

import argparse
import os
import re
import sys

from . import __version__

MAX_NUMBER = 2**31 - 1
OF_FILES = {  # options that say how to read PAIRS, by parameter of load_preferences
    "format": "--format",
    "text_column": "--text-column",
    "label_column": "--label-column",
    "desirable": "--desirable",
    "quoted": "--no-quotes",
    "encoding": "--encoding",
    "limit": "--limit",
}


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; those of the process by default.

    Returns
    -------
    status : int
        0; 2 after an error that the user can mend; 130 after an interrupt. After either, no file was written or
        changed, and a folder that the run had made is gone.
    """
    arguments = _parser().parse_args(argv)
    try:
        report = arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"fairl-sk: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfairl-sk: interrupted; what this run had computed is lost, nothing was written.", file=sys.stderr)
        return 130
    return _print(report)


def _print(report):
    """Print what is on disk already, so that nothing is lost where nobody reads."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(report.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the exit
        if not isinstance(error, BrokenPipeError):  # a reader that left, such as head, is no error
            print(f"fairl-sk: error: cannot print: {error.strerror}. The results are written.", file=sys.stderr)
            return 2
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="fairl-sk", description="Recover the reward behind preference pairs.")
    parser.add_argument("--version", action="version", version=f"fairl-sk {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    audit = commands.add_parser(
        "audit",
        help="fit, measure and save the reward that pairs of texts express",
        description="Fit MaxMarginIRL, MaxEntropyIRL and FailureAwareIRL on pairs of texts, measure them on held-out "
        "groups, and write tables, pictures and the fitted pipelines.",
    )
    audit.set_defaults(run=_audit)
    audit.add_argument(
        "pairs",
        nargs="?",
        metavar="PAIRS",
        help="TSV, CSV, JSON Lines or Parquet with preferences (see the docs on data); without it, a corpus that the "
        "package writes itself",
    )
    audit.add_argument("--out", metavar="DIR", help="folder for the results (default: a new one, fairl_sk_audit)")
    audit.add_argument(
        "--force", action="store_true", help="replace the results of an earlier audit in DIR; other files there stay"
    )
    audit.add_argument(
        "--reference",
        metavar="FILE.skops",
        help="fitted scikit-learn text classifier, saved with skops; its decision function is the ground-truth reward",
    )
    audit.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    audit.add_argument(
        "--format",
        metavar="NAME",
        help="what the columns of PAIRS mean: paradetox, preference or unpaired (default: what their names say)",
    )
    audit.add_argument("--text-column", metavar="NAME", help="unpaired data: the column of texts")
    audit.add_argument("--label-column", metavar="NAME", help="unpaired data: the column of labels")
    audit.add_argument(
        "--desirable",
        metavar="LABEL",
        action="append",
        help="unpaired data: the label that is desirable; once for each, if several are",
    )
    audit.add_argument(
        "--no-quotes",
        dest="quoted",
        action="store_false",
        default=None,
        help="TSV and CSV: quotation marks are plain characters, they enclose no fields",
    )
    audit.add_argument("--encoding", metavar="NAME", help="encoding of PAIRS, such as cp1252 (default: utf-8)")
    audit.add_argument("--limit", type=int, metavar="N", help="read the first N records only")
    audit.add_argument("--components", type=int, default=256, metavar="N", help="features of a text (default: 256)")
    audit.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _audit(arguments):
    """Audit, write, and return what to print."""
    _check_options(arguments)
    from .audit import audit, format_audit, results_folder, write_audit

    with results_folder(arguments.out, force=arguments.force) as folder:
        data = _load(arguments)
        reference = None if arguments.reference is None else _reference(arguments.reference)
        result = audit(
            data,
            reference=reference,
            n_components=arguments.components,
            random_state=arguments.seed,
            verbose=not arguments.quiet,
        )
        report = format_audit(result)
        try:
            paths = write_audit(result, folder)
        except OSError as error:
            _print(report)  # all that is left of the run
            raise OSError(
                f"Cannot write the results to {folder}: {error.strerror or error}. The folder is as it was; the table "
                "was printed. Make room or name another folder with --out, and run again."
            ) from error
    return f"{report}\n\nWritten to {folder}: {', '.join(path.name for path in paths)}"


def _check_options(arguments):
    """Refuse options that have no meaning, before anything is imported or read."""
    for option, low, default in (("seed", 0, "0"), ("components", 1, "256"), ("limit", 2, "all records")):
        value = getattr(arguments, option)
        if value is not None and not low <= value <= MAX_NUMBER:
            raise ValueError(
                f"--{option} is {value}. Expected a whole number from {low} to {MAX_NUMBER}; without the option it is "
                f"{default}."
            )
    given = [OF_FILES[name] for name in _reading(arguments)]
    if arguments.pairs is None and given:
        raise ValueError(
            f"Found {' and '.join(given)} without PAIRS. Expected a file that the option is about: name it, or leave "
            "the option out."
        )


def _reference(path):
    from .audit import load_pipeline

    pipeline = load_pipeline(path)
    if not hasattr(pipeline, "decision_function"):
        raise ValueError(
            f"--reference {path} holds a {type(pipeline).__name__} without decision_function. Expected a fitted text "
            "classifier, such as make_pipeline(TfidfVectorizer(), LogisticRegression())."
        )
    return pipeline.decision_function


def _load(arguments):
    from .datasets import load_preferences

    if arguments.pairs is None:
        return None
    try:
        return load_preferences(arguments.pairs, random_state=arguments.seed, **_reading(arguments))
    except ValueError as error:
        raise ValueError(f"{error}{_as_options(str(error))}") from error


def _reading(arguments):
    """The parameters of load_preferences that were given."""
    return {name: getattr(arguments, name) for name in OF_FILES if getattr(arguments, name) is not None}


def _as_options(message):
    """A sentence with the options for the parameters that a message of load_preferences names."""
    patterns = {name: rf"\b{name}\b" if "_" in name else rf"\b{name}(=| is )" for name in OF_FILES}
    options = [OF_FILES[name] for name, pattern in patterns.items() if re.search(pattern, message)]
    named = ", ".join(options).replace("--no-quotes", "--no-quotes (for quoted=False)")
    return f" On the command line: {named}." if options else ""


if __name__ == "__main__":
    sys.exit(main())
