"""The command line: ``fairl-sk audit``."""

import argparse
import sys

from . import __version__


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; those of the process by default.

    Returns
    -------
    status : int
        0; 2 after an error that the user can mend; 130 after an interrupt.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"fairl-sk: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fairl-sk: interrupted; nothing was written.", file=sys.stderr)
        return 130
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
    audit.add_argument("--force", action="store_true", help="replace the results of an earlier audit in DIR")
    audit.add_argument(
        "--reference",
        metavar="FILE.skops",
        help="fitted scikit-learn text classifier, saved with skops, whose decision function is the ground-truth reward",
    )
    audit.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    audit.add_argument("--text-column", metavar="NAME", help="unpaired data: the column of texts")
    audit.add_argument("--label-column", metavar="NAME", help="unpaired data: the column of labels")
    audit.add_argument("--desirable", metavar="LABEL", nargs="+", help="unpaired data: the labels that are desirable")
    audit.add_argument("--limit", type=int, metavar="N", help="read the first N records only")
    audit.add_argument("--components", type=int, default=256, metavar="N", help="features of a text (default: 256)")
    audit.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _audit(arguments):
    from .audit import audit, format_audit, load_pipeline, prepare_folder, write_audit

    folder = prepare_folder(arguments.out, force=arguments.force)
    data = _load(arguments)
    reference = None if arguments.reference is None else load_pipeline(arguments.reference).decision_function
    result = audit(
        data,
        reference=reference,
        n_components=arguments.components,
        random_state=arguments.seed,
        verbose=not arguments.quiet,
    )
    print(format_audit(result))
    paths = write_audit(result, folder)
    print(f"\nWritten to {folder}: {', '.join(path.name for path in paths)}")


def _load(arguments):
    from .datasets import load_preferences

    if arguments.pairs is None:
        return None
    options = {
        "text_column": arguments.text_column,
        "label_column": arguments.label_column,
        "desirable": arguments.desirable,
    }
    return load_preferences(arguments.pairs, limit=arguments.limit, random_state=arguments.seed, **options)


if __name__ == "__main__":
    sys.exit(main())
