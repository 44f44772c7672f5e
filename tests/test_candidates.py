"""Pools of pairs without judgment, the files that people judge, and `fairl-sk suggest` between the two."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch

from fairl_sk import LaplaceReward, MaxEntropyIRL, PairTransformer
from fairl_sk.cli import main
from fairl_sk.datasets import load_candidates, load_preferences, make_detox_preferences, write_candidates

ANSWERS = ["one", "two", "three"]
POOLS = {
    "two columns": [{"prompt": "p", "response1": "one", "response2": "two"}],
    "other names": [{"question": "p", "answer_a": "one", "answer_b": "two"}],
    "unjudged preferences": [{"prompt": "p", "chosen": "one", "rejected": "two"}],
    "a list": [{"prompt": "p", "completions": ANSWERS}],
    "a list of dicts": [{"instruction": "p", "responses": [{"text": text} for text in ANSWERS]}],
    "one a record": [{"prompt": "p", "completion": text} for text in ANSWERS] + [{"prompt": "q", "completion": "x"}],
    "messages": [{"prompt": "p", "completion": [{"role": "assistant", "content": text}]} for text in ANSWERS],
}


@pytest.mark.parametrize("name", POOLS)
def test_pools_in_any_layout(name):
    pool = load_candidates(POOLS[name])
    pairs = [["one", "two"], ["one", "three"], ["two", "three"]]
    assert pool.data.tolist() == pairs[: 3 if "three" in str(POOLS[name]) else 1]
    assert set(pool.prompt) == {"p"}
    records = [str(POOLS[name][row]) for row in pool.source_index.ravel()]
    assert all(text in record for text, record in zip(pool.data.ravel(), records, strict=True))


def test_what_is_left_out_of_a_pool_is_counted():
    pairs = [("a", "b"), ("b", "a"), ("a", "a"), ("a", " "), (None, "b"), ("a", "c")]
    pool = load_candidates([{"prompt": "p", "response1": one, "response2": two} for one, two in pairs])
    assert pool.data.tolist() == [["a", "b"], ["a", "c"]]
    assert pool.dropped == {"empty text": 2, "identical sides": 1, "duplicate": 1}


BAD = {
    "columns": ([{"text": "a"}], r"the columns are \['text'\]. Expected one of: prompt and completions"),
    "no pair": ([{"prompt": "p", "completion": "a"}], "holds no pair of two different outputs"),
    "one group each": ([{"prompt": n, "completion": "a"} for n in "pq"], "holds no pair of two different outputs"),
    "too many": (
        [{"prompt": "p", "completion": str(n)} for n in range(1002)],
        "more than 500000 pairs. Expected at most",
    ),
    "list": ([{"prompt": "p", "completions": 3}], "the table, row 0: expected a list of completions"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_pool_is_refused(case):
    with pytest.raises(ValueError, match=BAD[case][1]):
        load_candidates(BAD[case][0])


def test_an_empty_pool_and_a_missing_column_are_refused(tmp_path):
    (tmp_path / "pool.csv").write_text("prompt,completion\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is empty: it holds no records"):
        load_candidates(tmp_path / "pool.csv")
    with pytest.raises(ValueError, match="no column 'topic', only"):
        load_candidates(POOLS["a list"], prompt_column="topic")


# ---------------------------------------------------------------------------------------- files that people judge


def judge(path, tool, judged):
    """The file as a tool gives it back: the first response wins in each record of ``judged``."""
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as file:
            records = list(csv.DictReader(file))
    else:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    chosen = [record for record in records if int(record["pair"]) in judged]
    done = path.with_name(f"judged-{tool}.json")
    if tool == "spreadsheet":
        done = done.with_suffix(".csv")
        with open(done, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*records[0], "preference"], quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows({**record, "preference": "left" if record in chosen else ""} for record in records)
    elif tool == "label-studio":
        result = [{"from_name": "pw", "type": "pairwise", "value": {"selected": "left"}}]
        done.write_text(
            json.dumps([{"id": 1, "data": record, "annotations": [{"result": result}]} for record in chosen])
        )
    elif tool == "label-studio, short":
        done.write_text(json.dumps([{**record, "pw": "left", "annotator": 1} for record in chosen]))
    else:
        fields = ("prompt", "response1", "response2")
        answers = {"preference": [{"user_id": "1", "value": "response1"}]}
        done.write_text(
            json.dumps([{"fields": {f: record[f] for f in fields}, "responses": answers} for record in chosen])
        )
    return done, [int(record["pair"]) for record in chosen], records


FORMULAS = ["=1+1", "-- no", "+1", "@me", "\tx", "'=1", "''-", "'tis", 'plain, "quoted"\nline', "\r=", "–", "[1]"]
TOOLS = ["spreadsheet", "label-studio", "label-studio, short", "argilla"]


@pytest.mark.parametrize(
    ("tool", "suffix"), [(tool, ".csv") for tool in TOOLS[:3]] + [(tool, ".jsonl") for tool in TOOLS]
)
def test_what_people_judged_is_read_as_it_was(tool, suffix, tmp_path):
    """Whatever texts begin with, and though spreadsheets must not see formulas."""
    pool = load_candidates([{"prompt": f"{text}?", "completions": [text, f"{text} too"]} for text in FORMULAS])
    path = tmp_path / f"next{suffix}"
    write_candidates(path, pool, np.arange(12)[::-1], np.linspace(0, 1, 12), random_state=1)
    done, pairs, records = judge(path, tool, judged={1, 2, 3, 5, 6, 8, 9, 0, 4})
    if suffix == ".csv":
        cells = [record[name] for record in records for name in ("prompt", "response1", "response2")]
        assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    assert [int(record["pair"]) for record in records] == list(range(12))[::-1]
    data = load_preferences(done, shuffle_sides=False)
    exchanged = sum(texts[0] == pool.data[pair, 1] for texts, pair in zip(data.data, pairs, strict=True))
    assert len(data.data) == len(pairs) == 9 and 3 <= exchanged <= 6
    for prompt, texts, pair in zip(data.prompt, data.data, pairs, strict=True):
        assert prompt == pool.prompt[pair] and sorted(texts) == sorted(pool.data[pair])
    if tool == "spreadsheet":
        assert data.dropped["no label"] == 3


@settings(max_examples=15, deadline=None)
@given(text=st.text(alphabet="'=+-@a \t", min_size=1).filter(str.strip))
def test_escaped_cells_come_back(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    pool = Bunch(data=np.array([[text, "b"], ["c", "d"]], dtype=object), prompt=np.array([text, ""], dtype=object))
    write_candidates(folder / "next.csv", pool, [0, 1])
    done, _, _ = judge(folder / "next.csv", "spreadsheet", {0, 1})
    data = load_preferences(done, shuffle_sides=False)
    assert data.prompt[0] == text and set(data.data[0]) == {text, "b"}


def test_an_apostrophe_of_another_file_stays():
    records = [{"response1": "'=1", "response2": other, "preference": "left"} for other in "ab"]
    assert load_preferences(records, shuffle_sides=False).data[:, 0].tolist() == ["'=1", "'=1"]


def test_candidates_are_written_to_two_kinds_of_files(tmp_path):
    with pytest.raises(ValueError, match="ends in '.json'. Expected .csv or .jsonl"):
        write_candidates(tmp_path / "next.json", load_candidates(POOLS["a list"]), [0])


# ------------------------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def corpus():
    return make_detox_preferences(120, random_state=0)


@pytest.fixture
def place(tmp_path, monkeypatch, corpus):
    """A working folder with a pool of 90 pairs, 30 judged pairs, and two rewards that were fitted to these."""
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(corpus.data[30:], columns=["response1", "response2"]).to_csv("pool.csv", index=False)
    sides = np.where(corpus.target[:30, None] == 1, corpus.data[:30], corpus.data[:30, ::-1])
    pd.DataFrame(sides, columns=["chosen", "rejected"]).to_csv("first.csv", index=False)
    features = PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(5, random_state=0)))
    for name, learner in {"plain": MaxEntropyIRL(), "laplace": LaplaceReward()}.items():
        fitted = make_pipeline(features, learner).fit(corpus.data[:30], corpus.target[:30])
        skops.io.dump(fitted, f"{name}.skops")
    return tmp_path


def suggest(*arguments):
    return main(["suggest", "pool.csv", *map(str, arguments)])


def test_the_loop_of_the_command(place, capsys):
    """Suggest, judge, suggest again: what is judged is left out, and counted."""
    assert suggest("--fitted", "plain.skops", "--judged", "first.csv", "-n", 20, "--out", "next.csv") == 0
    shown = capsys.readouterr().out
    assert "Wrote 20 of 90 pairs in pool.csv to next.csv (information)." in shown
    assert "Left out as judged: 0. Judged pairs that are not in pool.csv: 30." in shown
    done, pairs, _ = judge(Path("next.csv"), "spreadsheet", set(range(90)))
    given = ["--fitted", "plain.skops", "--judged", "first.csv", "--judged", done]
    assert suggest(*given, "-n", 70, "--out", "rest.jsonl", "--cost", "length") == 0
    assert "Left out as judged: 20. Judged pairs that are not in pool.csv: 30." in capsys.readouterr().out
    rest = [json.loads(line)["pair"] for line in Path("rest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted([*pairs, *rest]) == list(range(90))
    assert suggest(*given, "-n", 71, "--out", "more.csv") == 2
    assert "n=71, but 70 of 90 candidate pairs are left: 20 are judged" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*judge the same outputs in both ways")
def test_judged_files_may_lack_rows_or_hold_others(place, capsys):
    assert suggest("--fitted", "laplace.skops", "-n", 10, "--out", "next.csv") == 0
    table = pd.read_csv("next.csv").assign(preference="left")
    table.loc[0, "preference"] = None  # not judged
    table.loc[1, "response1"] = "edited"
    table = pd.concat([table, table[2:4], table[4:5].assign(preference="right")])
    table.to_csv("judged.csv", index=False)
    assert suggest("--fitted", "laplace.skops", "--judged", "judged.csv", "-n", 82, "--out", "rest.csv") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Left out as judged: 8. Judged pairs that are not in pool.csv: 1." in shown
    assert "2 duplicate, 1 no label" in shown
    assert set(table["pair"][:2]) < set(pd.read_csv("rest.csv")["pair"])


@pytest.mark.parametrize("strategy", ["information", "uncertainty", "diversity", "random"])
def test_every_strategy_of_the_command(place, strategy):
    assert suggest("--fitted", "laplace.skops", "-n", 5, "--out", "next.csv", "--strategy", strategy) == 0
    assert len(pd.read_csv("next.csv")) == 5


def test_prompts_are_joined_where_the_reward_reads_them(place, corpus, capsys):
    texts = np.array([[f"{p}\n\n{text}" for text in pair] for p, pair in zip(corpus.prompt, corpus.data, strict=True)])
    features = PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(5, random_state=0)))
    skops.io.dump(make_pipeline(features, LaplaceReward()).fit(texts[:30], corpus.target[:30]), "joined.skops")
    skops.io.dump(make_pipeline(features, MaxEntropyIRL()).fit(texts[:30], corpus.target[:30]), "bare.skops")
    for name, rows in {"pool": slice(30, None), "judged": slice(30)}.items():
        table = pd.DataFrame(corpus.data[rows], columns=["response1", "response2"]).assign(prompt=corpus.prompt[rows])
        table.assign(preference=np.where(corpus.target[rows] == 1, "left", "right")).to_csv(f"{name}.csv", index=False)
    common = ["-n", 5, "--join-prompts", "--strategy", "uncertainty"]
    assert suggest("--fitted", "joined.skops", *common, "--out", "a.csv") == 0
    assert suggest("--fitted", "bare.skops", "--judged", "judged.csv", *common, "--out", "b.csv") == 0
    assert pd.read_csv("a.csv").prompt.tolist()[0] in set(corpus.prompt)


REFUSED = {
    "no uncertainty": (
        ["--fitted", "plain.skops", "--out", "a.csv"],
        "MaxEntropyIRL, without uncertainty. Expected --jud",
    ),
    "suffix": (
        ["--fitted", "laplace.skops", "--out", "a.xlsx"],
        "--out a.xlsx ends in '.xlsx'. Expected .csv or .jsonl",
    ),
    "exists": (
        ["--fitted", "laplace.skops", "--out", "first.csv"],
        "--out first.csv exists. Name another file, or add",
    ),
    "strategy": (["--fitted", "laplace.skops", "--out", "a.csv", "--strategy", "x"], "strategy='x'. Expected one of"),
    "too many": (["--fitted", "laplace.skops", "--out", "a.csv"], "Found n=100, but 90 of 90 candidate pairs are left"),
    "no reward": (["--fitted", "gone.skops", "--out", "a.csv"], "There is no file gone.skops"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_command_refuses(place, capsys, case):
    arguments, message = REFUSED[case]
    before = sorted(place.iterdir())
    assert suggest(*arguments) == 2
    assert message in capsys.readouterr().err and sorted(place.iterdir()) == before
