"""What the audit says beyond its pairs: texts of another kind, other rewards, and whether more pairs would help."""

import functools
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import skops.io
import transformers
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch
from tiny_models import make_tokenizer

from fairl_sk import MaxEntropyIRL
from fairl_sk.audit.compare import (
    check_compared,
    compare_findings,
    compare_rewards,
    compare_section,
    score_outputs,
)
from fairl_sk.audit.learning_curve import extrapolate, learning_curve_section, measure_learning_curve
from fairl_sk.audit.named_rewards import load_compared
from fairl_sk.audit.novelty import (
    TextDistance,
    is_other_kind,
    measure_novelty,
    novelty_findings,
    novelty_section,
    read_deployed,
)
from fairl_sk.audit.properties import measure_properties
from fairl_sk.audit.texts import with_texts
from fairl_sk.datasets import load_preferences, load_texts, make_detox_preferences, make_preferences
from fairl_sk.metrics import bootstrap_difference, bootstrap_interval, pair_accuracy

interval = functools.partial(bootstrap_interval, n_resamples=50, random_state=0)
difference = functools.partial(bootstrap_difference, n_resamples=50, random_state=0)
TOPIC = [
    "Photosynthesis converts light into chemical energy in plants.",
    "The central bank raised interest rates by a quarter point.",
    "A binary search tree keeps its keys in sorted order.",
]
PAIRS = {"settings": {"rows_are": "pairs", "test_rows": 9000}}


@pytest.fixture(scope="module")
def corpus():
    return make_detox_preferences(400, random_state=0)


def held_out(corpus, rows=slice(300, None), **rewards):
    """The last rows of a corpus, with its reference as the reward."""
    known = corpus.reference_reward[rows]
    sign = 2 * corpus.target[rows] - 1
    return Bunch(
        texts=corpus.data[rows], y=corpus.target[rows], sign=sign, groups=corpus.groups[rows],
        index=np.arange(len(corpus.data))[rows], labels=None, prompts=None, reference_reward=known,
        rewards=known, std=None,
    )  # fmt: skip


def score(texts):
    return np.array([float(len(text)) for text in texts]), np.ones(len(texts))


def drawn(section):
    """The section's pictures can be drawn, and say in words what they show."""
    for picture in section.pictures:
        assert any(character.isdigit() for character in picture.alt)
        plt.close(picture.draw())
    assert all(len(row) == len(table.columns) for table in section.tables for row in table.rows)
    return section.words


# ------------------------------------------------------------------------------------------------- novelty


def test_distances_of_equal_and_of_foreign_texts():
    train = np.array(["you are a kind fool"] * 5 + ["go away now"] * 5 + [f"bench {i}" for i in range(9)], dtype=object)
    texts = ["zzz qqq", "bench 3", "you are kind", "\ud83d", "\u4f60\u597d", "go" * 500_000]
    distance, unseen = TextDistance(train).measure(np.array(texts, dtype=object))
    assert distance[1] < distance[0] and unseen[0] == pytest.approx(1) and unseen[1] == pytest.approx(0, abs=1e-6)
    assert ((unseen >= -1e-6) & (unseen <= 1 + 1e-6)).all() and np.isfinite(distance).all()


@pytest.mark.parametrize("other", [True, False])
def test_texts_of_another_topic_are_found_and_others_are_not(corpus, other):
    deploy = TOPIC * 10 if other else make_detox_preferences(100, random_state=9)
    found = measure_novelty(corpus.data[:300], held_out(corpus), interval, read_deployed(deploy), score)
    share = found["deploy"]["outside"]
    assert is_other_kind(found["deploy"]) == other
    assert (share.low > 0.9) if other else (share.low < 0.05 < share.high)
    assert np.mean(found["held"]["distance"] > found["threshold"]) <= 0.05
    result = Bunch(novelty=found, pipelines={}, **PAIRS)
    words = drawn(section := novelty_section(result))
    assert len(novelty_findings(result)) == other
    assert not any(t.rows for t in novelty_section(with_texts(result, "none")).tables if t.of_texts)
    assert ("another kind of text: " in words) == other
    assert not any(text in words + str([t.rows for t in section.tables if not t.of_texts]) for text in TOPIC)
    if other:
        assert found["deploy"]["accuracy"] is None and found["deploy"]["repeated"] == 0
        assert section.tables[-1].rows[0][1] in TOPIC and section.tables[-1].of_texts


def test_pairs_of_the_deployment_have_an_accuracy_and_training_texts_are_counted(corpus):
    again = measure_novelty(corpus.data[:300], held_out(corpus), interval, read_deployed(corpus), score)["deploy"]
    longer = np.array([len(first) - len(second) for first, second in corpus.data])
    assert again["repeated"] >= 600
    assert again["accuracy"].estimate == pytest.approx(pair_accuracy(corpus.target, longer))


def test_without_a_deployment_the_accuracy_by_distance_is_told(corpus):
    found = measure_novelty(corpus.data[:300], held_out(corpus), interval)
    assert found["deploy"] is None and sum(row["rows"] for row in found["held"]["parts"]) == 100
    distances = [row["distance"] for row in found["held"]["parts"]]
    assert distances == sorted(distances)
    assert "--deploy" in drawn(novelty_section(Bunch(novelty=found, **PAIRS)))


def test_few_rows_and_single_outputs(corpus):
    few = measure_novelty(corpus.data[:300], held_out(corpus, slice(390, None)), interval)
    assert "20 held-out outputs" in novelty_section(Bunch(novelty=few)).words
    held = held_out(corpus)
    held |= {"texts": held.texts[:, 0], "rewards": held.rewards[:, 0]}
    found = measure_novelty(corpus.data[:300, 0], held, interval, read_deployed(TOPIC * 10), score)
    drawn(novelty_section(Bunch(novelty=found, settings={"rows_are": "outputs"})))
    assert found["held"]["outputs"] == 100


def test_more_rows_are_sampled_and_it_is_said(corpus, monkeypatch):
    monkeypatch.setattr("fairl_sk.audit.novelty.MAX_ROWS", 40)
    monkeypatch.setattr("fairl_sk.audit.novelty.MAX_TRAIN", 200)
    found = measure_novelty(corpus.data[:300], held_out(corpus), interval)
    n_train = len(set(corpus.data[:300].ravel()))
    assert found["sampled"] == f"200 of {n_train} training outputs, 80 of 200 held-out outputs"
    assert "random sample: 200 of" in novelty_section(Bunch(novelty=found, **PAIRS)).words


@pytest.mark.parametrize("deploy", ["one text", [], 3, [[1.0, 2.0]], Bunch(target=[1])])
def test_what_is_no_deployment_is_refused(deploy):
    with pytest.raises(ValueError, match="Found deploy of type .* without texts"):
        read_deployed(deploy)


def test_a_file_of_texts(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("answer,n\nIt is far.,1\nTurn left.,2\n")
    assert load_texts(path, column="answer") == ["It is far.", "Turn left."]
    with pytest.raises(ValueError, match="found the columns .*'answer'.* Expected a column 'text', or a file .txt"):
        load_texts(path)


# ------------------------------------------------------------------------------------------ learning curve


def curve(n_pairs, n_features=5, n_test=200, temperature=0.3, groups=None):
    data = make_preferences(n_pairs + n_test, n_features, temperature=temperature, random_state=0)
    (X, X_test), (y, y_test) = np.split(data.data, [n_pairs]), np.split(data.target, [n_pairs])
    groups = np.arange(n_pairs) if groups is None else groups
    learner = MaxEntropyIRL(alpha=1e-2, random_state=0).fit(X, y)
    return measure_learning_curve(learner, X, y, groups, X_test, y_test, np.arange(n_test))


def test_a_curve_has_the_accuracy_of_the_whole_and_of_parts():
    found = curve(240)
    rows = [point["rows"] for point in found["points"]]
    assert rows == [240, *[120] * 4, *[60] * 4, *[30] * 4]
    assert found["rows_twice"] == 480 and 0.5 < found["points"][0]["score"] <= 1
    for name in ("now", "twice", "gain"):
        assert found[name].low <= found[name].estimate <= found[name].high
    assert "extrapolated by a power law, not measured" in drawn(
        learning_curve_section(Bunch(learning_curve=found, **PAIRS))
    )


def test_few_groups_give_no_curve():
    found = curve(40, groups=np.arange(40) // 4)
    assert "10 training groups are too few" in learning_curve_section(Bunch(learning_curve=found, **PAIRS)).words


def test_a_known_curve_is_extrapolated():
    """Scores on a curve of exponent 1/2 without noise; the exponents that are tried are around it."""
    rows = np.array([800, *[400] * 4, *[200] * 4, *[100] * 4])
    scores = 0.9 - 2 / np.sqrt(rows)
    found = extrapolate(rows, scores, np.tile(scores, (200, 1)))
    low, high = np.quantile(found["twice"], [0.025, 0.975])
    assert low < 0.9 - 2 / np.sqrt(1600) < high and high - low < 0.04
    flat = extrapolate(rows, np.full(13, 0.7), np.full((200, 13), 0.7))
    np.testing.assert_allclose(flat["gain"], 0, atol=1e-9)


# ----------------------------------------------------------------------------------------------- comparison


@pytest.fixture(scope="module")
def compared(corpus):
    """A reward, its opposite, one with missing values, and a constant, beside the first."""
    held = held_out(corpus)
    gaps = held.rewards.copy()
    gaps[:5, 0] = np.nan
    rewards = {"same": held.rewards, "turned": -held.rewards, "gaps": gaps, "one": np.ones_like(gaps)}
    rewards["none"] = np.full_like(gaps, np.nan)
    with pytest.warns(UserWarning, match="The compared reward"):
        rows = compare_rewards(rewards, held.rewards, held, interval, difference)
    return {row["reward"]: row for row in rows}


def test_a_reward_is_like_itself(compared):
    same = compared["same"]
    assert same["problems"] == [] and same["disagree"] == 0
    assert same["difference"][:3] == (0, 0, 0) and same["starc_recovered"][:3] == (0, 0, 0)
    assert same["spearman_recovered"].estimate == pytest.approx(1)
    assert same["pair_accuracy"] == same["recovered"]


def test_what_is_wrong_with_a_reward_is_said_first(compared):
    result = Bunch(compared=list(compared.values()), pipelines={}, **PAIRS)
    section = compare_section(result)
    assert [finding.doubt for finding in compare_findings(result)] == [1.0, pytest.approx(0.05), 1.0, 1.0]
    assert not any(table.of_texts for table in compare_section(with_texts(result, "none")).tables)
    words = drawn(section)
    problems = ["its sign may be reversed", "5 of 200 held-out outputs", "it prefers nothing", "it is not measured"]
    places = [words.index(problem) for problem in problems]
    assert places == sorted(places) and places[-1] < words.index("same orders")
    assert words.endswith("a random sample of 5,000 of 9,000 held-out rows.")
    assert compared["turned"]["starc_recovered"].estimate == pytest.approx(1)
    assert compared["gaps"]["rows"] == 95 and compared["none"]["rows"] == 0
    assert compared["one"]["pair_accuracy"].estimate == 0.5 and compared["one"]["starc_recovered"] is None
    assert compare_section(Bunch(compared=[], **PAIRS)) is None


def test_disagreements_are_the_clearest_ones(compared, corpus):
    turned = compared["turned"]
    listed = turned["disagreements"]
    assert all(row["compared"] * row["recovered"] < 0 for row in listed) and len(listed) == 10
    least = [min(abs(row["compared"]), abs(row["recovered"])) for row in listed]
    assert least == sorted(least, reverse=True)
    pair = corpus.data[listed[0]["index"]][:: 1 if corpus.target[listed[0]["index"]] == 1 else -1]
    assert listed[0]["preferred"][:40] == pair[0][:40]


def test_a_compared_reward_is_told_the_property_that_it_follows(corpus):
    held = held_out(corpus)
    lengths = measure_properties(held.texts)["length in words"]
    (row,) = compare_rewards({"long": lengths}, held.rewards, held, interval, difference, n_resamples=20)
    found = next(found for found in row["properties"] if found["property"] == "length in words")
    assert found["r2"].estimate == pytest.approx(1) and found["opposed_accuracy"] in (0.0, 1.0)
    assert (
        "Length in words explains 100% [100%, 100%] of the variance of the margins of long"
        in compare_section(Bunch(compared=[row], **PAIRS)).words
    )


def test_single_outputs_are_compared_by_auc(corpus):
    held = held_out(corpus)
    held |= {"texts": held.texts[:, 0], "reference_reward": None}
    rewards = held.rewards[:, 0]
    (row,) = compare_rewards({"other": rewards**3}, rewards, held, interval, difference)
    assert row["pair_accuracy"] is None and row["difference"].estimate == 0
    assert row["spearman_recovered"].estimate == pytest.approx(1)
    assert "has an AUC of" in drawn(compare_section(Bunch(compared=[row], **PAIRS)))


def trl(prompts, completions):
    return [
        None if "gap" in completion else float(len(prompt))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


@pytest.mark.parametrize("texts", [np.array([["a", "bb"], ["ccc", "gap"]], dtype=object)])
def test_rewards_of_every_kind_are_called(texts):
    regression = make_pipeline(TfidfVectorizer(analyzer="char"), Ridge()).fit(texts.ravel(), [1.0, 2.0, 3.0, 3.0])
    assert score_outputs("r", regression, texts).shape == (2, 2)
    np.testing.assert_array_equal(score_outputs("f", lambda t: [len(x) for x in t], texts), [[1, 2], [3, 3]])
    prompts = np.array(["p", "qq"], dtype=object)
    np.testing.assert_array_equal(score_outputs("trl", trl, texts, prompts), [[1, 1], [2, np.nan]])
    for bad in (lambda t: [1.0], lambda t: None, lambda t: [[1.0, 2.0]] * len(t), Ridge()):
        with pytest.raises(ValueError, match="compared reward 'bad' .* Expected a fitted reward"):
            score_outputs("bad", bad, texts)


@pytest.mark.parametrize(
    ("compare", "found"),
    [
        ([len], "of type list"),
        ({"": len}, "the name ''"),
        ({"MaxEntropyIRL": len}, "a reward of the audit"),
        ({"mine": 3}, "Expected a callable"),
    ],
)
def test_bad_rewards_are_refused(compare, found):
    with pytest.raises(ValueError, match=found):
        check_compared(compare, ["MaxEntropyIRL"])


# ------------------------------------------------------------------------------------------- rewards by name


def save_reward_model(folder, labels=("reward",), chat_template=None):
    """A tiny classifier over words, with its tokenizer."""
    tokenizer = make_tokenizer(begin="<s>", end="<end>", chat_template=chat_template)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=3, initializer_range=0.6, **sizes,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    transformers.utils.logging.disable_progress_bar()
    transformers.BertForSequenceClassification(config).eval().save_pretrained(folder)
    transformers.utils.logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    return str(folder)


def logits(folder, texts, **options):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = [tokenizer(text, return_tensors="pt", **options) for text in texts]
    return np.array([model(**each).logits.detach().numpy()[0] for each in inputs])


def test_a_reward_model_reads_the_prompt_and_the_completion(tmp_path):
    prompts, completions = ["the bench", ""], ["you are kind", "go away fool"]
    plain = load_compared(save_reward_model(tmp_path / "plain"))
    expected = logits(tmp_path / "plain", ["the bench\n\nyou are kind", "go away fool"])[:, 0]
    np.testing.assert_allclose(plain(prompts=prompts, completions=completions), expected, atol=1e-4)
    template = "{{ '<s> ' }}{% for m in messages %}{{ m.role + ' : ' + m.content + ' <end> ' }}{% endfor %}"
    chat = load_compared(save_reward_model(tmp_path / "chat", chat_template=template))
    texts = ["user : the bench <end> assistant : you are kind <end>", "assistant : go away fool <end>"]
    expected = logits(tmp_path / "chat", texts)[:, 0]  # one <s>, by the tokenizer
    np.testing.assert_allclose(chat(prompts=prompts, completions=completions), expected, atol=1e-4)


def test_a_classifier_needs_a_label_and_says_so(tmp_path):
    folder = save_reward_model(tmp_path / "two", labels=("fine", "toxic"))
    with pytest.raises(ValueError, match="has the labels fine, toxic. Expected one of them behind the model: .*:LABEL"):
        load_compared(folder)
    texts = np.array(["you are kind", "fool"], dtype=object)
    odds = np.subtract(*logits(folder, texts).T)
    np.testing.assert_allclose(load_compared(f"{folder}:fine")(texts), odds, atol=1e-4)
    np.testing.assert_allclose(load_compared(f"{folder}:-toxic")(texts), odds, atol=1e-4)


def test_saved_pipelines_and_functions_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = np.array(["kind", "rude"], dtype=object)
    skops.io.dump(make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["fine", "toxic"]), "j.skops")
    with pytest.raises(ValueError, match="has the classes 'fine', 'toxic'. Expected j.skops:LABEL"):
        load_compared("j.skops")
    assert load_compared("j.skops:-toxic")(texts)[0] > 0
    Path("my_rewards_of_a_test.py").write_text("def length(texts):\n    return [len(text) for text in texts]\n")
    assert load_compared("my_rewards_of_a_test:length")(["abc"]) == [3]
    with pytest.raises(ImportError, match="my_rewards_of_a_test .* has no 'width'"):
        load_compared("my_rewards_of_a_test:width")
    assert str(tmp_path) not in sys.path
    for gone in ("gone.skops", "no/such/folder", "gone.skops:x"):
        with pytest.raises(FileNotFoundError, match="There is no"):
            load_compared(gone)


def test_pairs_from_a_file_are_a_deployment(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": f"kind {i}", "rejected": f"rude {i}"} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    deployed = read_deployed(load_preferences(path))
    assert deployed.texts.shape == (4, 2) and sorted(deployed.sign) == [-1, -1, 1, 1]
