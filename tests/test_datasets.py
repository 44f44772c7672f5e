"""Preference files: every format, every bad file and every odd line of `load_preferences`."""

import csv
import gzip
import json
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from conftest import chosen_first
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import FunctionTransformer

from fairl_sk import PairTransformer
from fairl_sk.datasets import load_preferences, load_prompts
from fairl_sk.pairs import join_prompts

LONG = ("x" * 200_000, 'two\nlines with "quotes"\r\nand more')  # csv's own limit is less than that
PAIRS = [("good morning", "go away"), LONG, ('a "fine" day', "no, never")]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def write_jsonl(path, records):
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def write_table(path, header, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if ".tsv" in path.name.lower() else ",")
        writer.writerows([header, *rows])
    return path


def load_jsonl(tmp_path, records, **parameters):
    return load_preferences(write_jsonl(tmp_path / "pairs.jsonl", records), **parameters)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", ["p.csv", "p.TSV", "p.csv.gz", "p.jsonl", "p.json", "p.jsonl.gz", "p.parquet"])
def test_every_kind_of_file_gives_the_same_pairs(tmp_path, name, listed):
    """JSON as lines and as one list."""
    path, records = tmp_path / name, [{"chosen": chosen, "rejected": rejected} for chosen, rejected in PAIRS]
    if name == "p.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif "json" in name:
        text = json.dumps(records, indent=1) if listed else "\n\n".join(map(json.dumps, records))
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    else:
        write_table(path, ["chosen", "rejected"], PAIRS)
    bunch = load_preferences(path)
    assert chosen_first(bunch) == PAIRS and "3 preference pairs in 3 groups" in bunch.DESCR
    assert bunch.format == "preference" and bunch.data.shape == (3, 2) and bunch.target.sum() == 1
    assert bunch.source_index.tolist() == [0, 1, 2] and sum(bunch.dropped.values()) == 0
    assert bunch.prompt is bunch.reference_reward is bunch.output_labels is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings_and_byte_order_marks(tmp_path, encoding):
    path = write(tmp_path / "p.csv", "chosen,rejected\ncafé,bar\nü,u\n", encoding)
    bunch = load_preferences(path, encoding="utf-8" if encoding == "utf-8-sig" else encoding)
    assert chosen_first(bunch) == [("café", "bar"), ("ü", "u")]


def test_literal_quotes_in_a_tsv(tmp_path):
    path = write(tmp_path / "p.tsv", 'chosen\trejected\n"a" b\tc\nd\t"e\n')
    with pytest.raises(ValueError, match=r"line 2: broken record .* pass quoted=False"):
        load_preferences(path)
    assert chosen_first(load_preferences(path, quoted=False)) == [('"a" b', "c"), ("d", '"e')]


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.jsonl.gz"])
def test_limit_counts_records_and_reads_no_further(tmp_path, name):
    """Behind the third record the file is broken; far behind it no text, and the end of the gzip file is missing."""
    pairs = [("a", "b"), ("c", "d"), ("e", "f")]
    rows = [f"{chosen},{rejected}" for chosen, rejected in [("chosen", "rejected"), *pairs]]
    if "json" in name:
        rows = [json.dumps({"chosen": chosen, "rejected": rejected}) for chosen, rejected in pairs]
    data = "\n".join([*rows, "broken", ""]).encode() + b" " * 2**16 + np.random.default_rng(0).bytes(2**20)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data)[: -(2**19)] if name.endswith("gz") else data)
    assert chosen_first(load_preferences(path, limit=3)) == pairs
    with pytest.raises(ValueError, match="line [45]|damaged"):
        load_preferences(path)
    with pytest.raises(ValueError, match="limit is 0"):
        load_preferences(path, limit=0)


def test_half_of_the_chosen_outputs_come_first_unless_told_otherwise(tmp_path):
    records = [{"chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(101)]
    default, other = load_jsonl(tmp_path, records), load_jsonl(tmp_path, records, random_state=1)
    assert default.target.sum() == 50 and not np.array_equal(default.target, other.target)
    assert all(chosen.startswith("good") for chosen, _ in chosen_first(default))
    assert load_jsonl(tmp_path, records, shuffle_sides=False).target.tolist() == [1] * 101


def test_paradetox(tmp_path):
    header = ["toxic", "neutral1", "neutral2", "neutral3"]
    rows = [["bad one", "good one", "fine one", ""], ["bad two", "good two", " ", ""], ["bad three", "", "", ""]]
    bunch = load_preferences(write_table(tmp_path / "p.tsv", header, rows))
    assert chosen_first(bunch) == [("good one", "bad one"), ("fine one", "bad one"), ("good two", "bad two")]
    assert bunch.groups.tolist() == [0, 0, 1] and bunch.source_index.tolist() == [0, 0, 1]
    assert bunch.format == "paradetox" and bunch.dropped["no rewrite"] == 1


def test_explicit_prompt_rewards_and_labels(tmp_path):
    labels = {"chosen_label": True, "rejected_label": 0}
    records = [
        {"prompt": "p", "chosen": "a b", "rejected": "a c", "score_chosen": 2, "score_rejected": "0.5", **labels},
        {"prompt": None, "chosen": "a b", "rejected": "a d", "score_chosen": None, "score_rejected": -1.5, **labels},
    ]
    bunch = load_jsonl(tmp_path, records)
    assert bunch.prompt.tolist() == ["p", ""]
    assert chosen_first(bunch) == [("a b", "a c"), ("a b", "a d")]
    rewards = chosen_first(bunch, bunch.reference_reward)
    assert rewards[0] == (2, 0.5) and np.isnan(rewards[1][0]) and rewards[1][1] == -1.5
    assert chosen_first(bunch, bunch.output_labels) == [(1, 0), (1, 0)]
    renamed = [{"chosen": c, "rejected": c + "!", "chosen_reward": 1, "rejected_reward": 0} for c in "ab"]
    bunch = load_jsonl(tmp_path, renamed)
    assert chosen_first(bunch, bunch.reference_reward) == [(1, 0), (1, 0)]


LOGPS = ["chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"]


@pytest.mark.parametrize("names", [LOGPS, ["c", "r", "base c", "base r"]])
def test_log_probabilities_that_others_wrote_are_implicit_rewards(tmp_path, names):
    rows = [(-1.0, -8, -2.5, -7), (-3, -4, -3.5, "-5"), (-1, None, -1, -2)]
    records = [
        {"chosen": f"a{n}", "rejected": f"b{n}", **dict(zip(names, row, strict=True))} for n, row in enumerate(rows)
    ]
    options = {} if names is LOGPS else {"logps_columns": names}
    bunch = load_jsonl(tmp_path, records, **options)
    rewards = chosen_first(bunch, bunch.implicit_rewards)
    assert rewards[:2] == [(1.5, -1), (0.5, 1)] and rewards[2][0] == 0 and np.isnan(rewards[2][1])
    assert bunch.log_probs.shape == (3, 2, 2)
    assert chosen_first(bunch, bunch.log_probs[..., 1]) == [(-2.5, -7), (-3.5, -5), (-1, -2)]
    base_only = [{name: value for name, value in record.items() if name not in names[:2]} for record in records]
    if names is LOGPS:
        bunch = load_jsonl(tmp_path, base_only)
        assert bunch.implicit_rewards is None and np.isnan(bunch.log_probs[..., 0]).all()
    else:
        with pytest.raises(ValueError, match="no column 'c', only .'chosen', .*Name one of them"):
            load_jsonl(tmp_path, base_only, **options)
        with pytest.raises(ValueError, match="logps_columns is 'c', but expected 4 names, of chosen_logps, "):
            load_jsonl(tmp_path, records, logps_columns="c")
    for bad in (0.5, "-inf", "low"):
        with pytest.raises(ValueError, match="line 1: chosen_logps is .*expected a (log-probability|number)"):
            load_jsonl(tmp_path, [{**records[0], names[0]: bad}, *records[1:]], **options)


def message(role, content):
    return {"role": role, "content": content}


def test_of_two_conversations_the_last_message_is_no_prompt(tmp_path):
    """Where one side is the beginning of the other; the other forms are compared with tables below."""
    said = [message("user", "hi"), message("assistant", "hello")]
    records = [{"chosen": said, "rejected": [*said, message("assistant", "x")]}, OTHER]
    bunch = load_jsonl(tmp_path, records)
    assert bunch.prompt.tolist() == ["hi", ""] and chosen_first(bunch)[0] == ("hello", "hello\n\nx")


def transcript(*turns):
    return "".join(f"\n\n{speaker}: {text}" for speaker, text in zip(["Human", "Assistant"] * 9, turns, strict=False))


def test_transcripts_are_cut_at_a_turn(tmp_path):
    sides = [
        (transcript("hi", "I am well"), transcript("hi", "I am ill")),
        (transcript("a", "b", "c", "same words, then x"), transcript("a", "b", "c", "same words, then y")),
        (transcript("hi", "yes"), transcript("hi", "yes", "why", "no")),  # one is the beginning of the other
        (transcript("this", "x"), transcript("that", "y")),  # no common turn
        (transcript("hi", ""), transcript("hi", "something")),
        (transcript("hi", "Human: said\n\nthe Assistant: hello"), transcript("hi", "no")),
    ]
    bunch = load_jsonl(tmp_path, [{"chosen": chosen, "rejected": rejected} for chosen, rejected in sides])
    hi = "\n\nHuman: hi\n\nAssistant: "
    assert bunch.prompt.tolist() == [hi, "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: ", hi, "", hi]
    assert chosen_first(bunch) == [
        ("I am well", "I am ill"),
        ("same words, then x", "same words, then y"),
        ("yes", "yes\n\nHuman: why\n\nAssistant: no"),
        sides[3],
        ("Human: said\n\nthe Assistant: hello", "no"),
    ]
    assert bunch.dropped["empty text"] == 1
    assert bunch.groups.tolist() == [0, 1, 0, 2, 0]


OTHER = {"chosen": "filler one", "rejected": "filler two"}


def file_texts(path, **parameters):
    """The texts of a file behind their prompts, and the records that they come from."""
    bunch = load_preferences(path, shuffle_sides=False, **parameters)
    return join_prompts(bunch.prompt, bunch.data).tolist(), bunch.source_index


def table_texts(records, columns=None):
    """What the inner transformer of a `PairTransformer` sees of a table with these records."""
    return PairTransformer(FunctionTransformer()).fit_transform(pd.DataFrame(records, columns=columns)).tolist()


ASK, WELL, ILL = message("user", "How are you?"), message("assistant", "Well."), message("assistant", "Go away.")
SAID = ["How are you?\n\nWell.", "How are you?\n\nGo away."]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [ASK], "chosen": [WELL], "rejected": [ILL]},
        {"chosen": [ASK, WELL], "rejected": [ASK, ILL]},
        {"prompt": "How are you?", "chosen": [ASK, WELL], "rejected": [ASK, ILL]},  # said twice
        {"prompt": "How are you?", "chosen": "Well.", "rejected": "Go away."},
        {"prompt": "How are you?\n\n", "chosen": "Well.", "rejected": "Go away."},
        {"chosen": SAID[0], "rejected": SAID[1]},
    ],
)
def test_one_conversation_is_one_text_in_every_form_from_file_and_table(tmp_path, record):
    other = {"prompt": "", **OTHER} if "prompt" in record else OTHER
    texts, _ = file_texts(write_jsonl(tmp_path / "pairs.jsonl", [record, other]))
    assert texts == table_texts([record, other]) == [SAID, ["filler one", "filler two"]]


MESSAGE = st.builds(message, st.sampled_from(["user", "assistant"]), st.sampled_from(["a", "b", " c", "d\n"]))
TALK = st.lists(MESSAGE, min_size=1, max_size=4)
PROMPT = st.sampled_from(["", "a", "a\n\nb", "x"]) | st.lists(MESSAGE, max_size=2)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(PROMPT, TALK, TALK), max_size=4), columns=st.sampled_from([0, 1]))
def test_any_conversations_are_the_same_texts_from_file_and_table(rows, columns):
    columns = ["prompt", "chosen", "rejected"][columns:]
    rows = [*rows, ("", [message("user", "y")], [message("user", "z")]), ("", [message("user", "z")], [ASK])]
    records = [dict(zip(columns, row[-len(columns) :], strict=True)) for row in rows]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # contradictions
        texts, kept = file_texts(write_jsonl(Path(folder, "p.jsonl"), records))
    assert texts == [table_texts(records, columns)[row] for row in kept]


TURN = st.sampled_from(["Human:", "Assistant:"]).flatmap(
    lambda speaker: st.sampled_from([" a", " b", " two words", "c", "\nd", " "]).map(lambda text: speaker + text)
)


@settings(max_examples=200, deadline=None)
@given(shared=st.lists(TURN, max_size=3), ends=st.tuples(st.lists(TURN, max_size=2), st.lists(TURN, max_size=2)))
def test_a_cut_transcript_joins_to_the_whole(shared, ends):
    chosen, rejected = ("\n\n".join(["", "Human: hi", *shared, *end]) for end in ends)
    records = [{"chosen": chosen, "rejected": rejected}, {"chosen": "one", "rejected": "two"}, OTHER]
    with tempfile.TemporaryDirectory() as folder:
        path = write_jsonl(Path(folder, "p.jsonl"), records)
        texts, kept = file_texts(path)
        assert texts == [table_texts(records)[row] for row in kept]


@pytest.mark.parametrize("labels", [[True, False, True], ["True", "false", " true"], [2.0, -1, 2]])
def test_unpaired_takes_the_greater_of_two_labels(tmp_path, labels):
    bunch = load_jsonl(tmp_path, [{"completion": text, "label": y} for text, y in zip("abc", labels, strict=True)])
    assert bunch.data.tolist() == ["a", "b", "c"] and bunch.target.tolist() == [1, 0, 1]
    assert bunch.format == "unpaired" and bunch.prompt is None and "3 labeled outputs" in bunch.DESCR


def test_unpaired_with_prompts_and_messages(tmp_path):
    records = [
        {"prompt": [ASK], "completion": [WELL], "label": True},
        {"prompt": "", "completion": [ASK, ILL], "label": False},
        {"prompt": "other", "completion": "Go away.", "label": False},
        {"prompt": None, "completion": "fine", "label": True},
        {"prompt": "q", "completion": "nothing", "label": None},
    ]
    bunch = load_jsonl(tmp_path, records)
    assert bunch.prompt.tolist() == ["How are you?", "How are you?", "other", ""]
    assert join_prompts(bunch.prompt, bunch.data).tolist() == table_texts(records[:4])
    assert bunch.groups.tolist() == [0, 0, 0, 1] and bunch.dropped["no label"] == 1


def test_unpaired_table_with_named_columns(tmp_path):
    path = write_table(tmp_path / "p.csv", ["", "class", "tweet"], [["0", "0", "x"], ["1", "1", "y"], ["2", "2", "z"]])
    for desirable, target in ((2, [0, 0, 1]), ("2", [0, 0, 1]), ([1, 2.0], [0, 1, 1]), ({0}, [1, 0, 0])):
        bunch = load_preferences(path, text_column="tweet", label_column="class", desirable=desirable)
        assert bunch.data.tolist() == ["x", "y", "z"] and bunch.target.tolist() == target


def test_unpaired_refuses(tmp_path):
    for labels, parameters, message in (
        ([0, 1, 2], {}, r"jsonl holds the labels 0, 1, 2: which of them are desirable.*: desirable=\[...\]"),
        (["bad", "good", "bad"], {}, "holds the labels 'bad', 'good': which"),
        ([1, 1, 1], {}, "holds the labels 1: which"),
        ([0, 1, 2], {"desirable": 3}, "desirable is 3, but .* labels 0, 1, 2. Name one of them or more, but not all"),
        ([0, 1, 2], {"text_column": "tweet"}, r"no column 'tweet', only \['completion', 'label'\]"),
        ([0, 1, 2], {"label_column": "label", "format": "preference"}, "go with format='unpaired'"),
    ):
        records = [{"completion": text, "label": label} for text, label in zip("abc", labels, strict=True)]
        with pytest.raises(ValueError, match=message):
            load_jsonl(tmp_path, records, **parameters)
    with pytest.raises(ValueError, match="desirable is 'nonsense', but .* was read as pairs .*Leave it out, or select"):
        load_jsonl(tmp_path, [OTHER], desirable="nonsense")


def test_what_was_read_and_how_is_recorded_without_the_folder(tmp_path):
    records = [{"completion": text, "label": label} for text, label in zip("abc", (0, 1, 2), strict=True)]
    options = {"desirable": [2, "1"], "random_state": np.random.RandomState(0), "limit": 3}
    known = load_jsonl(tmp_path, records, **options).provenance
    assert json.loads(json.dumps(known)) == known
    expected = {"file": "pairs.jsonl", "format": "auto", "desirable": [2, "1"], "limit": 3}
    assert expected.items() <= known.items() and known["random_state"].startswith("RandomState(")


def test_duplicates_identical_sides_and_empty_texts_are_counted(tmp_path):
    sides = [("a", "b"), ("a", "b"), ("c", "c"), ("d", " "), (None, "e"), ("a", "f"), ("", [])]
    bunch = load_jsonl(tmp_path, [{"chosen": chosen, "rejected": rejected} for chosen, rejected in sides])
    assert chosen_first(bunch) == [("a", "b"), ("a", "f")] and bunch.source_index.tolist() == [0, 5]
    counts = {reason: count for reason, count in bunch.dropped.items() if count}
    assert counts == {"duplicate": 1, "identical sides": 1, "empty text": 3}
    assert "3 empty text, 1 identical sides, 1 duplicate" in bunch.DESCR


def test_votes_are_kept_as_weights_and_disagreement_is_named(tmp_path):
    sides = [("a", "b"), ("x", "y"), ("b", "a"), ("a", "b"), ("x", "z")]
    records = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in sides]
    with pytest.warns(
        UserWarning, match="3 rows judge the same outputs in both ways .the first are line 1, line 3."
    ) as caught:
        bunch = load_jsonl(tmp_path, records)
    assert caught[0].filename == __file__
    assert chosen_first(bunch) == [("a", "b"), ("x", "y"), ("b", "a"), ("x", "z")]
    assert bunch.sample_weight.tolist() == [2, 1, 1, 1] and bunch.dropped["duplicate"] == 1
    assert bunch.groups.tolist() == [0, 1, 0, 2]  # both ways are never on two sides of a split
    labelled = [{"completion": text, "label": label} for text, label in [("a", 1), ("b", 0), ("a", 0), ("a", 1)]]
    with pytest.warns(UserWarning, match="3 rows judge the same outputs in both ways"):  # one output with both labels
        bunch = load_jsonl(tmp_path, labelled)
    assert bunch.data.tolist() == ["a", "b", "a"] and bunch.sample_weight.tolist() == [2, 1, 1]
    assert bunch.groups[0] == bunch.groups[2]
    prompts = [record | {"prompt": str(i)} for i, record in enumerate(records)]
    assert sum(load_jsonl(tmp_path, prompts).dropped.values()) == 0  # for two prompts, opposite preferences are none


def test_groups_are_connected_through_prompts_and_rejected_texts(tmp_path):
    rows = [("p", "a", "b"), ("q", "c", "d"), ("p", "e", "f"), ("r", "g", "f"), ("", "h", "i"), ("", "h", "j")]
    rows.append(("d", "k", "l"))
    records = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    # p joins rows 0 and 2, f joins 2 and 3; no prompt joins nothing, nor does a common chosen text, nor a
    # prompt that is a rejected text elsewhere
    assert load_jsonl(tmp_path, records).groups.tolist() == [0, 1, 0, 0, 2, 3, 4]


def test_generated_pairs_are_kept_as_they_were_drawn(tmp_path):
    """What two models happened to say: only empty texts are left out, and the settings are no row of their own."""
    sides = [("a", "b"), ("b", "a"), ("a", "b"), ("c", "c"), ("", "d"), ("e", " ")]
    records = [{"prompt": "p", "chosen": chosen, "rejected": rejected} for chosen, rejected in sides]
    settings = {"generated_by": "someone", "seed": 3}
    bunch = load_jsonl(tmp_path, [{"settings": settings, **records[0]}, *records[1:]])
    assert chosen_first(bunch) == sides[:4] and list(bunch.source_index) == [0, 1, 2, 3]
    assert bunch.dropped["empty text"] == 2 == sum(bunch.dropped.values())
    assert bunch.provenance["settings"] == settings
    records.append({"prompt": "p", "chosen": "f", "rejected": "g"})
    records.append({"prompt": "p", "chosen": "g", "rejected": "h"})
    for other in ("a column of one's own", {"seed": 3}, None):
        with pytest.warns(UserWarning, match="3 rows judge the same outputs"):
            bunch = load_jsonl(tmp_path, [{"settings": other, **record} for record in records])
        assert (
            chosen_first(bunch) == [("a", "b"), ("b", "a"), ("f", "g"), ("g", "h")]
            and "settings" not in bunch.provenance
        )


GOOD = '{"chosen": "a", "rejected": "b"}'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "chosen,rejected\n", "p.csv is empty: it holds no records. Expected at least 2. Write or fetch"),
        ("p.tsv", "chosen\trejected\na\tb\nc", "line 3: found 1 fields, but expected 2 .*last line.*fetch it again"),
        ("p.csv", 'chosen,rejected\na,b\n\nc,"d\n', "line 4: broken record .*Quote fields.*last line.*fetch it again"),
        ("p.csv", "chosen,rejection\na,b\n", r"the columns are \['chosen', 'rejection'\], but expected one of"),
        ("p.csv", "chosen,chosen\na,b\n", "line 1: column names occur twice"),
        ("p.jsonl", f'{GOOD}\n\n{{"chosen": }}\n', "line 3: no JSON .*column 12.*Repair or delete"),
        ("p.jsonl", f'{GOOD}\r\n{{"chosen": "a",\r\n\r\n', r"line 2: no JSON \([^()]*, column \d+\)"),
        ("p.jsonl", f"{GOOD}\n[1]\n", "line 2: found list, not an object"),
        ("p.json", '\n\n[{"chosen": "a",\n "rejected" "b"}]', "line 4: no JSON"),
        ("p.jsonl", f'{GOOD}\n{{"chosen": "a"}}\n', r"1 usable rows are left of 2 \(dropped: empty text: 1\)"),
        ("p.jsonl", f'{GOOD}\n{{"completion": "a", "label": 1}}\n', "line 2: .*layout 'unpaired', but .* 'preference'"),
        ("p.jsonl", '{"chosen": "a", "chosen": "b"}', "line 1 or below: the name 'chosen' occurs twice in one object"),
        ("p.jsonl", '{"chosen": "a", "rejected": 3}', "line 1: Expected text at the output, but found int 3"),
        ("p.jsonl", '{"chosen": [{"content": "a"}], "rejected": []}', "line 1: Found a message without a role"),
        ("p.jsonl", '{"chosen": [{"role": "a", "content": "a"}], "rejected": "b"}', "line 1: one side is a text"),
        ("p.csv", "chosen,rejected,score_chosen,score_rejected\na,b,x,1\n", "score_chosen is 'x'"),
        ("p.csv", "chosen,rejected,chosen_label,rejected_label\na,b,2,1\n", "chosen_label is 2, but"),
        ("p.csv", "chosen,rejected\na,a\nb,\n", r"0 usable rows .* of 2 \(dropped: empty text: 1, identical sides"),
        ("p.csv", "chosen,rejected\na,b\n", r"1 usable rows are left of 1 \(dropped: none\), but expected at least 2"),
        ("p.xlsx", "a", "ends in '.xlsx', but the suffixes known are .tsv, .csv"),
        ("p.csv.gz", "chosen,rejected\na,b\n", "damaged or no gzip file"),
        ("p.parquet", "no parquet", "p.parquet: no Parquet file"),
    ],
)
def test_broken_files_are_refused_with_place_and_remedy(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        load_preferences(write(tmp_path / name, text))


def test_wrong_encoding_names_the_line(tmp_path):
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"chosen,rejected\na,b\ncaf\xe9,d\n"))
    with pytest.raises(ValueError, match=r"line 3: the bytes are not utf-8 .* encoding='cp1252'") as caught:
        load_preferences(tmp_path / "p.csv.gz")
    assert not isinstance(caught.value, UnicodeError)
    with pytest.raises(ValueError, match="encoding is 'utf-nine', which Python does not know"):
        load_preferences(tmp_path / "p.csv.gz", encoding="utf-nine")


def test_wrong_parameters(tmp_path):
    path = write_table(tmp_path / "p.csv", ["chosen", "rejected"], PAIRS)
    for format, message in (
        ("hh", "format is 'hh', but expected 'auto' or one of 'paradetox'"),
        ("unpaired", r"columns are \['chosen', 'rejected'\], but expected 'unpaired' \(columns completion"),
    ):
        with pytest.raises(ValueError, match=message):
            load_preferences(path, format=format)
    assert load_preferences(path, format="preference").format == "preference"
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none.csv \(looked in"):
        load_preferences(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a folder, but expected a file"):
        load_preferences(tmp_path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "fairl-sk\[parquet\]"'):
        load_preferences(write(tmp_path / "p.parquet", "x"))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FEW = st.sampled_from(["a", "b", "c", " ", ""])  # so that duplicates and contradictions are frequent


def expected_rows(rows):
    """Which rows are kept, and how often they occur, by definition; none of them begins with its prompt."""
    return Counter(row for row in rows if row[1].strip() and row[2].strip() and row[1] != row[2])


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.just("") | TEXT.map("Q: {}".format), *[TEXT | FEW] * 2), min_size=1, max_size=12),
    name=st.sampled_from(["p.jsonl", "p.csv", "p.tsv", "p.csv.gz"]),
)
def test_any_text_comes_back_and_the_counts_add_up(rows, name):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # contradictions
        path, columns = Path(folder, name), ("prompt", "chosen", "rejected")
        if name == "p.jsonl":
            write_jsonl(path, [dict(zip(columns, row, strict=True)) for row in rows])
        else:
            write_table(path, columns, rows)
        expected = expected_rows(rows)
        if len(expected) < 2:
            with pytest.raises(ValueError, match=f"{len(expected)} usable rows are left of {len(rows)} "):
                load_preferences(path)
            return
        bunch = load_preferences(path)
    prompts = [""] * len(bunch.data) if bunch.prompt is None else bunch.prompt
    assert [(prompt, *pair) for prompt, pair in zip(prompts, chosen_first(bunch), strict=True)] == list(expected)
    assert [rows[i] for i in bunch.source_index] == list(expected)
    assert bunch.sample_weight.tolist() == list(expected.values())
    assert len(bunch.data) + sum(bunch.dropped.values()) == len(rows)


def test_prompts_from_every_kind_of_file(tmp_path):
    prompts = ["Is it far?", " Is it far?", "How?"]
    records = [{"prompt": prompt, "chosen": "x"} for prompt in prompts]
    lines = gzip.compress("\n\r\n".join(prompts).encode())
    (tmp_path / "p.txt.gz").write_bytes(lines)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "p.parquet")
    table = write_table(tmp_path / "p.csv", ["prompt"], [[prompt] for prompt in prompts])
    files = [tmp_path / "p.txt.gz", tmp_path / "p.parquet", table, write_jsonl(tmp_path / "p.jsonl", records)]
    assert all(load_prompts(file) == prompts for file in files)
    assert load_prompts(files[0], limit=2) == prompts[:2] == load_prompts(table, limit=2)
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    chats = write_jsonl(tmp_path / "c.jsonl", [{"ask": conversation} for conversation in messages])
    assert load_prompts(chats, column="ask") == messages
    assert load_prompts(write(tmp_path / "l.txt", "na\xefve\n", "cp1252"), encoding="cp1252") == ["na\xefve"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", " \n\n", "holds no prompts. Expected one a line"),
        ("p.jsonl", "", "is empty"),
        (
            "p.jsonl",
            '{"text": "x"}',
            r"found the columns \['text'\]. Expected a column 'prompt', or a file .txt",
        ),
        ("p.jsonl", '{"prompt": "x"}\n{"prompt": ""}', "line 2: the prompt is empty"),
        ("p.jsonl", '{"prompt": 3}', "Expected text at .*line 1, but found int 3"),
        ("p.md", "x", "suffixes known are"),
    ],
)
def test_files_without_prompts_are_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        load_prompts(write(tmp_path / name, text))


SHIFTED = "chosen,rejected\nkind,rude,x\ngood,bad,y\n"
CHANGED_BY_PANDAS = [  # name, text, what pandas makes of it, what is read or the error here
    ("p.csv", "chosen,rejected\ngood\nkind,rude\n", [("good", ""), ("kind", "rude")], "line 2: found 1 fields"),
    ("p.csv", SHIFTED, [("rude", "x"), ("bad", "y")], "line 2: found 3 fields, but expected 2 .chosen, rejected."),
    ("p.csv", "chosen,chosen,rejected\na,b,c\nd,e,f\n", [("a", "c"), ("d", "f")], "line 1: column names occur twice"),
    ("p.csv", 'chosen,rejected\n"a" b,c\nd,e\n', [("a b", "c"), ("d", "e")], "line 2: broken record"),
    ("p.jsonl", '{"chosen": "a", "chosen": "b", "rejected": "c"}\n', [("b", "c")], "'chosen' occurs twice"),
]


@pytest.mark.parametrize(("name", "text", "by_pandas", "here"), CHANGED_BY_PANDAS)
def test_what_pandas_changes_in_silence_is_refused(tmp_path, name, text, by_pandas, here):
    path = write(tmp_path / name, text)
    if name == "p.csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    else:
        table = pd.read_json(path, lines=True, dtype=False)
    assert list(zip(table["chosen"], table["rejected"], strict=True)) == by_pandas
    with pytest.raises(ValueError, match=here):
        load_preferences(path)


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_texts_that_read_as_something_else_stay_texts(tmp_path, name):
    """pandas, told nothing of the columns, makes numbers of these."""
    others = ["NA", "null", "1.0", "2024-01-01", "true", "1e5", "nan", "None"]
    for text in ["007", *others]:
        rows = [(text, "a"), (text, "b")]
        if name == "p.csv":
            path = write_table(tmp_path / name, ["chosen", "rejected"], rows)
        else:
            path = write_jsonl(tmp_path / name, [dict(zip(("chosen", "rejected"), row, strict=True)) for row in rows])
        assert chosen_first(load_preferences(path)) == rows
        if text == "007":
            table = pd.read_csv(path) if name == "p.csv" else pd.read_json(path, lines=True)
            assert table["chosen"].tolist() == [7, 7]
