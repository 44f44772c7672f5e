"""The verdict of an audit: at most five answers, made from its figures by the rules below. Page and terminal read it.

1. *Which reward*: the recommended one (`choice`), or none if its score is not clearly above chance.
2. *How good*: the share of held-out pairs that it orders as preferred (of outputs: the AUC) with its interval. Beside
   it the best null and, if it orders more, the best of the properties that are flagged.
3. *Learning from failures*: how much better `FailureAwareIRL` is than `MaxEntropyIRL` on the same rows. It helped if
   the interval of the difference is above 0, it hurt if it is below 0. With two models, *what was learned* instead:
   the spread of the implicit reward against noise, and the share that the reference explains.
4. *Biggest risk*: the finding that puts the order of most held-out rows in doubt, of all findings of the parts. Then,
   in brief, the largest finding of each other part, if it puts at least 1 % of the rows in doubt.
5. *Next step*: the remedy of the biggest risk; without a finding, to read the failures and use the reward. If labels
   are clearly wrong, they come first, unless the biggest risk puts all rows in doubt.
"""

import textwrap

from .choice import CHANCE, shown_reward
from .compare import compare_findings
from .label_errors import label_errors_findings
from .novelty import novelty_findings
from .sections import Finding
from .shortcuts import best_rule, described, shortcuts_findings
from .subgroups import subgroups_findings
from .tables import NOISE, NOTABLE, SHORTCUT_CLAIMS
from .unfinished import unfinished_findings

MAX_WIDTH = 0.1  # a wider interval of the main score is a finding
MAX_UNDECIDED = 0.2  # a larger share of undecided pairs is a finding
LEAST_DOUBT = 0.01  # a finding that puts fewer rows in doubt is not named beside a larger one
MAX_ERROR = 0.05  # a calibration error so far above that of chance is a finding


def verdict(result):
    """Say in five answers what an audit found.

    Parameters
    ----------
    result : Bunch
        From `audit`.

    Returns
    -------
    sentences : dict of str to str
        Each answer by its question.
    """
    third = {"Learning from failures": _failures} if result.alignment is None else {"What was learned": _learned}
    questions = {"Which reward": _which, "How good": _how_good, **third}
    return {question: answer(result) for question, answer in questions.items()} | _risk_and_step(result)


def _risk_and_step(result):
    of_parts = {find: max(found, key=_doubt) for find in FINDINGS if (found := find(result))}
    if not of_parts:
        return {
            "Biggest risk": "No check of this audit gave a warning.",
            "Next step": "Read the hardest failures, then use the reward on new texts, or in TRL (fairl_sk.export).",
        }
    worst, *others = sorted(of_parts.values(), key=_doubt, reverse=True)
    briefs = [finding.brief for finding in others if finding.doubt >= LEAST_DOUBT]
    also = f" Also: {'; '.join(briefs)}." if briefs else ""
    step, labels = worst.remedy, of_parts.get(label_errors_findings)
    if labels in others and worst.doubt < 1:
        step = f"First the labels, on which every other figure rests: {labels.remedy} Then: {worst.remedy}"
    return {"Biggest risk": worst.sentence + also, "Next step": step}


def _doubt(finding):
    return finding.doubt


def format_verdict(result, width=None):
    """Format the verdict as text, a line for each sentence.

    Parameters
    ----------
    result : Bunch
        From `audit`.
    width : int, default=None
        Columns of the terminal. None: lines of any length.

    Returns
    -------
    text : str
    """
    lines = [f"{question}: {sentence}" for question, sentence in verdict(result).items()]
    return (
        "\n".join(textwrap.fill(line, width, subsequent_indent="  ") for line in lines) if width else "\n".join(lines)
    )


def _which(result):
    choice = result.choice
    if choice["use"] is None:
        return "Use none of these rewards: their held-out scores are not clearly above chance."
    by = f"on the held-out {result.settings['rows_are']}"
    if result.choice["by"] != "preferences":
        by = "by the reference, on held-out outputs"
    clearly = next(row["clearly"] for row in choice["below_best"] if row["reward"] == choice["use"])
    if clearly:
        return f"Use {choice['use']}: {by}, it is clearly below the best reward in the fewest measures."
    simplest = choice["use"] == choice["below_best"][0]["reward"]
    why = "It is the simplest learner" if simplest else "Each simpler learner is clearly worse in some measure"
    return f"Use {choice['use']}. {why}, and no other is clearly better {by}."


def _main_score(result):
    """The measure that counts, the row of the shown reward, and that of the best null."""
    measure = "pair_accuracy" if result.settings["rows_are"] == "pairs" else "output_auc"
    name = shown_reward(result.choice)
    nulls = [row for row in result.table if row["null"] and row[measure] is not None]
    best = max(nulls, key=lambda row: row[measure].estimate)
    return measure, next(row for row in result.table if row["reward"] == name), best


def _how_good(result):
    measure, row, null = _main_score(result)
    found, of_null = row[measure], null[measure].estimate
    if measure == "pair_accuracy":
        rule = best_rule(result)
        simple = "The"
        if rule and rule["accuracy"].estimate > of_null:
            simple = f"The best simple rule, {described(rule)}, orders {rule['accuracy'].estimate:.1%}; the"
        return (
            f"{row['reward']} orders {found.estimate:.1%} of {result.settings['test_rows']} held-out pairs as "
            f"preferred (95% interval {found.low:.1%} to {found.high:.1%}). {simple} best null (a baseline that does "
            f"not read the content), '{null['reward']}', orders {of_null:.1%}."
        )
    return (
        f"{row['reward']} tells desirable from other outputs with an AUC of {found.estimate:.3f} [{found.low:.3f}, "
        f"{found.high:.3f}] on {result.settings['test_rows']} held-out outputs. The best null (a baseline that does "
        f"not read the content), '{null['reward']}', has {of_null:.3f}."
    )


def _failures(result):
    measure, found = result.choice["failures"]["measure"], result.choice["failures"]["difference"]
    word = "helped" if found.low > 0 else "hurt" if found.high < 0 else "made no clear difference"
    if result.settings["tuning"]["chosen"].get("FailureAwareIRL", {}).get("failure_weight") == 0:
        word = "was switched off by the search of parameters"
    if measure == "pair_accuracy":
        figures = f"{100 * found.estimate:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    else:
        figures = f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    name = "accuracy" if measure == "pair_accuracy" else "AUC"
    chance = " The interval reaches 0: this may be chance." if word == "made no clear difference" else ""
    return (
        f"It {word} here: the {name} of FailureAwareIRL, which has a second head for pairs that the first one nearly "
        f"ties, minus that of MaxEntropyIRL is {figures}.{chance}"
    )


def _learned(result):
    last = result.alignment["steps"][-1]
    spread = f"The implicit reward of the aligned model spreads by {last['times_noise']:.1f} times the noise"
    share = last.get("reference_share")
    if share is None:
        return f"{spread}; whether that was meant, a reference tells."
    return f"{spread}; the reference explains {share.estimate:.0%} of it [{share.low:.0%}, {share.high:.0%}]."


# ------------------------------------------------------------------------------------------------------ findings


def score_findings(result):
    """Findings on the main score: a null that is as good, and an interval that is wide."""
    measure, row, null = _main_score(result)
    found, findings = row[measure], []
    if found.low <= null[measure].estimate and found.low > CHANCE:
        findings.append(
            Finding(
                1.0,
                f"The null '{null['reward']}', which does not read the content, may be as good as {row['reward']}.",
                "Compare on outputs that this null does not tell apart, or add pairs where it is wrong.",
                f"the null '{null['reward']}' may be as good",
            )
        )
    elif found.low <= CHANCE:
        remedy = "Check the labels and which side is the preferred one, then add pairs or better features."
        findings.append(Finding(1.0, "The scores may be those of chance.", remedy, "the scores may be those of chance"))
    half = (found.high - found.low) / 2
    if 2 * half > MAX_WIDTH:
        within = f"{100 * half:.0f} points" if measure == "pair_accuracy" else f"{half:.2f}"
        findings.append(
            Finding(
                half,
                f"Only {found.n_groups} groups are held out, so the score is known to within {within} only.",
                "Add pairs of more prompts.",
                f"the score is known to within {within} only",
            )
        )
    return findings


def null_findings(result):
    """A finding for each null that surely orders more than half of the pairs, or tells the outputs apart."""
    if any(row["named"] for row in result.shortcuts["properties"]):
        return []  # flagged properties, length among them, tell how far the reward follows them
    findings = []
    for row in result.table:
        if row["null"] and row["reward"] != "shuffled labels":
            sure = [name for name in SHORTCUT_CLAIMS if row[name] and row[name].low > CHANCE + NOTABLE]
            if sure:
                alone = f"'{row['reward']}' alone {SHORTCUT_CLAIMS[sure[0]].format(row[sure[0]].estimate)}"
                findings.append(
                    Finding(
                        2 * row[sure[0]].estimate - 1,
                        f"{alone}: the reward may follow that in part.",
                        "Compare on outputs of equal length, or control for length.",
                        alone,
                    )
                )
    return findings


def undecided_findings(result):
    """A finding if the sign of many held-out margins is open."""
    pairs = result.uncertainty.get("pairs")
    if not pairs or pairs["share"] <= MAX_UNDECIDED:
        return []
    wrong, of_others = 1 - pairs["undecided_accuracy"], ""
    excess = wrong
    if pairs["decided_accuracy"] is not None:
        excess = max(0.0, pairs["decided_accuracy"] - pairs["undecided_accuracy"])
        of_others = f", of the others {1 - pairs['decided_accuracy']:.0%}"
    brief = f"in {pairs['share']:.0%} of the held-out pairs, the reward difference is within its own uncertainty"
    sentence = f"{brief.capitalize()}. {wrong:.0%} of these pairs are in the wrong order{of_others}."
    shown = shown_reward(result.choice)
    fitted = shown if shown in result.pipelines else "MaxEntropyIRL"
    remedy = (
        "Have people judge more pairs that this reward is unsure of. This command chooses them: "
        f"`fairl-sk suggest NEW_PAIRS.csv --fitted {fitted}.skops --judged PAIRS.csv --out next.csv`"
    )
    return [Finding(pairs["share"] * excess, sentence, remedy, brief)]


def calibration_findings(result):
    """A finding if the probabilities of the reward are wrong."""
    found = result.calibration
    above = found["error"] - found["by_chance"]
    if above <= MAX_ERROR:
        return []
    word = "too sure" if found["overconfidence"] > 0 else "not sure enough"
    sentence = f"The reward is {word}: its probabilities are off by {found['error']:.2f} on average."
    remedy = "Use the order of the reward, not its probabilities, or recalibrate them."
    return [Finding(above, sentence, remedy, f"the reward is {word}")]


def noise_findings(result):
    """A finding if what two models differ by is hardly more than noise."""
    last = result.alignment["steps"][-1] if result.alignment else {"times_noise": NOISE}
    if last["times_noise"] >= NOISE:
        return []
    sentence = "The implicit reward is hardly more than noise: no reward here says what the alignment taught."
    remedy = "Check that the aligned model was trained, and longer than this."
    return [Finding(1.0, sentence, remedy, "the implicit reward is hardly more than noise")]


FINDINGS = (
    unfinished_findings,
    noise_findings,
    score_findings,
    null_findings,
    shortcuts_findings,
    subgroups_findings,
    label_errors_findings,
    undecided_findings,
    calibration_findings,
    novelty_findings,
    compare_findings,
)
