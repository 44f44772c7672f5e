"""An audit as plain text, for a terminal or a file; `format_audit` is what the command line prints."""

import textwrap

from ..extras import install_command
from ..features.loading import has_minilm
from .compare import compare_section
from .learning_curve import learning_curve_section
from .measures import MEASURES
from .novelty import novelty_section
from .sections import Picture, Section, Table, interval_text
from .training import draw_steps
from .uncertainty import UNDECIDED

NOTABLE = 0.05  # a null whose score surely differs from 1/2 by more than this may explain the preferences
NOISE = 2.0  # a spread of less than so many times the noise says little
FAVORS = "pairs favor the ratio of the models that wrote them or learned from them, whatever reward it holds"
SHORTCUT_CLAIMS = {
    "pair_accuracy": "orders {:.1%} of the pairs",
    "output_auc": "tells the outputs apart with an AUC of {:.3f}",
}


def format_audit(result, width=None):
    """Format an audit as text: which reward to use, an overview, then one section per question.

    Parameters
    ----------
    result : Bunch
        From `audit`.
    width : int, default=None
        Columns of the terminal. Wider tables are split into several. None: lines of any length.

    Returns
    -------
    text : str
    """
    sections = (_alignment, _steps, _words, _choice, _overview, _scores, _kinds, _subtypes, _uncertainty, _beyond)
    blocks = [block for section in sections for block in section(result)]
    return "\n\n".join(_table(b, width) if isinstance(b, list) else _paragraph(b, width) for b in blocks)


def _alignment(result):
    """Whether what the aligned model learned is what was meant."""
    found = result.alignment
    if found is None:
        return []
    last = found["steps"][-1]
    null = f"{last['null_spread']:.2f} (of {found['n_draws']} draws: {last['null_low']:.2f} to {last['null_high']:.2f})"
    lines = [
        "Is what was learned what was meant?",
        f"The implicit reward of the base model's {found['outputs']} outputs spreads by {last['spread']:.2f} nats, "
        f"{last['times_noise']:.1f} times the noise: {null}.",
    ]
    if last["times_noise"] < NOISE:
        lines.append("That is hardly more than noise: no reward below says what was learned.")
    if found["reference"]:
        share, correlation = last["reference_share"], last["reference_correlation"]
        compared = "within prompts" if found["within_prompts"] else "over all prompts"
        lines.append(
            f"The reference explains {share.estimate:.0%} of its variance [{share.low:.0%}, {share.high:.0%}] "
            f"(correlation {interval_text(correlation)}, {compared})."
        )
    else:
        lines.append("Whether that was meant, a reference tells: give one with --reference.")
    kl = f"KL divergence from the base model: {last['kl']:.2f} +- {last['kl_error']:.2f} nats an output"
    lines.append(f"{kl} ({'with' if found['end_token'] else 'without'} end tokens).")
    return ["\n".join(lines)]


def _steps(result):
    """The figures of each aligned model, if there are several."""
    found = result.alignment
    if found is None or len(found["steps"]) < 3:
        return []
    columns = {
        "spread": lambda row: f"{row['spread']:.2f}" if "spread" in row else "-",
        "times the noise": lambda row: f"{row['times_noise']:.1f}" if "times_noise" in row else "-",
        "KL": lambda row: f"{row['kl']:.2f} +- {row['kl_error']:.2f}" if "kl" in row else "-",
        "reference explains": lambda row: interval_text(row.get("reference_share")),
        "desirable": lambda row: interval_text(row.get("desirable")),
        "distance": lambda row: interval_text(row.get("distance")),
    }
    rows = [["step", *columns]]
    rows += [[row["step"], *(column(row) for column in columns.values())] for row in found["steps"]]
    shown = [0, *(c for c in range(1, len(rows[0])) if any(row[c] != "-" for row in rows[1:]))]
    return [
        "By step (distance: STARC between the distilled reward and that of the last step):",
        [[row[c] for c in shown] for row in rows],
    ]


def _words(result):
    """What else the alignment changed, word by word and token by token."""
    found = result.alignment
    if found is None:
        return []
    title, rest = "What the alignment changed", "the implicit reward"
    if found["reference"]:
        title, rest = "What else the alignment changed", "what the reference leaves of the implicit reward"
    what = {
        "word": ("the base model's outputs with a word less those without it, at equal length", ""),
        "token": ("the share of a token less that of other tokens", f" in {found['token_outputs']} of these outputs"),
    }
    blocks = []
    for unit, (difference, where) in what.items():
        tried, changed = f"of {found[f'{unit}s_tried']} {unit}s tried{where}, by {rest}, in nats", found[f"{unit}s"]
        if changed and unit not in changed[0]:  # a report without texts
            blocks.append(f"{title}: {len(changed)} {unit}s clearly, which are not shown ({tried}).")
        elif changed:
            intervals = "95% intervals for all of them together, noise included"
            blocks += [f"{title}: {difference} ({tried}; {intervals}):", _changes(changed, unit)]
        else:
            blocks.append(f"{title}: no {unit} clearly ({tried}).")
    return blocks


def _changes(found, unit):
    """A table of words or of tokens; these begin with spaces, which quotes show."""
    rows = [[unit, {"word": "outputs", "token": "occurrences"}[unit], "change"]]
    for row in found:
        name = row[unit] if unit == "word" else repr(row[unit])
        rows.append([name, f"{row[rows[0][1]]}", f"{row['change']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"])
    return rows


def alignment_section(result):
    """The section on what an aligned model learned; None where no two models were audited."""
    if result.alignment is None:
        return None
    title, *lines = _alignment(result)[0].splitlines()
    tables, blocks = [], [*_steps(result), *_words(result)]
    for block, after in zip(blocks, [*blocks[1:], ""], strict=True):
        if isinstance(after, list):
            tables.append(Table(block.rstrip(":"), after[0], after[1:], of_texts=after[0][0] in ("word", "token")))
        elif isinstance(block, str):
            lines.append(block)
    steps, pictures = result.alignment["steps"], []
    if len(steps) > 2:
        alt = f"What the alignment learned, by step: {len(steps) - 1} aligned models. The last one's implicit reward "
        alt += f"spreads by {steps[-1]['times_noise']:.1f} times the noise."
        pictures = [Picture("training", lambda: draw_steps(steps), alt)]
    return Section(title, "\n".join(lines), pictures, tables)


def _choice(result):
    """Which reward to use, and how sure that is."""
    use, rows = result.choice["use"], result.choice["below_best"]
    measures = [name for name in MEASURES if name in rows[0]]
    table = [["below the best by", *(name.replace("_", " ") for name in measures)]]
    for row in rows:
        table.append([row["reward"], *("best" if row[name] is None else interval_text(row[name]) for name in measures)])
    held_out, left_out = "held-out preferences", []
    if result.choice["by"] != "preferences":
        held_out = f"held-out outputs, by the reference: {FAVORS}"
    elif names := result.choice["left_out"]:
        left_out = [f"{' and '.join(names)} {'take' if len(names) > 1 else 'takes'} no part: {FAVORS}."]
    if use is None:
        return ["Use none of these rewards: their held-out scores are not clearly above chance.", *left_out]
    worse = next(row["clearly"] for row in rows if row["reward"] == use)
    return [
        f"Use {use}, the simplest reward that is clearly below the best in {worse or 'none'} of these measures "
        f"({held_out}, with 95% intervals):",
        table,
        *left_out,
    ]


def _overview(result):
    settings = result.settings
    text = (
        f"{settings['rows']} {settings['rows_are']}, {settings['groups']} groups; {settings['train_rows']} to train, "
        f"{settings['test_rows']} held out (whole groups)."
    )
    dropped = ", ".join(f"{count} {reason}" for reason, count in settings["dropped"].items() if count)
    lines = [text, f"Dropped: {dropped}."] if dropped else [text]
    return ["\n".join([*lines, _features(settings), _tuning(settings["tuning"])])]


def _features(settings):
    """Which features were used, and how to get an encoder."""
    blocks = settings["blocks"]
    if not blocks:
        return f"Features: {settings['features']}."
    found = f"Features: {', '.join(f'{name} ({size})' for name, size in blocks.items())}."
    if "encoder" in blocks or has_minilm():
        return found
    return f"{found} For an encoder, run {install_command('text')}."


def _tuning(tuning):
    """Where the parameters of the learners come from."""
    chosen = [
        f"{name}({', '.join(f'{parameter}={value!r}' for parameter, value in parameters.items())})"
        for name, parameters in tuning["chosen"].items()
    ]
    return f"Parameters: {tuning['how']}{': ' if chosen else ''}{', '.join(chosen)}."


def _scores(result):
    """The measures of the learners and of the nulls (baselines that do not read the content), and what they mean."""
    settings = result.settings
    names = [name for name in MEASURES if any(row[name] is not None for row in result.table)]
    rows = [["reward", *(name.replace("_", " ") for name in names)]]
    for row in result.table:
        if row["null"] and ["nulls"] not in [cells[:1] for cells in rows]:
            rows.append(["nulls", *[""] * len(names)])
        rows.append([row["reward"], *(interval_text(row[name]) for name in names)])
    of_outputs = {"pairs": "chosen vs. rejected", "outputs": "desirable vs. undesirable"}[settings["rows_are"]]
    notes = [f"Intervals: {settings['intervals']}.", f"output: {of_outputs}."]
    if "label_f1" in names:
        notes.append("label: toxic vs. non-toxic, by the known label of each output.")
    if "starc" in names:
        notes.append(f"STARC: distance to the reference reward, 0 to 1, lower is better; {settings['starc']}.")
        notes.append(f"Reference: {_reference(settings['reference'])}.")
    return [rows, "\n".join([*notes, *_shortcuts(result.table)])]


def _reference(reference):
    if not isinstance(reference, dict):
        return str(reference)
    shown = ("reward", "model", "label", "desirable", "output")
    return ", ".join(f"{name} {reference[name]}" for name in shown if name in reference)


def _shortcuts(table):
    """A line for each null that orders the pairs, or tells the outputs apart."""
    for row in table:
        if not row["null"] or row["reward"] == "shuffled labels":
            continue
        sure = [name for name in SHORTCUT_CLAIMS if row[name] and row[name].low > 0.5 + NOTABLE]
        if sure:
            claim = SHORTCUT_CLAIMS[sure[0]].format(row[sure[0]].estimate)
            rows_are = "outputs" if row["pair_accuracy"] is None else "pairs"
            yield (
                f"Shortcut: '{row['reward']}' alone {claim}; a reward may have learned no more than that. Compare on "
                f"{rows_are} of equal length, or control for it."
            )


def _kinds(result):
    header = ["kind", "pairs", "share", *result.pipelines]
    rows = [
        [row["kind"], f"{row['pairs']}", f"{row['share']:.1%}", *(_number(row[name]) for name in result.pipelines)]
        for row in result.kinds
    ]
    title = "Pair accuracy by kind of held-out pair (rejected -> chosen; T: toxic, NT: not toxic):"
    return [title, [header, *rows]] if rows else []


def _subtypes(result):
    header = ["sub-type", "outputs", *result.pipelines]
    rows = [
        [row["subtype"], f"{row['outputs']}", *(interval_text(row[name]) for name in result.pipelines)]
        for row in result.subtypes
    ]
    title = "AUC between non-toxic outputs and toxic outputs of one sub-type (held out):"
    return [title, [header, *rows]] if rows else []


def _uncertainty(result):
    """What the data do not determine. Outputs by row number only: their texts may be offensive."""
    found = result.uncertainty
    title = f"Uncertainty: what the {result.settings['rows_are']} do not determine"
    if found["left_out"] is not None:
        return [f"{title}: not computed, {found['left_out']}."]
    blocks = [
        f"{title}, by the standard deviations of MaxEntropyIRL's reward (LaplaceReward with alpha "
        f"{found['alpha']:.2g}, chosen by evidence)."
    ]
    if pairs := found["pairs"]:
        blocks.append(
            f"{pairs['undecided']} held-out pairs ({pairs['share']:.1%}) are undecided: their margins are within "
            f"{UNDECIDED:g} posterior standard deviations of 0. Pair accuracy on these: "
            f"{_number(pairs['undecided_accuracy'])}; on the others: {_number(pairs['decided_accuracy'])}."
        )
    names = [name for name in ("side", "reward", "std", "low", "high") if found["outputs"][0].get(name) is not None]
    rows = [
        [f"{row['index']}", *(row[name] if name == "side" else f"{row[name]:.2f}" for name in names)]
        for row in found["outputs"]
    ]
    return [
        *blocks,
        "The held-out outputs with the most uncertain rewards. 0: the mean training output; 1: the standard deviation "
        "of held-out rewards.",
        [["row", *names], *rows],
        f"Range (low to high): {found['ranges']}.",
    ]


def _number(value):
    return "-" if value is None else f"{value:.3f}"


def _paragraph(text, width):
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines()) if width else text


def _table(rows, width):
    """Aligned columns. Columns beyond the width go to another table below, beside the first column again."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    blocks = [[0]]
    for column in range(1, len(widths)):
        if width and len(blocks[-1]) > 1 and sum(widths[c] + 2 for c in blocks[-1]) + widths[column] > width:
            blocks.append([0])
        blocks[-1].append(column)
    lines = [
        [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in block[1:])]
        for block in blocks
        for row in (*rows, [""] * len(widths))
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in lines).rstrip()


def _beyond(result):
    """What the report says beyond the held-out rows, in words."""
    made = (learning_curve_section(result), novelty_section(result), compare_section(result))
    return [f"{section.title}\n{section.words}" for section in made if section is not None]
