"""The command line: ``fairl-sk audit`` and ``store``; `cli_serve` and `cli_suggest` have others. `main` runs it."""

import os
import re
import shlex
import shutil
import sys
import warnings
import webbrowser
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import click

from . import __version__
from .cli_serve import check, serve
from .cli_suggest import suggest
from .device import ran_out_of_memory
from .escaping import visible
from .extras import install_command

NO_ENCODER = "none"  # as --encoder


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments. None: those of the process.

    Returns
    -------
    status : int
        0; 1 if a condition of ``--fail-if`` holds; 2 after an error that the user can mend; 130 after an interrupt.
        After an error or an interrupt, the files are as before the run, but for generated pairs, which are kept. If an
        audit is interrupted after its scores, what is finished is written.
    """
    try:
        with _warnings_as_lines():
            report = commands.main(argv, prog_name="fairl-sk", standalone_mode=False)
    except click.ClickException as error:
        return _fail(error.format_message())
    except click.Abort as error:
        return _fail(str(error) or "interrupted; the results of this run are lost, nothing was written.", 130)
    except (ValueError, OSError, ImportError) as error:
        return _fail(f"{error}{_options_named_in(str(error))}")
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        remedy = "fewer records with --limit, fewer features with --components, a smaller model, or another --device."
        return _fail(f"{str(error) or 'Memory ran out.'} On the command line: {remedy}")
    return _print(report) if isinstance(report, str) else report  # --help and --version give a status


def _fail(message, status=2):
    print(f"fairl-sk: error: {visible(' '.join(message.split()))}", file=sys.stderr)
    return status


def _options_named_in(message):
    """A sentence with the options whose parameters a message names."""
    options = {"checkpoint": "--reference FILE.ckpt"} | {option.name: option.opts[0] for option in audit.params}
    options |= {"encoder": f"--encoder {NO_ENCODER}", "words_weight": "--components 0"}
    found = [
        option
        for name, option in options.items()
        if option not in message and re.search(rf"\b{name}\b" if "_" in name else rf"\b{name}(=| is )", message)
    ]
    return f" On the command line: {', '.join(found)}." if found else ""


@contextmanager
def _warnings_as_lines():
    """Show each warning as one line, without the place in the source."""

    def show(message, category, filename, lineno, file=None, line=None):
        print(f"fairl-sk: warning: {visible(' '.join(str(message).split()))}", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _print(report):
    """Print a report whose results are written already, whatever the terminal can show and whoever reads."""
    report, encoding = visible(report, keep="\n"), sys.stdout.encoding or "utf-8"
    try:
        print(report.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the exit
        if not isinstance(error, BrokenPipeError):  # a reader that left, such as head, is no error
            return _fail(f"cannot print: {error.strerror}. The results are written.")
    return 0


class Option(click.Option):
    """An option in a section of the help, which may be about another parameter and need it."""

    def __init__(self, *args, section="Options", needs=None, **settings):
        super().__init__(*args, **settings)
        self.section = section
        self.needs = needs


class Command(click.Command):
    """A command whose options stand in sections, and are refused without the parameter that they need."""

    def format_options(self, ctx, formatter):
        sections = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)

    def parse_args(self, ctx, args):
        """Keep the arguments, for the report, and parse them."""
        ctx.meta["arguments"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx):
        given = {param.name: param.opts[0] for param in self.params if ctx.params[param.name] not in (None, ())}
        for param in self.params:
            needed = getattr(param, "needs", None)
            needed = needed.split(" or ") if needed else []
            if param.name in given and needed and not given.keys() & set(needed):
                name = " or ".join("PAIRS" if name == "pairs" else f"--{name.replace('_', '-')}" for name in needed)
                raise click.UsageError(f"Found {given[param.name]} without {name}. Expected both.")
        try:
            return super().invoke(ctx)
        except OSError as error:  # the operating system's own names a file at most
            named = [given[name] for name in given if ctx.params[name] == str(error.filename)]
            if not named:
                raise
            option = "PAIRS" if named[0] == "pairs" else named[0]
            raise OSError(f"Cannot read {option} {error.filename}: {error.strerror}. Name another file.") from error


option = partial(click.option, cls=Option)
of_models = partial(option, section="Two models, in place of PAIRS", needs="base")
of_files = partial(option, section="Reading PAIRS", needs="pairs or prompts")
of_pairs = partial(option, section="Reading PAIRS", needs="pairs")
of_reference = partial(option, section="Ground-truth reward", needs="reference")
of_features = partial(option, section="Features")
BEYOND = "Beyond the held-out pairs"


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, message="fairl-sk %(version)s")
def commands():
    """Recover the reward behind preference pairs."""


commands.add_command(serve)
commands.add_command(check)
commands.add_command(suggest)


@commands.command(cls=Command)
@click.argument("pairs", required=False)
@option("--out", metavar="DIR", help="Folder for the results. [default: a new one, fairl_sk_audit]")
@option("--force", is_flag=True, help="Replace the results of an earlier audit in DIR.")
@option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Random seed. [default: 0]")
@option("--quiet", is_flag=True, help="Show no progress bars.")
@option("--verbose", is_flag=True, help="Print the tables below the verdict.")
@option("--open", "open_page", is_flag=True, help="Open the report in a browser.")
@option("--no-texts", is_flag=True, help="Write no text of the data, and no n-gram pipelines: they hold its words.")
@option("--mask", is_flag=True, help="Mask e-mail addresses, URLs, @names and long numbers in texts.")
@option("--fail-if", metavar="CONDITION", multiple=True, help="Exit with status 1 if it holds; repeatable.")
@option("--junit", metavar="FILE", needs="fail_if", help="Write the conditions' outcomes as JUnit XML.")
@of_models("--base", needs=None, metavar="MODEL", help="The language model before its alignment.")
@of_models("--aligned", metavar="MODEL", multiple=True, help="After it; repeatable, or a folder of checkpoints.")
@of_models("--prompts", metavar="FILE", help="Prompts that both answer: lines of a .txt, or a column 'prompt'.")
@of_models("--max-new-tokens", type=click.IntRange(1), metavar="N", help="The most tokens of an output. [default: 64]")
@of_models("--min-new-tokens", type=click.IntRange(1), metavar="N", help="The fewest, as in the training. [default: 1]")
@of_models("--completions", type=click.IntRange(1), metavar="N", help="Outputs of each for a prompt. [default: 1]")
@of_pairs("--format", metavar="NAME", help="A layout of the guide (Data). [default: guessed]")
@of_pairs("--prompt-column", metavar="NAME", help="The column of prompts.")
@of_pairs("--chosen-column", metavar="NAME", help="Pairs: the column of preferred outputs.")
@of_pairs("--rejected-column", metavar="NAME", help="Pairs: the column of the other outputs.")
@of_pairs("--text-column", metavar="NAME", help="Unpaired data: the column of texts.")
@of_pairs("--label-column", metavar="NAME", help="Unpaired data: the column of labels.")
@of_pairs("--desirable", metavar="LABEL", multiple=True, help="Unpaired data: a desirable label; repeatable.")
@of_pairs("--objective", "objectives", metavar="NAME", multiple=True, help="One of several objectives; repeatable.")
@of_files("--no-quotes", "quoted", flag_value=False, default=None, help="TSV, CSV: quotation marks enclose nothing.")
@of_files("--encoding", metavar="NAME", help="Encoding, such as cp1252. [default: utf-8]")
@of_files("--limit", type=click.IntRange(2), metavar="N", help="Read the first N records only.")
@of_pairs("--corrections", metavar="FILE", help="An audit's review.csv of PAIRS, filled in.")
@of_reference("--reference", needs=None, metavar="REWARD", help="detoxify, FILE.skops, FILE.ckpt or a model.")
@of_reference("--toxic-label", metavar="NAME", help="Its label for toxic texts.")
@of_reference("--nontoxic-label", metavar="NAME", help="Its label for non-toxic texts.")
@of_reference("--reference-output", metavar="NAME", help="Its reward: logit or probability. [default: logit]")
@of_reference("--reference-config", "config_folder", metavar="DIR", help="Folder with config.json and tokenizer.")
@option("--compare", multiple=True, section=BEYOND, metavar="NAME=MODEL", help="Another reward to audit; repeatable.")
@option("--deploy", section=BEYOND, metavar="FILE", help="Texts or pairs on which the reward will be used.")
@option("--deploy-column", section=BEYOND, needs="deploy", metavar="NAME", help="Its column of texts, if no pairs.")
@of_features("--encoder", metavar="MODEL", help="minilm, a model, or none. [default: minilm, if installed]")
@of_features("--pooling", metavar="NAME", help="mean, last, cls or max. [default: mean]")
@of_features("--store", metavar="DIR", help="Keep embeddings (log-probabilities) here, and reuse them.")
@of_features("--device", metavar="NAME", help="Where models run: cpu, cuda or auto. [default: cpu]")
@of_features(
    "--components",
    type=click.IntRange(0),
    default=200,
    metavar="N",
    help="Number of features of words, and of characters. [default: 200]",
)
@click.pass_context
def audit(context, **options):
    """Fit, measure and save the reward that pairs of texts, or two models, express.

    PAIRS is a TSV, CSV, JSON Lines or Parquet file of preferences. Without it, the package writes its own pairs. Texts
    become features by an encoder, by their words and by their characters. Three learners are tuned, and measured on
    held-out groups. A verdict is printed; a report (report.html), tables and the fitted pipelines are written.

    With --base, --aligned and --prompts, both models answer the prompts. The pairs are kept in DIR, so that a run with
    the same --out goes on from them. The verdict says what the alignment learned. With several aligned models, the
    tables show that by step; the rest is about the last one.

    --compare audits a reward that you have: a Hugging Face reward model, a classifier (MODEL:LABEL, or MODEL:-LABEL if
    the label is undesirable), a pipeline (FILE.skops), or module:name, a function of yours in the current folder.

    A model is a folder, or the name of a model on the Hugging Face hub. A ground-truth reward is a classifier of texts:
    detoxify or detoxify:VARIANT, a checkpoint of it (FILE.ckpt), a scikit-learn pipeline (FILE.skops), or a model.

    CONDITION compares a figure with a number, such as "reference_correlation<0.6", "times_noise<5", "kl>20",
    "pair_accuracy.low<0.6" or "DistilledIRL/starc>0.4". A figure that is not there gives an error that lists them all.
    """
    options = SimpleNamespace(**options)
    _check_models(options)
    from .audit import audit, write_audit
    from .audit.conditions import parse_condition
    from .audit.report import results_folder

    conditions = [parse_condition(text) for text in options.fail_if]
    with results_folder(options.out, force=options.force) as folder:
        with _told_what_is_kept(folder if options.base else None):
            result = audit(
                _load(options, folder),
                reference=None if options.reference is None else _reference(options),
                compare=_compared(options),
                deploy=_deployed(options),
                features=_features(options),
                random_state=options.seed,
                verbose=not options.quiet,
            )
        result.settings["command"] = shlex.join(["fairl-sk", "audit", *context.meta["arguments"]])
        report = _report(result, options)
        try:
            paths = write_audit(result, folder, texts=_texts(options))
        except OSError as error:
            _print(report)  # all that is left of the run
            raise OSError(
                f"Cannot write the results to {folder}: {error.strerror or error}. The folder is as it was; the "
                "verdict was printed. Make room or name another folder with --out, and run again."
            ) from error
    report += f"\n\nWritten to {folder}: {', '.join(path.name for path in paths)}\nThe report: {folder / 'report.html'}"
    used = [path for path in paths if path.name == f"{result.choice['use']}.skops"]
    if used:
        report += f"\nLoad the reward with fairl_sk.audit.load_pipeline({str(used[0])!r})"
    status = _print(report)
    if result.settings.get("interrupted"):
        return 130
    if options.open_page and not webbrowser.open((folder / "report.html").resolve().as_uri()):
        print("fairl-sk: warning: found no browser to open the report.", file=sys.stderr)
    return _checked(result, conditions, options.junit, status) if conditions else status


def _texts(options):
    """How files and terminal show texts of the data."""
    return "none" if options.no_texts else "masked" if options.mask else "shortened"


def _report(result, options):
    """The verdict and, if asked for, the tables, as wide as the terminal."""
    from .audit import format_audit, format_verdict
    from .audit.texts import with_texts

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    report = format_verdict(result, width)
    return f"{report}\n\n{format_audit(with_texts(result, _texts(options)), width)}" if options.verbose else report


def _checked(result, conditions, junit, status):
    """The status after the conditions of --fail-if."""
    from .audit.conditions import audit_figures, check_conditions, write_junit

    outcomes = check_conditions(conditions, audit_figures(result))
    if junit is not None:
        write_junit(junit, outcomes)
    for outcome in outcomes:
        if outcome.failed:
            status = _fail(outcome.message(), 1)
    return status


@contextmanager
def _told_what_is_kept(folder):
    """An interrupt says where the pairs of two models are kept."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is None:
            raise
        kept = f"The pairs that were finished are kept: run again with --out {folder} to go on from them"
        raise click.Abort(f"interrupted. {kept}.") from None


def _load(options, folder):
    if options.base is not None:
        return _model_pairs(options, folder)
    if options.pairs is None:
        return None
    from .datasets import load_preferences

    names = [option.name for option in audit.params if "pairs" in (getattr(option, "needs", None) or "").split(" or ")]
    return load_preferences(options.pairs, random_state=options.seed, **_given(options, names))


def _given(options, names):
    """The options among these that were given."""
    return {name: value for name in names if (value := getattr(options, name)) not in (None, ())}


def _model_pairs(options, folder):
    """Pairs of two models, kept in the folder."""
    from .audit import model_pairs
    from .datasets import load_prompts

    prompts = load_prompts(options.prompts, **_given(options, ("quoted", "encoding", "limit")))
    settings = _given(options, ("max_new_tokens", "min_new_tokens", "device", "store"))
    settings |= {"n_completions": options.completions or 1, "random_state": options.seed, "folder": folder}
    try:
        return model_pairs(options.base, list(options.aligned), prompts, verbose=not options.quiet, **settings)
    except (ValueError, OSError, ImportError) as error:
        raise type(error)(f"--base {options.base}, --aligned {', '.join(options.aligned)}: {error}") from error


def _features(options):
    """The encoder, the n-grams of words and characters, or both."""
    from .features import TextFeatures, TransformerEmbedder

    encoder = None
    if options.encoder != NO_ENCODER:
        encoder = TransformerEmbedder(
            options.encoder,
            pooling=options.pooling or "mean",
            normalize=True,  # the learners' alpha then means the same for every encoder
            device=options.device or "cpu",
            store=options.store,
            verbose=not options.quiet,
        )
    if options.components == 0:
        return encoder
    return TextFeatures(encoder, n_components=options.components, random_state=options.seed)


def _check_models(options):
    """Choose the encoder. Refuse options that do not fit together, and a classifier without a label."""
    if options.base is not None:
        if options.pairs is not None:
            raise ValueError("Found PAIRS and --base. Expected one: pairs from a file, or made by two models.")
        missing = [f"--{name}" for name in ("aligned", "prompts") if not getattr(options, name)]
        if missing:
            raise ValueError(f"Found --base without {' and '.join(missing)}. Expected --base, --aligned and --prompts.")
    if options.encoder is None:
        from .features.loading import MINILM, has_minilm

        options.encoder = MINILM if has_minilm() else NO_ENCODER
    if options.encoder == NO_ENCODER:
        if options.components == 0:
            raise ValueError("Found --components 0 without an encoder: no features are left. Expected one of the two.")
        for name in ("pooling", "store"):
            if getattr(options, name) is not None and not (name == "store" and options.base):
                raise ValueError(
                    f"Found --{name} without an encoder. Expected --encoder MODEL too. If none is installed, run "
                    f"{install_command('text')}."
                )
    kind = None
    if options.reference is not None:
        from .audit.named_rewards import reward_kind

        kind = reward_kind(options.reference)
    found = f"Found --reference {options.reference}"
    labels = [name for name in ("toxic", "nontoxic") if getattr(options, f"{name}_label") is not None]
    if len(labels) == 2:
        raise ValueError("Found --toxic-label and --nontoxic-label. Expected one: the other follows.")
    if labels and kind == "detoxify":
        raise ValueError(f"{found} with --{labels[0]}-label. Expected it without: its label is 'toxicity'.")
    if not labels and kind == "classifier":
        raise ValueError(
            f"{found}, a Hugging Face classifier. Expected --toxic-label or --nontoxic-label too, with a label of the "
            "classifier (id2label in its config.json)."
        )
    if options.config_folder is not None and kind != "detoxify":
        raise ValueError(f"{found} with --reference-config. Expected detoxify or a FILE.ckpt: others bring their own.")
    runs_nowhere = options.encoder == NO_ENCODER and kind in (None, "saved") and options.base is None
    if options.device is not None and runs_nowhere and not options.compare:
        raise ValueError("Found --device without a model that could run there: name one as --encoder or --reference.")


def _reference(options):
    """The ground-truth reward that --reference names."""
    from .audit.named_rewards import load_reward

    desirable = options.toxic_label is None
    return load_reward(
        options.reference,
        options.nontoxic_label if desirable else options.toxic_label,
        desirable,
        how_to_label="--toxic-label or --nontoxic-label",
        output=options.reference_output or "logit",
        config_folder=options.config_folder,
        device=options.device or "cpu",
        verbose=not options.quiet,
    )


def _compared(options):
    """The rewards that --compare names, loaded."""
    from .audit.named_rewards import load_compared

    models = {}
    for given in options.compare:
        name, _, model = given.partition("=")
        if not (name and model):
            raise ValueError(f"Found --compare {given}. Expected NAME=MODEL, such as --compare mine=folder/of/model.")
        if name in models:
            raise ValueError(f"Found --compare {name}= twice. Expected another name for each reward.")
        models[name] = model
    found = {}
    for name, model in models.items():
        try:
            found[name] = load_compared(model, device=options.device or "cpu", verbose=not options.quiet)
        except (ValueError, OSError, ImportError) as error:
            raise type(error)(f"--compare {name}={model}: {error}") from error
    return found


def _deployed(options):
    """The texts or pairs of --deploy."""
    from .datasets import load_preferences, load_texts

    path, column = options.deploy, options.deploy_column
    if path is None:
        return None
    try:
        if column is not None or path.lower().removesuffix(".gz").endswith(".txt"):
            texts = load_texts(path, column=column or "text")
            return {"data": texts, "provenance": {"file": os.path.basename(path), "column": column}}
        return load_preferences(path, random_state=options.seed)
    except (ValueError, OSError) as error:
        remedy = " For texts, name their column by --deploy-column." if isinstance(error, ValueError) else ""
        raise type(error)(f"--deploy {path}: {error}{remedy}") from error


@commands.command()
@click.argument("path", metavar="DIR")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--prune", is_flag=True, help="Forget the embeddings under these IDs; 'all': every one.")
def store(path, ids, prune):
    """Show what the embedding store DIR holds, or prune it."""
    if bool(ids) != prune:
        raise click.UsageError("Expected --prune and the IDs to forget, or neither.")
    from .features.store import EmbeddingStore

    embeddings = EmbeddingStore(path)
    if not embeddings.exists():
        raise ValueError(f"There is no embedding store {path}. Name the folder that was given as --store.")
    rows = embeddings.list()
    if prune:
        forgotten = [row["id"] for row in rows] if ids == ("all",) else list(ids)
        return f"Forgot {embeddings.prune(forgotten)} embeddings; the file keeps its size, new ones take their place."
    lines = [
        f"{row['id']}  {row['n_vectors']:>9} embeddings  {row['bytes'] / 2**20:>8.1f} MiB  since "
        f"{row['settings']['created']}  {row['settings'].get('_name')}  "
        + ", ".join(f"{name} {row['settings'].get(name)}" for name in ("pooling", "layer", "dtype", "max_length"))
        for row in rows
    ]
    return "\n".join(lines) or f"The store {path} is empty."
