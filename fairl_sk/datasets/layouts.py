"""What the columns of preference data mean: one entry of `LAYOUTS` a layout, for whoever adds one."""

import json
import re
from ast import literal_eval
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from ..escaping import from_csv_cell
from ..labels import named_side
from ..messages import read_cell, to_text
from .cells import canonical_label, is_list, texts_of_cells, to_log_prob, to_number

LOGPS_COLUMNS = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")  # TRL's names
# Columns that often hold the prompt. They are not read unless they are named: some hold something else.
PROMPT_LIKE = re.compile(
    r".*(question|instruction|query|queries|input|problem|context|history|dialog|conversation|message|request|scenario|"
    r"article|document|passage|post|ask|prompt|user).*",
    re.IGNORECASE,
)


class Row(NamedTuple):
    """One pair (texts: chosen, rejected) or one output (texts: itself)."""

    texts: tuple
    prompt: str = ""
    label: Any = None
    rewards: Any = None
    output_labels: Any = None
    log_probs: Any = None  # of chosen and rejected, by the aligned and by the base model
    strength: float | None = None
    weight: float = 1.0
    objectives: tuple = ()  # of each objective, whether the chosen output wins: 1, 0, 0.5 (a tie) or NaN
    objective_scores: tuple = ()  # of each objective, the scores (chosen, rejected)
    lost: str = ""  # why the row is of no use, if it is not


class Options(NamedTuple):
    """What the user chose of how a record becomes rows."""

    completions: str = "all"
    ties: str = "drop"
    tool_turns: bool = False
    rng: Any = None
    objectives: tuple = ()


# ---------------------------------------------------------------------------------------------- pairs, outputs


def _read_paradetox(cells, options):
    """One row for each rewrite; a row without a use for a comment that nobody rewrote."""
    toxic = to_text(cells["toxic"] or "")
    rewrites = [to_text(rewrite) for rewrite in cells["neutral"] if rewrite is not None]
    return [Row((rewrite, toxic)) for rewrite in filter(str.strip, rewrites)] or [Row((toxic, ""), lost="no rewrite")]


def _read_preference(cells, options):
    """One row, or one for each of a list of rejected outputs."""
    rejected = read_cell(cells["rejected"])
    ranked = [rejected]
    if is_list(rejected) and len(rejected) and not isinstance(next(iter(rejected)), Mapping):
        ranked = list(rejected)
    rewards, labels = _numbers(cells, "rewards"), _numbers(cells, "labels", expected=(0, 1))
    if rewards and len(ranked) > 1:
        raise ValueError(f"found {len(ranked)} rejected outputs and one reward of them. Expected one of each.")
    strength = to_number(cells["strength"], "margin") if "strength" in cells else None
    scores = _numbers(cells, "objective scores") or []
    if scores and len(ranked) > 1:
        raise ValueError(f"found {len(ranked)} rejected outputs and one score of them by an objective. Expected one.")
    rows = []
    for other in ranked:
        prompt, *texts = texts_of_cells(options, cells.get("prompt"), cells["chosen"], other)
        row = Row(tuple(texts), prompt, None, rewards, labels, _log_probs(cells), strength)
        rows.append(_scored(row, zip(scores[::2], scores[1::2], strict=True)) if scores else row)
    return rows


def _scored(row, scores):
    """The row with scores (chosen, rejected) by each objective, and which side they prefer."""
    scores = tuple(scores)
    wins = tuple((1 + np.sign(chosen - rejected)) / 2 for chosen, rejected in scores)
    return row._replace(objectives=wins, objective_scores=scores)


def _numbers(cells, part, expected=()):
    """The numbers of a part of several columns; None without it."""
    return [to_number(value, name, expected) for name, value in cells[part]] if part in cells else None


def _log_probs(cells):
    """Log-probabilities ((chosen by the aligned, by the base model), (rejected ...)), NaN where columns lack."""
    if LOGPS_COLUMNS[0] not in cells and LOGPS_COLUMNS[2] not in cells:
        return None
    sides = [names if cells.keys() >= set(names) else None for names in (LOGPS_COLUMNS[:2], LOGPS_COLUMNS[2:])]
    values = [[np.nan] * 2 if names is None else [to_log_prob(cells[name], name) for name in names] for names in sides]
    return list(zip(*values, strict=True))


def _read_unpaired(cells, options):
    prompt, text = texts_of_cells(options, cells.get("prompt"), cells["completion"])
    return [Row((text,), prompt, label=canonical_label(cells["label"]))]


# ------------------------------------------------------------------------------------------- many completions

_COMPLETION_KEYS = ("response", "answer", "completion", "generation", "text", "content", "output")
_SCORE_KEYS = ("overall_score", "score", "rating", "reward", "fine-grained_score", "rank")  # the lower rank is better


def _read_completions(cells, options):
    """A row for each two completions, or the best against another one, drawn at random."""
    completions, scores = cells["completions"], cells.get("scores")
    completions = [] if completions is None else _parsed(completions)
    scores = [None] * len(completions) if scores is None else list(_parsed(scores))
    if len(scores) != len(completions):
        raise ValueError(f"found {len(completions)} completions and {len(scores)} scores. Expected one score for each.")
    rated = [_read_completion(*both) for both in zip(completions, scores, strict=True)]
    if len(rated) < 2:
        return [Row(("", ""), lost="one completion")]
    scores = [score for _, score in rated]
    pairs = list(combinations(range(len(rated)), 2))
    if options.completions == "best":
        best = int(np.nanargmax(scores)) if not np.isnan(scores).all() else 0
        others = [n for n in range(len(rated)) if scores[n] < scores[best]] or [
            n for n in range(len(rated)) if n != best
        ]
        pairs = [(best, others[options.rng.randint(len(others))])]
    rows = []
    for pair in pairs:
        first, second = pair if not scores[pair[0]] < scores[pair[1]] else pair[::-1]
        prompt, *texts = texts_of_cells(options, cells["prompt"], rated[first][0], rated[second][0])
        row = Row(tuple(texts), prompt, rewards=[scores[first], scores[second]])
        sides = [completions[first], completions[second]]
        row = _scored(row, ([_objective_score(side, name) for side in sides] for name in options.objectives))
        if np.isnan([scores[first], scores[second]]).any():
            row = row._replace(lost="no label")
        rows += _tied(row, options) if scores[first] == scores[second] else [row]
    return rows


def _parsed(value):
    """A list, also where a cell of a table holds it as text."""
    if isinstance(value, str):
        try:
            value = read_cell(value) if not value.lstrip().startswith("[") else _literal(value)
        except (ValueError, SyntaxError):
            value = None
    if not is_list(value):
        raise ValueError("expected a list of completions (and of scores), as JSON or in a column of lists.")
    return list(value)


def _literal(text):
    try:
        return json.loads(text)
    except ValueError:
        return literal_eval(text)


def _objective_score(completion, name):
    """Score of a completion by an objective: a number beside its text, or UltraFeedback's rating."""
    found = completion if isinstance(completion, Mapping) else {}
    annotation = (found.get("annotations") or {}).get(name)
    if name not in found and not isinstance(annotation, Mapping):
        raise ValueError(f"a completion has no score {name!r}. Expected it beside its text, or in its annotations.")
    value = found[name] if name in found else annotation.get("Rating")
    return np.nan if value == "N/A" else to_number(value, name)


def _read_completion(completion, score):
    """The text and the score of a completion: a text, messages, or a dict that holds both."""
    if isinstance(completion, Mapping) and "role" not in completion and "from" not in completion:
        name = next((key for key in _SCORE_KEYS if completion.get(key) is not None), None)
        if score is None and name is not None:
            score = to_number(completion[name], name) * (-1 if name == "rank" else 1)
        key = next((key for key in _COMPLETION_KEYS if key in completion), None)
        if key is None:
            raise ValueError(f"a completion has the keys {list(completion)}. Expected one of {_COMPLETION_KEYS}.")
        completion = completion[key]
    return completion, to_number(score, "a score")


# ----------------------------------------------------------------------------------------- two and a judgement

_TIE = re.compile(r"tie\b.*|both.*|neither.*|equal.*|same|draw|=", re.IGNORECASE)


def _judged_by_words(value, names):
    """1 for the first, -1 for the second, 0 for a tie, NaN for no judgement; a side may go by its column's name."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("selected", "choices", "value") if key in value), None)
    if is_list(value):
        value = _first_ranked(list(value))
    text = "" if value is None else str(value).strip()
    if not text:
        return np.nan
    judged = 1 - 2 * names.index(text) if text in names else 0 if _TIE.fullmatch(text) else named_side(text)
    if judged is not None:
        return judged
    raise ValueError(f"the judgement is {value!r}, but expected left or right, A or B, one of {names}, or a tie.")


def _first_ranked(ranking):
    """The best of a ranking: of names in their order, or of dicts with a value and a rank; "tie" for equal ranks."""
    if ranking and isinstance(ranking[0], Mapping):
        ranks = [entry["rank"] for entry in ranking]
        best = [entry["value"] for entry in ranking if entry["rank"] == min(ranks)]
        return best[0] if len(best) == 1 else "tie"
    return ranking[0] if ranking else None


JUDGEMENTS = {  # how the winner is written: from a value to > 0 for the first, < 0 for the second, 0 for a tie
    "words": _judged_by_words,
    "index": lambda value, names: 1 - 2 * to_number(value, "the judgement", (0, 1, None)),
    "first": lambda value, names: 2 * to_number(value, "the judgement", (0, 1, None)) - 1,
    "second is positive": lambda value, names: -to_number(value, "the judgement"),
}


def _read_judged(how):
    """The reader of two outputs and judgements of which is better, written as `JUDGEMENTS` says."""

    def read(cells, options):
        names = [cells["names"][side] for side in ("first", "second")]
        if canonical_label(cells.get("escaped")) == 1:
            escaped = [part for part in ("prompt", "first", "second") if cells.get(part) is not None]
            cells = {**cells, **{part: from_csv_cell(cells[part]) for part in escaped}}
        votes = cells["judgement"]
        if isinstance(votes, str) and votes[:1] in ("[", "{"):  # in a cell of a CSV file
            votes = _literal(votes)
        votes = votes if how == "words" and is_list(votes) else [votes]
        sides = (cells["first"], cells["second"])
        rows = []
        for vote in votes or [None]:
            judged = JUDGEMENTS[how](vote, names)
            prompt, *texts = texts_of_cells(options, cells.get("prompt"), *sides)
            labels = _numbers(cells, "labels", expected=(0, 1, None))
            strength = abs(judged) if how == "second is positive" else None
            if "strength" in cells:
                strength = to_number(cells["strength"], "the strength")
            others = [JUDGEMENTS[how](value, names) for _, value in cells.get("objectives", ())]
            row = Row(tuple(texts), prompt, output_labels=labels, strength=strength)
            if others and not options.objectives:  # the layout's own: the overall judgement is one of them
                others = [judged, *others]
            row = row._replace(objectives=tuple((1 + np.sign(other)) / 2 for other in others))
            if np.isnan(judged):
                rows.append(row._replace(lost="no label"))
            elif not judged:
                rows += _tied(row, options)
            else:
                rows.append(row if judged > 0 else _turned(row))
        return rows

    return read


def _read_arena_flags(cells, options):
    """Three columns, one of which is 1: the first wins, the second wins, a tie."""
    flags = [to_number(cells[name], name, (0, 1)) for name in ("first wins", "second wins", "tie")]
    if sum(flags) != 1:
        raise ValueError(f"found {flags} for the first wins, the second wins and a tie. Expected one of them to be 1.")
    cells = {**cells, "judgement": ("a", "b", "tie")[flags.index(1)]}
    cells.update({side: _joined(cells[side]) for side in ("prompt", "first", "second")})
    return _read_judged("words")(cells, options)


def _joined(value):
    """A text; of a conversation that is a list of texts, these joined."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = _literal(value)
        except (ValueError, SyntaxError):
            return value
    if is_list(value) and all(isinstance(text, str) or text is None for text in value):
        return to_text([{"role": "user", "content": text} for text in value])
    return value


def _turned(row):
    """The row with its sides exchanged."""
    turned = {name: getattr(row, name) for name in ("texts", "rewards", "output_labels")}
    turned = {name: None if value is None else type(value)(value[::-1]) for name, value in turned.items()}
    scores = tuple(scores[::-1] for scores in row.objective_scores)
    return row._replace(**turned, objectives=tuple(1 - value for value in row.objectives), objective_scores=scores)


def _tied(row, options):
    """A tie: of no use, or either side preferred, with half a weight."""
    if options.ties == "drop":
        return [row._replace(lost="tie")]
    row = row._replace(weight=0.5)
    return [row, _turned(row)]


# ------------------------------------------------------------------------------------- pairs without judgment


def _read_candidate(cells, options):
    """The prompt and two outputs that nobody judged, as texts."""
    return [texts_of_cells(options, cells.get("prompt"), cells["first"], cells["second"])]


def _read_candidates(cells, options):
    """The same of each two completions of a list."""
    completions = [] if cells["completions"] is None else _parsed(cells["completions"])
    outputs = [_read_completion(completion, None)[0] for completion in completions]
    return [texts_of_cells(options, cells.get("prompt"), *pair) for pair in combinations(outputs, 2)]


# ----------------------------------------------------------------------------------------- annotation tools


def _flatten_label_studio(record):
    """A task of Label Studio as a flat record: its data, and the side that each annotation selected."""
    results = [
        result
        for annotation in _parsed(record["annotations"])
        if not annotation.get("was_cancelled")
        for result in annotation.get("result") or ()
    ]
    selected = [result["value"].get("selected") for result in results if "selected" in (result.get("value") or {})]
    return {**record["data"], "comparison": selected}


def _flatten_argilla(record):
    """A record of Argilla that was exported without flatten=True."""
    answers = {
        f"{question}.responses": [answer.get("value") for answer in given or ()]
        for question, given in (record["responses"] or {}).items()
    }
    return {**record["fields"], **answers}


# ---------------------------------------------------------------------------------------------------- table


class Layout(NamedTuple):
    """A layout: its columns in words, the columns of each part, and the rows of one record.

    ``needs`` and ``may_have`` name the columns of each part by regular expressions: of a tuple the first that a column
    fits, of a list all that do. A tuple of tuples holds sets of columns, of which the first that is there counts.
    Records with columns ``nested`` are flattened before.
    """

    columns: str
    needs: dict
    may_have: dict
    read: Callable
    nested: tuple = ()
    flatten: Callable | None = None
    objectives: tuple = ()

    def find_parts(self, columns, named):
        """The columns of each part by its name; None if one lacks. ``named`` are the columns that the user named."""
        free = [column for column in columns if column not in named.values()]
        parts = {}
        for part, patterns in {**self.needs, **self.may_have}.items():
            found = named.get(part) or _find_columns(patterns, free)
            if found:
                parts[part] = found
            elif part in self.needs:
                return None
        return parts


def objective_parts(name, columns, objectives):
    """Parts with the columns of named objectives, in a layout that has some: judgements, or scores of both sides."""
    layout = LAYOUTS[name]
    if "judgement" in layout.needs:
        missing = next((objective for objective in objectives if objective not in columns), None)
        found = {"objectives": tuple(objectives)}
        expected = "a column that says which output is better, as the overall judgement does"
    elif "chosen" in layout.needs:
        sides = [_score_columns(objective, columns) for objective in objectives]
        missing = next((name for name, pair in zip(objectives, sides, strict=True) if pair is None), None)
        found = {"objective scores": tuple(column for pair in sides if pair for column in pair)}
        expected = "scores of both outputs in columns such as chosen_NAME and rejected_NAME"
    elif "completions" in layout.needs:
        return {}  # the scores stand in the completions
    else:
        raise ValueError(f"objectives are {list(objectives)}, but the layout {name!r} has none. Leave them out.")
    if missing is not None:
        raise ValueError(f"objective {missing!r} is not in the columns {list(columns)}. Expected {expected}.")
    return found


def _score_columns(objective, columns):
    """The two columns with the scores of the chosen and the rejected output; None if they are not there."""
    patterns = ("chosen_{}", "rejected_{}"), ("chosen-{}", "rejected-{}"), ("{}_chosen", "{}_rejected")
    pairs = (tuple(pattern.format(objective) for pattern in pair) for pair in patterns)
    return next((pair for pair in pairs if set(pair) <= set(columns)), None)


def _find_columns(patterns, columns):
    if isinstance(patterns, list):
        return [column for column in columns if any(re.fullmatch(pattern, column) for pattern in patterns)]
    if isinstance(patterns[0], tuple):
        return next((each for each in patterns if set(each) <= set(columns)), None)
    fits = (column for pattern in patterns for column in columns if re.fullmatch(pattern, column))
    return next(fits, None)


_ANSWER = r"(?:response|answer|text|output|completion|generation|option|candidate|summary)[ _-]?"
_SIDES = {"first": (_ANSWER + "(?:a|1|left)",), "second": (_ANSWER + "(?:b|2|right)",)}
_PROMPT = {"prompt": ("prompt", "instruction", "question", "query", "input", "context")}
_JUDGED = {**_PROMPT, "escaped": ("escaped",)}  # as write_candidates writes
_REWARDS = (
    ("chosen_reward", "rejected_reward"),
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
_PREFERENCE = {
    "rewards": _REWARDS,
    "labels": (("chosen_label", "rejected_label"),),
    "strength": ("margin",),
    **{name: (name,) for name in LOGPS_COLUMNS},
}

LAYOUTS = {
    "paradetox": Layout(
        "toxic and neutral1, neutral2, ...",
        {"toxic": ("toxic", "en_toxic_comment"), "neutral": [r"neutral\d*", "en_neutral_comment"]},
        {},
        _read_paradetox,
    ),
    "sharegpt": Layout(
        "conversations, chosen and rejected, messages with from and value",
        {"prompt": ("conversations",), "chosen": ("chosen",), "rejected": ("rejected",)},
        _PREFERENCE,
        _read_preference,
    ),
    "preference": Layout(
        "chosen and rejected, optionally prompt",
        {"chosen": ("chosen",), "rejected": ("rejected",)},
        {"prompt": ("prompt",), **_PREFERENCE},
        _read_preference,
    ),
    "unpaired": Layout(
        "completion (or messages, conversations) and label, optionally prompt; or any two named by text_column and "
        "label_column",
        {"completion": ("completion", "messages", "conversations"), "label": ("label",)},
        {"prompt": ("prompt",)},
        _read_unpaired,
    ),
    "completions": Layout(
        "prompt (or instruction) and completions (or generations, answers) with scores or ranks, in them or in a list "
        "scores (or ratings)",
        {"completions": ("completions", "generations", "responses", "answers"), "prompt": ("prompt", "instruction")},
        {"scores": ("scores", "ratings", "rewards")},
        _read_completions,
    ),
    "safe-rlhf": Layout(
        "response_0, response_1, better_response_id and safer_response_id",
        {"first": ("response_0",), "second": ("response_1",), "judgement": ("better_response_id",)},
        {
            "prompt": ("prompt",),
            "objectives": (("safer_response_id",),),
            "labels": (("is_response_0_safe", "is_response_1_safe"),),
        },
        _read_judged("index"),
        objectives=("better", "safer"),
    ),
    "shp": Layout(
        "history, human_ref_A, human_ref_B and labels (1: A), optionally score_ratio",
        {"prompt": ("history",), "first": ("human_ref_A",), "second": ("human_ref_B",), "judgement": ("labels",)},
        {"strength": ("score_ratio",)},
        _read_judged("first"),
    ),
    "helpsteer": Layout(
        "response_1, response_2 and preference_strength (or overall_preference), negative where the first is better",
        {
            "first": ("response_1", "response1"),
            "second": ("response_2", "response2"),
            "judgement": ("preference_strength", "overall_preference"),
        },
        {"prompt": ("prompt", "context")},
        _read_judged("second is positive"),
    ),
    "arena": Layout(
        "conversation_a, conversation_b and winner (model_a, model_b, tie, ...)",
        {"first": ("conversation_a",), "second": ("conversation_b",), "judgement": ("winner",)},
        {},
        _read_judged("words"),
    ),
    "arena-flags": Layout(
        "prompt, response_a, response_b, winner_model_a, winner_model_b and winner_tie",
        {
            "prompt": ("prompt",),
            "first": ("response_a",),
            "second": ("response_b",),
            "first wins": ("winner_model_a",),
            "second wins": ("winner_model_b",),
            "tie": ("winner_tie",),
        },
        {},
        _read_arena_flags,
    ),
    "label-studio": Layout(
        "data and annotations, or two answers (answer1, answer2; text1, text2; ...) and comparison (left, right)",
        {**_SIDES, "judgement": ("comparison", "pairwise", "pw", "preference", "winner", "choice", "better", "label")},
        _JUDGED,
        _read_judged("words"),
        ("data", "annotations"),
        _flatten_label_studio,
    ),
    "argilla": Layout(
        "two answers (response1, response2; ...) and the responses to a question (preference.responses)",
        {**_SIDES, "judgement": (r".+\.responses",)},
        _JUDGED,
        _read_judged("words"),
        ("fields", "responses"),
        _flatten_argilla,
    ),
}

CANDIDATES = {  # pairs that nobody judged; of a column of outputs, those of one prompt make pairs
    "completions": Layout(
        "prompt and completions (or responses, answers, generations), a list",
        {"completions": ("completions", "generations", "responses", "answers")},
        _PROMPT,
        _read_candidates,
    ),
    "pairs": Layout(
        "two outputs (response1, response2; answer_a, answer_b; chosen, rejected; ...), optionally prompt",
        {"first": (*_SIDES["first"], "chosen"), "second": (*_SIDES["second"], "rejected")},
        _PROMPT,
        _read_candidate,
    ),
    "outputs": Layout(
        "prompt and completion (or response, answer, output), one output a row",
        {"prompt": _PROMPT["prompt"], "first": ("completion", "response", "answer", "output", "generation")},
        {},
        _read_candidate,
    ),
}
