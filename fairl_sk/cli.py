"""The command line: ``fairl-sk audit`` and ``fairl-sk store``."""

import argparse
import os
import re
import sys
import warnings
from contextlib import contextmanager

import torch

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
OF_REFERENCES = {  # options for what the messages of fairl_sk.rewards call its parameters
    "checkpoint": "--reference FILE.ckpt",
    "config_folder": "--reference-config",
}
NEEDED = {  # options that say something about another one
    "reference_output": "reference",
    "toxic_label": "reference",
    "nontoxic_label": "reference",
    "reference_config": "reference",
    "pooling": "encoder",
    "store": "encoder",
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
        with _warnings_as_lines():
            report = arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        return _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        return _fail(
            f"{str(error) or 'Memory ran out.'} On the command line: fewer records with --limit, fewer features with "
            "--components, a smaller model, or another --device."
        )
    except KeyboardInterrupt:
        print("\nfairl-sk: interrupted; what this run had computed is lost, nothing was written.", file=sys.stderr)
        return 130
    return _print(report)


def _fail(message):
    print(f"fairl-sk: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _is_of_memory(error):
    """Whether an error says that memory ended, as NumPy, torch on a CPU, or torch on a GPU say it."""
    from .features.encoder import _NO_MEMORY

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in _NO_MEMORY)


@contextmanager
def _warnings_as_lines():
    """Show each warning as one line, without the place in the source."""

    def show(message, category, filename, lineno, file=None, line=None):
        print(f"fairl-sk: warning: {' '.join(str(message).split())}", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


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
    _add_reference(audit)
    _add_encoder(audit)
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
    audit.add_argument(
        "--components", type=int, metavar="N", help="features of a text without --encoder (default: 256)"
    )
    audit.add_argument("--quiet", action="store_true", help="no progress bars")
    store = commands.add_parser(
        "store", help="show or prune an embedding store", description="Show what an embedding store holds, or prune it."
    )
    store.set_defaults(run=_store)
    store.add_argument("path", metavar="DIR", help="the store")
    store.add_argument(
        "--prune", metavar="ID", nargs="+", help="forget the embeddings under these ids; 'all': every one"
    )
    return parser


def _add_reference(audit):
    """Options of the ground-truth reward."""
    reference = audit.add_argument_group("ground-truth reward")
    reference.add_argument(
        "--reference",
        metavar="REWARD",
        help="a fitted scikit-learn text classifier saved with skops (FILE.skops); 'detoxify', 'detoxify:VARIANT' or a "
        "checkpoint of it (FILE.ckpt); or a Hugging Face text classifier, a folder or the name of one in the hub",
    )
    reference.add_argument(
        "--reference-output",
        choices=("logit", "probability"),
        help="which number of the classifier is the reward (default: logit); they are different rewards",
    )
    label = reference.add_mutually_exclusive_group()
    label.add_argument("--toxic-label", metavar="NAME", help="FILE.skops and Hugging Face: the label of what is toxic")
    label.add_argument("--nontoxic-label", metavar="NAME", help="FILE.skops and Hugging Face: the label of what is not")
    reference.add_argument(
        "--reference-config",
        metavar="DIR",
        help="detoxify and FILE.ckpt: the folder with the config.json and the tokenizer of its architecture",
    )


def _add_encoder(audit):
    """Options of the features."""
    encoder = audit.add_argument_group("features")
    encoder.add_argument(
        "--encoder",
        metavar="MODEL",
        help="embed with this transformer model: 'minilm' (packaged), a folder, or the name of one in the hub "
        "(default: TF-IDF and truncated SVD)",
    )
    encoder.add_argument("--pooling", choices=("mean", "last", "cls", "max"), help="of the encoder (default: mean)")
    encoder.add_argument("--store", metavar="DIR", help="keep embeddings in this folder, and take them from there")
    encoder.add_argument("--device", metavar="NAME", help="where models run: cpu (default), cuda or auto")


def _audit(arguments):
    """Audit, write, and return what to print."""
    _check_options(arguments)
    from .audit.run import audit, format_audit, results_folder, write_audit

    with results_folder(arguments.out, force=arguments.force) as folder:
        data = _load(arguments)
        with _naming_options(OF_REFERENCES):
            result = audit(
                data,
                reference=None if arguments.reference is None else _reference(arguments),
                features=None if arguments.encoder is None else _encoder(arguments),
                n_components=arguments.components or 256,
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
    written = f"{report}\n\nWritten to {folder}: {', '.join(path.name for path in paths)}"
    pipelines = [str(path) for path in paths if path.suffix == ".skops"]
    return f"{written}\nLoad one with fairl_sk.audit.load_pipeline({pipelines[0]!r})" if pipelines else written


def _check_options(arguments):
    """Refuse options that have no meaning, before anything is imported or read."""
    for option, low, default in (("seed", 0, "0"), ("components", 1, "256"), ("limit", 2, "all records")):
        value = getattr(arguments, option)
        if value is not None and not low <= value <= MAX_NUMBER:
            raise ValueError(
                f"--{option} is {value}. Expected a whole number from {low} to {MAX_NUMBER}; without the option it is "
                f"{default}."
            )
    for option, needed in NEEDED.items():
        if getattr(arguments, option) is not None and getattr(arguments, needed) is None:
            raise ValueError(
                f"Found {_option(option)} without {_option(needed)}. Expected both: it says how that one is to be used."
            )
    _check_reference_options(arguments)
    if arguments.encoder is not None and arguments.components is not None:
        raise ValueError("Found --components and --encoder. Expected one: an encoder has its own number of features.")
    given = [OF_FILES[name] for name in _reading(arguments)]
    if arguments.pairs is None and given:
        raise ValueError(
            f"Found {' and '.join(given)} without PAIRS. Expected a file that the option is about: name it, or leave "
            "the option out."
        )


def _check_reference_options(arguments):
    """Refuse options that the kind of reference does not read, and a classifier without a label."""
    kind = None if arguments.reference is None else _kind(arguments.reference)
    labels = arguments.toxic_label is not None or arguments.nontoxic_label is not None
    if labels and kind == "detoxify":
        raise ValueError(
            f"Found {_given_label(arguments)} with --reference {arguments.reference}. Expected it without: the reward "
            "of Detoxify is that a text lacks its category 'toxicity'."
        )
    if not labels and kind == "classifier":
        raise ValueError(
            f"Found --reference {arguments.reference}, a Hugging Face classifier, without --toxic-label and "
            "--nontoxic-label. Expected one of them, with a label of the classifier (id2label in its config.json): it "
            "says which side is the good one."
        )
    if arguments.reference_config is not None and kind != "detoxify":
        raise ValueError(
            f"Found --reference-config with --reference {arguments.reference}. Expected it with detoxify or a "
            "FILE.ckpt only: other models bring their own configuration."
        )
    if arguments.device is not None and arguments.encoder is None and kind in (None, "saved"):
        raise ValueError(
            "Found --device without a model that could run there. Expected --encoder, or a --reference that is "
            "detoxify or a Hugging Face classifier: scikit-learn computes on the CPU."
        )


def _kind(reference):
    """What --reference names."""
    if reference.endswith(".skops"):
        return "saved"
    return "detoxify" if reference.endswith(".ckpt") or reference.partition(":")[0] == "detoxify" else "classifier"


def _given_label(arguments):
    return "--nontoxic-label" if arguments.toxic_label is None else "--toxic-label"


def _option(name):
    return f"--{name.replace('_', '-')}"


def _encoder(arguments):
    from .features.encoder import TransformerEmbedder

    return TransformerEmbedder(
        arguments.encoder,
        pooling=arguments.pooling or "mean",
        normalize=True,  # the learners' alpha then means the same for every encoder
        device=arguments.device or "cpu",
        store=arguments.store,
        verbose=not arguments.quiet,
    )


def _reference(arguments):
    """The ground-truth reward that --reference names."""
    name, kind = arguments.reference, _kind(arguments.reference)
    label = arguments.nontoxic_label if arguments.toxic_label is None else arguments.toxic_label
    output = arguments.reference_output or "logit"
    if kind == "saved":
        return _saved_reference(name, label, arguments.toxic_label is None, output)
    from .rewards import ClassifierReward, DetoxifyReward

    options = {"output": output, "device": arguments.device or "cpu", "verbose": not arguments.quiet}
    if kind == "classifier":
        return ClassifierReward(name, label, desirable=arguments.toxic_label is None, **options)
    options |= {"config_folder": arguments.reference_config}
    if name.endswith(".ckpt"):
        return DetoxifyReward(checkpoint=name, **options)
    return DetoxifyReward(name.partition(":")[2] or "original", **options)


def _saved_reference(path, label, desirable, output):
    from .audit.run import load_pipeline
    from .rewards import EstimatorReward

    pipeline = load_pipeline(path)
    if not hasattr(pipeline, "decision_function") and not hasattr(pipeline, "predict_proba"):
        raise ValueError(
            f"--reference {path} holds a {type(pipeline).__name__} without decision_function. Expected a fitted text "
            "classifier, such as make_pipeline(TfidfVectorizer(), LogisticRegression())."
        )
    classes = getattr(pipeline, "classes_", ())
    if label is None and (len(classes) > 2 or any(isinstance(name, str) for name in classes)):
        raise ValueError(
            f"--reference {path} has the classes {', '.join(repr(str(name)) for name in classes)}, and nothing says "
            "which of them are desirable. Expected --toxic-label or --nontoxic-label with one of them."
        )
    return EstimatorReward(pipeline, column=label, desirable=desirable, output=output)


def _store(arguments):
    """Show or prune a store, and return what to print."""
    from .features.store import EmbeddingStore

    store = EmbeddingStore(arguments.path)
    if not store.exists():
        raise ValueError(f"There is no embedding store {arguments.path}. Name the folder that was given as --store.")
    rows = store.list()
    if arguments.prune:
        ids = [row["id"] for row in rows] if arguments.prune == ["all"] else arguments.prune
        return f"Forgot {store.prune(ids)} embeddings; the file keeps its size, new ones take their place."
    lines = [
        f"{row['id']}  {row['n_vectors']:>9} embeddings  {row['bytes'] / 2**20:>8.1f} MiB  since "
        f"{row['settings']['created']}  {row['settings'].get('_name')}  "
        + ", ".join(f"{name} {row['settings'].get(name)}" for name in ("pooling", "layer", "dtype", "max_length"))
        for row in rows
    ]
    return "\n".join(lines) if lines else f"The store {arguments.path} is empty."


def _load(arguments):
    from .datasets.readers import load_preferences

    if arguments.pairs is None:
        return None
    with _naming_options(OF_FILES):
        return load_preferences(arguments.pairs, random_state=arguments.seed, **_reading(arguments))


def _reading(arguments):
    """The parameters of load_preferences that were given."""
    return {name: getattr(arguments, name) for name in OF_FILES if getattr(arguments, name) is not None}


@contextmanager
def _naming_options(options):
    """Put the options behind a message that names their parameters."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{error}{_as_options(str(error), options)}") from error


def _as_options(message, options):
    """A sentence with the options for the parameters that a message names."""
    patterns = {name: rf"\b{name}\b" if "_" in name else rf"\b{name}(=| is )" for name in options}
    found = [options[name] for name, pattern in patterns.items() if re.search(pattern, message)]
    named = ", ".join(found).replace("--no-quotes", "--no-quotes (for quoted=False)")
    return f" On the command line: {named}." if found else ""


if __name__ == "__main__":
    sys.exit(main())
