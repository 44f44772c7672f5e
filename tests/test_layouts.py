"""Layouts of preference data: the same rows from every kind of source, and the exports of annotation tools and hubs."""

import csv
import json
import tempfile
import warnings
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
from conftest import chosen_first
from hypothesis import given, settings
from hypothesis import strategies as st

from fairl_sk.datasets import load_preferences
from fairl_sk.datasets.layouts import LAYOUTS
from fairl_sk.pairs import join_prompts, read_texts


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def write_csv(path, records):
    names = list(dict.fromkeys(name for record in records for name in record))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(
            {
                name: value if isinstance(value, str) or value is None else json.dumps(value)
                for name, value in record.items()
            }
            for record in records
        )
    return path


SOURCES = {
    "jsonl": lambda records, path: (
        path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, records))) and path.with_suffix(".jsonl")
    ),
    "csv": lambda records, path: write_csv(path.with_suffix(".csv"), records),
    "list": lambda records, path: records,
    "pandas": lambda records, path: pd.DataFrame(records),
    "polars": lambda records, path: polars.DataFrame(records, infer_schema_length=None, strict=False),
    "datasets": lambda records, path: datasets.Dataset.from_list(full(records)),
    "parquet": lambda records, path: (
        datasets.Dataset.from_list(full(records)).to_parquet(path.with_suffix(".parquet"))
        and path.with_suffix(".parquet")
    ),
}


def full(records):
    names = dict.fromkeys(name for record in records for name in record)
    return [{name: record.get(name) for name in names} for record in records]


def load(source, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return load_preferences(source, shuffle_sides=False, **options)


def read(bunch):
    """What a person sees of the rows."""
    columns = {name: bunch[name] for name in ("data", "groups", "target", "sample_weight", "source_index", "dropped")}
    columns |= {
        name: bunch[name] for name in ("prompt", "reference_reward", "strength", "unread") if bunch[name] is not None
    }
    columns["unread"] = sorted(bunch.unread)
    return json.loads(
        json.dumps(
            {
                name: np.asarray(value).tolist() if not isinstance(value, dict) else value
                for name, value in columns.items()
            }
        )
    )


OTHERS = [{"chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(2)]
TALK = [user("Is it far?"), assistant("Where?"), user("To the sea.")]
CASES = {
    "no prompt in a row": [
        {"prompt": "Why?", "chosen": "a", "rejected": "b"},
        {"prompt": None, "chosen": "c", "rejected": "d"},
    ],
    "no prompt in the first row": [*OTHERS, {"prompt": "Why?", "chosen": "a", "rejected": "b"}],
    "no chosen output": [*OTHERS, {"prompt": "Why?", "rejected": "b"}],
    "messages": [{"prompt": TALK, "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]}] * 2
    + [{"prompt": TALK, "chosen": [assistant("a")], "rejected": [assistant("b")]}],
    "messages, prompt twice": [
        {"prompt": TALK, "chosen": [*TALK, assistant(c)], "rejected": [*TALK, assistant("No.")]} for c in "ab"
    ],
    "conversations": [{"chosen": [*TALK, assistant(c)], "rejected": [*TALK, assistant("No.")]} for c in "ab"],
    "parts": [
        {
            "chosen": [{"role": "user", "content": [{"type": "text", "text": c}]}],
            "rejected": [{"role": "user", "content": [{"type": "text", "text": "no"}]}],
        }
        for c in "ab"
    ],
    "prompt begins both texts": [{"prompt": "Why?", "chosen": f"Why? {c}", "rejected": "Why? no"} for c in "ab"],
    "scores": [
        {"chosen": c, "rejected": "no", "score_chosen": 1.5, "score_rejected": s} for c, s in (("a", 0.5), ("b", None))
    ],
    "margin and an unread column": [
        {"chosen": c, "rejected": "no", "margin": m, "note": "x y"} for c, m in (("a", 0.5), ("b", 2.0))
    ],
    "votes": [{"prompt": "Why?", "chosen": "a", "rejected": "b"}] * 3
    + [{"prompt": "Why?", "chosen": "b", "rejected": "a"}],
    "tool calls": [
        {
            "prompt": [user("Time?")],
            "chosen": [{"role": "assistant", "content": None}, {"role": "tool", "content": "12"}, assistant(c)],
            "rejected": [assistant("no")],
        }
        for c in "ab"
    ],
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("case", CASES)
def test_the_same_rows_are_read_from_every_source(tmp_path, case, source):
    records = CASES[case]
    expected = read(load(records))
    assert len(expected["data"]) + sum(expected["dropped"].values()) == len(records)
    assert read(load(SOURCES[source](records, tmp_path / "rows"))) == expected


@pytest.mark.parametrize("source", ["pandas", "polars", "datasets"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "no chosen output"])
def test_tables_as_input_of_a_pipeline_hold_the_texts_that_the_reader_joins(tmp_path, case, source):
    bunch = load(CASES[case])
    texts = read_texts(SOURCES[source](CASES[case], tmp_path))
    assert join_prompts(bunch.prompt, bunch.data).tolist() == texts[bunch.source_index].tolist()


GUIDE = Path(__file__).parents[1] / "docs" / "data.md"
LINES = [line.split(" | ") for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith('| `"')]
EXAMPLES = [
    (line[0].strip('|` "'), [json.loads(row.strip(" |`")) for row in line[2].split("<br>")])
    for line in LINES
    if "<br>" in line[-1]
]
NOT_IN_CSV = [("label-studio", dict), ("argilla", dict), ("preference", list)]  # nested, or a list of texts
PAIRS = [("Five minutes.", "Go away."), ("My aunt does.", "Ask her.")]


def test_the_guide_shows_every_layout():
    assert {name for name, _ in EXAMPLES} == set(LAYOUTS)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("example", range(len(EXAMPLES)))
def test_the_rows_of_the_guide_are_read_as_it_says(tmp_path, example, source):
    name, records = EXAMPLES[example]
    if source == "csv" and set(NOT_IN_CSV) & {(name, type(value)) for value in records[1].values()}:
        source = "jsonl"
    bunch = load(SOURCES[source](records, tmp_path / "rows"))
    assert bunch.format == name and bunch.unread == []
    if name == "unpaired":
        assert list(zip(bunch.data, bunch.target, strict=True)) == [("Five minutes.", 1), ("Ask her.", 0)]
    else:
        assert [pair for pair in chosen_first(bunch) if pair in PAIRS] == PAIRS
    prompts = [None] if name == "paradetox" else ["Is it far?", "Who cooks?"]
    assert prompts == [None] if bunch.prompt is None else list(dict.fromkeys(bunch.prompt)) == prompts


# ------------------------------------------------------------------------------------------- what tools give


def completions(*scores, **others):
    return {"prompt": "Why?", "completions": [{"text": f"t{n}", "score": s} for n, s in enumerate(scores)], **others}


def test_completions_with_scores_are_all_pairs_or_the_best_against_another():
    records = [completions(1, 3, 2), completions(5), completions(1, None), completions()]
    bunch = load(records)
    assert chosen_first(bunch) == [("t1", "t0"), ("t2", "t0"), ("t1", "t2")]
    assert chosen_first(bunch, bunch.reference_reward) == [(3, 1), (2, 1), (3, 2)]
    assert bunch.dropped["one completion"] == 2 and bunch.dropped["no label"] == 1
    best = load([completions(1, 3, 2), {**completions(1, 3, 2), "prompt": "Who?"}] * 20, completions="best")
    assert set(chosen_first(best)) == {("t1", "t0"), ("t1", "t2")} and best.sample_weight.sum() == 40
    ranked = {"prompt": "Why?", "answers": [{"answer": "bad", "rank": 3}, {"answer": "good", "rank": 1}]}
    assert chosen_first(load([ranked, {**ranked, "prompt": "Who?"}])) == [("good", "bad")] * 2


def test_ties_are_dropped_or_read_with_half_a_weight():
    arena = [
        {
            "conversation_a": [user("Why?"), assistant("a")],
            "conversation_b": [user("Why?"), assistant("b")],
            "winner": who,
        }
        for who in ("tie", "tie (bothbad)", "model_a", "model_b")
    ]
    bunch = load(arena)
    assert bunch.dropped["tie"] == 2 and chosen_first(bunch) == [("a", "b"), ("b", "a")]
    half = load(arena, ties="half")
    assert dict(zip(chosen_first(half), half.sample_weight, strict=True)) == {("a", "b"): 2, ("b", "a"): 2}
    equal = [completions(2, 2, 1), completions(2, 2)]
    assert load(equal).dropped["tie"] == 2 and load(equal, ties="half").sample_weight.tolist() == [1, 1, 1, 1]


def test_votes_of_annotators_are_weights():
    record = {"prompt": "Why?", "response-1": "a", "response-2": "b", "better.responses.status": ["submitted"] * 4}
    argilla = [{**record, "better.responses": ["response-1", "response-1", "response-2", None]}]
    bunch = load(argilla)
    assert dict(zip(chosen_first(bunch), bunch.sample_weight, strict=True)) == {("a", "b"): 2, ("b", "a"): 1}
    assert bunch.dropped["no label"] == 1 and bunch.unread == ["better.responses.status"]
    ranks = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}]
    for answers in ([ranks], [["response-2", "response-1"]], [["response-2"]]):  # of one annotator
        assert chosen_first(load([{**record, "better.responses": answers}, *argilla]))[0] == ("b", "a")


@pytest.mark.parametrize(
    ("word", "side"),
    [
        ("left", 0),
        ("Right", 1),
        ("A", 0),
        ("b", 1),
        ("1", 0),
        (2, 1),
        ("answer2", 1),
        ("model_a", 0),
        ("A is better", 0),
    ]
    + [({"selected": "left"}, 0), ({"choices": ["right"]}, 1), ("tie", None), ("both bad", None), ("Neither", None)],
)
def test_words_for_who_wins(word, side):
    records = [{"answer1": f"a{n}", "answer2": f"b{n}", "comparison": word} for n in range(2)]
    if side is None:
        with pytest.raises(ValueError, match="0 usable rows are left of 2 .dropped: tie: 2"):
            load(records)
    else:
        assert (
            chosen_first(load(records)) == [("a0", "b0"), ("a1", "b1")] if side == 0 else [("b0", "a0"), ("b1", "a1")]
        )


def test_strengths_and_several_objectives():
    sides = {"prompt": "Why?", "response_1": "a", "response_2": "b"}
    bunch = load([{**sides, "preference_strength": strength} for strength in (-3, 0, 1, None)])
    assert chosen_first(bunch) == [("a", "b"), ("b", "a")] and bunch.strength.tolist() == [3, 1]
    assert bunch.dropped["tie"] == 1 and bunch.dropped["no label"] == 1
    safe = {"response_0": "a", "response_1": "b", "is_response_0_safe": False, "is_response_1_safe": True}
    ids = [(0, 1), (1, 1), (1, None)]
    records = [
        {"prompt": f"p{n}", **safe, "better_response_id": b, "safer_response_id": s} for n, (b, s) in enumerate(ids)
    ]
    for options in ({"shuffle_sides": False}, {"shuffle_sides": True}):
        bunch = load_preferences(records, **options)
        safer = [first == "b" for first, _ in bunch.data]  # the first is safer where it is b
        assert bunch.objective_names == ["better", "safer"] and bunch.objective_scores is None
        np.testing.assert_array_equal(bunch.targets[:, 1], [*safer[:2], np.nan])
        np.testing.assert_array_equal(bunch.targets[:, 0], bunch.target)
        assert (bunch.output_labels == (bunch.data == "b")).all()


# --------------------------------------------------------------------------------------- what is not read


NAMES = [
    "question",
    "Instruction",
    "query",
    "user_input",
    "problem_description",
    "context",
    "dialogue_history",
    "question_body",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", ["preference", "unpaired"])
def test_a_prompt_under_another_name_is_named_or_warned_of(name, format):
    sides = [{"chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(12)]
    if format == "unpaired":
        sides = [{"completion": f"text {n}", "label": n % 2} for n in range(12)]
    records = [{name: f"Describe item {n // 4}.", "id": n, **side} for n, side in enumerate(sides)]
    with pytest.warns(UserWarning, match=f"'{name}' .3 distinct values.* Pass prompt_column='{name}': .*may leak"):
        bunch = load_preferences(records)
    assert bunch.unread == [name, "id"] and f"columns not read: {name}, id" in bunch.DESCR
    bunch = load_preferences(records, prompt_column=name)
    assert len(set(bunch.groups)) == 3 and bunch.unread == ["id"] and bunch.prompt[0] == "Describe item 0."


def test_named_columns():
    records = [{"Q": f"q{n}", "win": f"w{n}", "lose": f"l{n}"} for n in range(2)]
    bunch = load_preferences(
        records, prompt_column="Q", chosen_column="win", rejected_column="lose", shuffle_sides=False
    )
    assert bunch.data.tolist() == [["w0", "l0"], ["w1", "l1"]] and bunch.prompt.tolist() == ["q0", "q1"]
    assert bunch.unread == [] and bunch.format == "preference"


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        (
            OTHERS,
            {"prompt_column": "chozen"},
            r"no column 'chozen', only \['chosen', 'rejected'\]. Did you mean 'chosen'",
        ),
        (OTHERS, {"prompt_column": "chosen", "chosen_column": "chosen"}, "Column 'chosen' is named twice"),
        (
            OTHERS,
            {"chosen_column": "chosen", "format": "unpaired"},
            "chosen_column, rejected_column and logps_columns with",
        ),
        (OTHERS, {"ties": "keep"}, "ties is 'keep', but expected 'drop' or 'half'"),
        (OTHERS, {"completions": "worst"}, "completions is 'worst', but expected 'all' or 'best'"),
        ({"a": 1}, {}, r"Found dict with the keys \['a'\]. Expected the path of a file, .*: pass one of its values"),
        (3, {}, "Found int. Expected the path of a file"),
        ([*OTHERS, "text"], {}, "Found str 'text' in row 2. Expected a dict"),
        ([], {}, "the table is empty"),
        (
            pd.DataFrame([["a", "b", "c"]], columns=["chosen", "rejected", "chosen"]),
            {},
            "column names occur twice: .'chosen'",
        ),
        ([*OTHERS, {"completion": "a", "label": 1}], {}, "row 2: the record has the layout 'unpaired'"),
        ([*OTHERS, {"chosen": [{"content": "a"}], "rejected": []}], {}, "row 2: Found a message without a role"),
        (
            [*OTHERS, {"chosen": [{"role": "user", "content": [{"type": "text"}]}], "rejected": []}],
            {},
            r"row 2: Found a part without text at .*Expected {'type': 'text', 'text': ...}",
        ),
        ([{"prompt": "p", "completions": "none"}] * 2, {}, "row 0: expected a list of completions"),
        ([{"prompt": "p", "completions": ["a", "b"], "scores": [1]}] * 2, {}, "found 2 completions and 1 scores"),
        (
            [{"prompt": "p", "completions": [{"x": 1}, {"x": 2}]}],
            {},
            r"a completion has the keys \['x'\]. Expected one",
        ),
        (
            [{"answer1": "a", "answer2": "b", "comparison": "maybe"}],
            {},
            "the judgement is 'maybe', but expected left or",
        ),
        (
            [{"chosen": "a", "rejected": ["b", "c"], "score_chosen": 1, "score_rejected": 0}],
            {},
            "2 rejected outputs and one",
        ),
    ],
)
def test_bad_input_is_refused_with_place_and_remedy(records, options, message):
    with pytest.raises(ValueError, match=message):
        load_preferences(records, **options)


def test_ten_megabytes_in_a_cell(tmp_path):
    long = "word " * 2_000_000
    records = [{"chosen": long, "rejected": "b"}, {"chosen": f"[{long}", "rejected": json.dumps([user(long)])[:-1]}]
    assert load(SOURCES["csv"](records[:1] + OTHERS, tmp_path / "rows")).data[0, 0] == long
    with pytest.raises(ValueError, match="row 1: Found a text that begins like a list of messages"):
        load(records)


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="[\r\0"), min_size=1, max_size=8).map(
    "x{}".format
)


def filled(name, record, number, prompt, chosen, rejected):
    """A record of an example of the guide with other texts; of single outputs, every second one is undesirable."""
    text = json.dumps(record)
    for old, new in (("Is it far?", prompt), ("Five minutes.", f"c {chosen}"), ("Go away.", f"r {rejected}")):
        escaped = json.dumps(new)[1:-1]
        text = text.replace(old, json.dumps(escaped)[1:-1] if name == "arena-flags" else escaped)
    return {**json.loads(text), **({"label": number % 2 == 0} if name == "unpaired" else {})}


def written(bunch):
    """Records of a Bunch, one for each vote."""
    prompts = [""] * len(bunch.data) if bunch.prompt is None else bunch.prompt
    for prompt, texts, label, weight in zip(prompts, bunch.data, bunch.target, bunch.sample_weight, strict=True):
        texts = {"completion": texts, "label": int(label)} if bunch.format == "unpaired" else texts
        sides = texts if isinstance(texts, dict) else dict(zip(("chosen", "rejected"), texts, strict=True))
        yield from [{"prompt": prompt, **sides}] * int(weight)


@pytest.mark.parametrize("example", range(len(EXAMPLES)))
@settings(max_examples=5, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL, CELL), min_size=2, max_size=6, unique=True), kind=st.sampled_from("jc"))
def test_what_was_read_and_written_again_is_read_as_the_same(example, rows, kind):
    """From a file of any layout to a Bunch, a file of its rows, and a Bunch."""
    name, (record, _) = EXAMPLES[example]
    made = [filled(name, record, number, *row) for number, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows")
        try:
            first = load(SOURCES["jsonl"](made, path))
        except ValueError as error:
            assert "usable rows" in str(error)
            return
        assert first.format == name and len(first.data) + sum(first.dropped.values()) == len(made)
        second = load(SOURCES["jsonl" if kind == "j" else "csv"](list(written(first)), path))
    for part in ("data", "prompt", "target", "groups", "sample_weight"):
        assert np.array_equal(first[part], second[part])


# ------------------------------------------------------------------------------------------- what people bring


def test_tables_of_pyarrow_and_tables_not_computed_yet_are_read_and_splits_are_named():
    table = pd.DataFrame(OTHERS)
    expected = load(table).data.tolist()
    for source in (
        pyarrow.Table.from_pandas(table),
        polars.DataFrame(OTHERS).lazy(),
        datasets.Dataset.from_list(OTHERS).to_iterable_dataset(),
        (record for record in OTHERS),
    ):
        assert load(source).data.tolist() == expected
    splits = datasets.DatasetDict(train=datasets.Dataset.from_list(OTHERS))
    with pytest.raises(ValueError, match=r"Found DatasetDict with the keys \['train'\].*pass one of its values"):
        load_preferences(splits)


def test_missing_prompts_of_every_type_of_column_are_none():
    for kind in ("object", "string", "category", "string[pyarrow]"):
        prompts = pd.Series([None, None, "", "Why?"]).astype(kind)
        table = pd.DataFrame({"prompt": prompts, "chosen": list("abcd"), "rejected": list("efgh")})
        assert load(table.set_index(pd.Index([3, 3, 0, 1]))).prompt.tolist() == ["", "", "", "Why?"]


@pytest.mark.parametrize("source", ["list", "csv"])
def test_parts_that_are_skipped_are_counted_in_cells_of_text_too(tmp_path, source):
    talk = [user([{"type": "image"}, {"type": "text", "text": "Why?"}])]
    records = [{"chosen": [*talk, assistant(c)], "rejected": [*talk, assistant("no")]} for c in "ab"]
    with pytest.warns(UserWarning, match="skipped 4 parts of messages that are no text"):
        bunch = load_preferences(SOURCES[source](records, tmp_path / "rows"))
    assert "4 parts of messages that are no text were skipped" in bunch.DESCR


def test_numbers_of_questions_are_no_prompts():
    records = [{"question_id": n // 2, "chosen": f"a{n}", "rejected": "b"} for n in range(4)]
    for source in (records, pd.DataFrame(records)):
        assert load_preferences(source).unread == ["question_id"]  # a warning would be an error


def test_a_list_with_one_completion_in_every_record_leaves_nothing():
    records = [{"prompt": "p", "completions": [{"text": "a", "score": 1}]}] * 2
    with pytest.raises(ValueError, match="0 usable rows are left of 2 .dropped: one completion: 2.*at least 2. Check"):
        load_preferences(records)
