"""Ground-truth rewards: the numbers of the models that they wrap, each text scored once, clear errors.

The models are tiny and random, with large weights, so that rewards differ.
"""

import json
import pickle
import shutil
import socket
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path, PurePosixPath
from urllib.error import URLError

import detoxify
import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from scipy.special import expit, logit, softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from tiny_models import KINDS, SPECIAL, WORDS, make_model, make_tokenizer, save_model

from fairl_sk import MaxEntropyIRL, rewards
from fairl_sk.audit import load_pipeline
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.metrics import make_starc_scorer
from fairl_sk.pairs import stack_outputs
from fairl_sk.rewards import ClassifierReward, DetoxifyReward, EstimatorReward

TEXTS = [
    "you are kind",
    "go away you awful awful fool you are so very very awful",
    "thank",
    "the bench is green",
    "thank",
    "not a kind fool",
]
JIGSAW = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]


def save_tokenizer(folder, **options):
    make_tokenizer(begin="<s>", end="<end>", **options).save_pretrained(folder)
    return folder


def save_classifier(folder, labels, kind="bert", **options):
    """A folder with a classifier of these labels, and its tokenizer."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    config = make_model(kind, causal=False, **names, **options).config
    torch.manual_seed(len(labels))
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(save_tokenizer(folder))
    return folder


def save_checkpoint(path, folder, classes=JIGSAW, n_logits=6, names_in="dataset", **more):
    """A checkpoint in Detoxify's format, which names `folder` as its architecture, and keys of old versions."""
    torch.manual_seed(0)
    config = make_model("bert", causal=False, num_labels=n_logits).config
    model = transformers.BertForSequenceClassification(config)
    weights = {**model.state_dict(), "bert.embeddings.position_ids": torch.arange(32)[None]}
    names = {"model_name": "BertForSequenceClassification", "tokenizer_name": "PreTrainedTokenizerFast"}
    arch = {"type": "BERT", "args": {"model_type": str(folder), "num_classes": n_logits, **names}}
    config = {"arch": arch, "dataset": {"type": "Jigsaw", "args": {}}}
    config[names_in]["args"]["classes"] = classes
    torch.save({"config": config, "state_dict": weights, **more}, path)
    return path


@pytest.fixture(autouse=True)
def forget():
    """Forget the loaded models, and the texts that they scored; once for each test, and when a test calls it."""

    def clear():
        rewards.load_classifier.cache_clear()
        rewards.load_detoxify.cache_clear()

    clear()
    return clear


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def architecture(folder):
    """Configuration and tokenizer only, as the hub has them for a language model: two labels, not six."""
    make_model("bert", causal=False).config.save_pretrained(folder / "architecture")
    return save_tokenizer(folder / "architecture")


@pytest.fixture(scope="module")
def checkpoint(folder, architecture):
    return save_checkpoint(folder / "tiny.ckpt", architecture)


@pytest.fixture(scope="module")
def classifier(folder):
    return save_classifier(folder / "classifier", ["neutral", "toxic"])


@pytest.fixture
def local(checkpoint, architecture):
    return {"checkpoint": checkpoint, "config_folder": architecture}


def model_logits(folder, text):
    """Logits of one text, by transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits[0].double().numpy()


def toxicity(path, **options):
    """The reward of a text that is not toxic."""
    return ClassifierReward(path, "toxic", desirable=False, **options)


# ---------------------------------------------------------------------------------------------- Detoxify


def test_detoxify_gives_what_the_package_gives(local, checkpoint):
    package = detoxify.Detoxify(checkpoint=checkpoint)
    chance = np.array([package.predict(text)["toxicity"] for text in TEXTS])
    assert np.ptp(logit(chance)) > 0.5
    reward = DetoxifyReward(**local)
    assert reward(TEXTS).dtype == np.float64 and reward(TEXTS).shape == (len(TEXTS),)
    np.testing.assert_allclose(reward(TEXTS), -logit(chance), atol=1e-4)
    np.testing.assert_allclose(DetoxifyReward(output="probability", **local)(TEXTS), 0.5 - chance, atol=1e-6)


def test_every_kind_of_toxicity_is_a_column(local, checkpoint):
    columns = DetoxifyReward(output="probability", **local).subtypes(TEXTS)
    chance = detoxify.Detoxify(checkpoint=checkpoint).predict(TEXTS)
    assert list(columns) == list(chance)
    for name, column in columns.items():
        np.testing.assert_allclose(column, 0.5 - np.array(chance[name]), atol=1e-5)
    for name, same in [(None, "toxicity"), ("Toxic", "toxicity"), ("identity_hate", "identity_attack")]:
        reward = DetoxifyReward(category=name, output="probability", **local)
        np.testing.assert_array_equal(reward(TEXTS), columns[same])


def test_a_head_may_have_more_logits_than_names(tmp_path, architecture):
    """As "unbiased": 16 logits, 7 of them with names. "multilingual" has its names with the architecture."""
    named = [*JIGSAW, "sexual_explicit"]
    path = save_checkpoint(tmp_path / "wide.ckpt", architecture, named, n_logits=16)
    chance = detoxify.Detoxify(checkpoint=path).predict(TEXTS)
    columns = DetoxifyReward(checkpoint=path, output="probability").subtypes(TEXTS)
    assert list(columns) == list(chance) and len(columns) == 7
    np.testing.assert_allclose(columns["sexual_explicit"], 0.5 - np.array(chance["sexual_explicit"]), atol=1e-5)
    path = save_checkpoint(tmp_path / "one.ckpt", architecture, ["toxicity"], n_logits=1, names_in="arch")
    assert list(DetoxifyReward(checkpoint=path).subtypes(TEXTS)) == ["toxicity"]


def test_an_unknown_category_or_variant_is_answered_with_the_known_ones(local):
    with pytest.raises(ValueError, match="'rude'.*'toxicity', 'severe_toxicity', 'obscene'"):
        DetoxifyReward(category="rude", **local)(TEXTS)
    with pytest.raises(ValueError, match="variant='large'.*'unbiased'"):
        DetoxifyReward("large")


def test_local_files_need_no_network_and_no_package(local, monkeypatch, forget):
    expected = DetoxifyReward(**local)(TEXTS)
    asked = []
    forget()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setitem(sys.modules, "detoxify.detoxify", None)
    np.testing.assert_array_equal(DetoxifyReward(**local)(TEXTS), expected)
    assert not asked


def test_without_the_package_the_extra_is_named(monkeypatch, classifier):
    monkeypatch.setitem(sys.modules, "detoxify.detoxify", None)
    with pytest.raises(ImportError, match=r"DetoxifyReward needs detoxify.*'fairl-sk\[toxicity\]'"):
        DetoxifyReward()(TEXTS)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needs transformers.*'fairl-sk\[text\]'"):
        ClassifierReward(classifier, "toxic", desirable=False)(TEXTS)


def test_a_published_variant_is_downloaded_once(local, checkpoint, architecture, monkeypatch, tmp_path, forget):
    calls = []

    def download(url, path, digest, progress):
        calls.append((url, digest))
        shutil.copy(checkpoint, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for _ in range(2):
        forget()
        found = DetoxifyReward("unbiased", config_folder=architecture)(TEXTS)
        np.testing.assert_array_equal(found, DetoxifyReward(**local)(TEXTS))
    assert calls == [(detoxify.detoxify.MODEL_URLS["unbiased"], "c7548aa0")]


def test_without_a_network_the_missing_files_are_named(monkeypatch, tmp_path, checkpoint, architecture):
    def unreachable(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"Could not download https://.*toxic_original.*no route.*checkpoint="):
        DetoxifyReward()(TEXTS)
    with pytest.raises(FileNotFoundError, match="none.ckpt"):
        DetoxifyReward(checkpoint=tmp_path / "none.ckpt")(TEXTS)
    with pytest.raises(FileNotFoundError, match="nowhere.*config_folder"):
        DetoxifyReward(checkpoint=checkpoint, config_folder=tmp_path / "nowhere")(TEXTS)
    named = save_checkpoint(tmp_path / "named.ckpt", "bert-base-uncased")
    with pytest.raises(FileNotFoundError, match="Cannot load .*bert-base-uncased.*config_folder"):
        DetoxifyReward(checkpoint=named)(TEXTS)
    assert DetoxifyReward(checkpoint=named, config_folder=architecture)(TEXTS).shape == (len(TEXTS),)


def test_a_checkpoint_with_objects_or_of_another_format_is_refused(tmp_path, architecture):
    path = save_checkpoint(tmp_path / "objects.ckpt", architecture, notes=PurePosixPath("any object"))
    with pytest.raises(ValueError, match="objects.ckpt holds more than weights.*weights_only=False"):
        DetoxifyReward(checkpoint=path)(TEXTS)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="other.ckpt is not in Detoxify's format"):
        DetoxifyReward(checkpoint=tmp_path / "other.ckpt")(TEXTS)
    path = save_checkpoint(tmp_path / "narrow.ckpt", architecture, n_logits=3)
    with pytest.raises(ValueError, match="narrow.ckpt names 6 classes, but has 3 logits"):
        DetoxifyReward(checkpoint=path)(TEXTS)


# --------------------------------------------------------------------------------- Hugging Face classifiers


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["neutral", "toxic"], None),
        (["good", "rude", "toxic"], None),
        (["rude", "toxic"], "multi_label_classification"),
    ],
    ids=["two", "three", "independent"],
)
def test_a_label_is_read_as_the_kind_of_classifier_says(tmp_path, labels, problem):
    path = save_classifier(tmp_path, labels, problem_type=problem)
    logits = np.array([model_logits(path, text) for text in TEXTS])
    chance = (expit(logits) if problem else softmax(logits, axis=1))[:, -1]
    assert np.ptp(logit(chance)) > 0.5
    np.testing.assert_allclose(toxicity(path)(TEXTS), -logit(chance), atol=1e-4)
    np.testing.assert_allclose(ClassifierReward(path, "TOXIC", desirable=True)(TEXTS), logit(chance), atol=1e-4)
    np.testing.assert_allclose(toxicity(path, output="probability")(TEXTS), 0.5 - chance, atol=1e-5)


def test_one_logit_needs_no_name_and_a_regression_has_no_probability(folder):
    path = save_classifier(folder / "one", ["reward"])
    expected = [model_logits(path, text)[0] for text in TEXTS]
    np.testing.assert_allclose(ClassifierReward(path, None, desirable=True)(TEXTS), expected, atol=1e-5)
    path = save_classifier(folder / "regression", ["score"], problem_type="regression")
    assert ClassifierReward(path, None, desirable=True)(TEXTS).shape == (len(TEXTS),)
    with pytest.raises(ValueError, match="regression.*output='logit'"):
        ClassifierReward(path, None, desirable=True, output="probability")(TEXTS)


def test_a_wrong_parameter_is_named(classifier):
    with pytest.raises(TypeError, match="desirable"):
        ClassifierReward(classifier, "toxic")
    with pytest.raises(ValueError, match="desirable='toxic'.*True or False"):
        ClassifierReward(classifier, "toxic", desirable="toxic")
    with pytest.raises(ValueError, match="output='chance'.*'logit' or 'probability'"):
        ClassifierReward(classifier, "toxic", desirable=False, output="chance")
    with pytest.raises(ValueError, match="batch_tokens=0.*None or a whole number of at least 1"):
        toxicity(classifier, batch_tokens=0)
    with pytest.raises(ValueError, match="truncation_side='end', but expected 'left' or 'right'"):
        DetoxifyReward(truncation_side="end")
    with pytest.raises(ValueError, match="Found device='tpu9'. Expected 'cpu', 'cuda'"):
        toxicity(classifier, device="tpu9")(TEXTS)
    for label in ("rude", None):
        with pytest.raises(ValueError, match="the classifier .* has the labels 'neutral', 'toxic'"):
            ClassifierReward(classifier, label, desirable=False)(TEXTS)
    with pytest.raises(ValueError, match="max_length=33.*3 to 32"):
        toxicity(classifier, max_length=33)(TEXTS)


def test_a_head_that_would_be_random_is_refused(tmp_path):
    save_model(tmp_path / "body", "bert")
    with pytest.raises(OSError, match="lack 2 .*classifier.bias, classifier.weight.*random"):
        ClassifierReward(tmp_path / "body", "LABEL_1", desirable=False)(TEXTS)


def test_a_model_that_reads_what_is_not_handed_on_is_refused(folder):
    """GPT-2 adds the embeddings of token types, where a tokenizer gives them; by its own tokenizer there are none."""
    path = save_classifier(folder / "types", ["a", "b"], "gpt2")
    save_tokenizer(path, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    with pytest.raises(ValueError, match="types gives other logits.*token_type_ids.*callable"):
        ClassifierReward(path, "a", desirable=True)(TEXTS)


# ---------------------------------------------------------------------------------- batches, length, state


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_is_that_of_the_text_alone_whatever_the_batch(folder, kind, forget):
    path = save_classifier(folder / kind, ["neutral", "toxic"], kind)
    save_tokenizer(path, padding_side="left")
    texts = [*TEXTS, *(" ".join(WORDS[:n]) for n in range(1, 15)), " ".join(WORDS)]
    expected = [-np.diff(model_logits(path, text))[0] for text in texts]
    assert np.ptp(expected) > 0.3
    for batch_tokens in (None, 40, 1):
        forget()
        np.testing.assert_allclose(toxicity(path, batch_tokens=batch_tokens)(texts), expected, atol=1e-4)


@pytest.mark.parametrize("pad", ["kind", None])
def test_a_decoder_is_read_at_the_last_token_whatever_the_pad_token_is(folder, pad):
    """A pad token that is a word of the vocabulary, as <end> may be one, and none at all."""
    pad_id = None if pad is None else len(SPECIAL) + WORDS.index(pad)
    path = save_classifier(folder / f"pad-{pad}", ["neutral", "toxic"], "llama", pad_token_id=pad_id)
    save_tokenizer(path, pad_token=pad)
    text = f"thank you {pad or 'kind'}"
    ids = transformers.AutoTokenizer.from_pretrained(path)(text)["input_ids"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path)
    model.config.pad_token_id = None  # which reads the last column
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()
    assert toxicity(path)([text, *TEXTS])[0] == pytest.approx(logits[0] - logits[1], abs=1e-4)


def test_a_long_text_loses_the_end_that_is_asked_for_whatever_the_tokenizer_says(classifier, tmp_path):
    path = shutil.copytree(classifier, tmp_path / "left")
    save_tokenizer(path, truncation_side="left")
    kept = toxicity(path)
    assert (kept.describe()["max_length"], kept.describe()["truncation_side"]) == (32, "right")
    for side, lost, read in (("right", "end", "you are kind"), ("left", "beginning", "are kind fool")):
        reward = toxicity(path, max_length=5, truncation_side=side)
        with pytest.warns(UserWarning, match=f"1 of 2 texts are longer than 5 tokens and lose their {lost}") as caught:
            assert reward(["you are kind fool", "go"])[0] == pytest.approx(kept([read])[0], abs=1e-5)
        assert [warning.filename for warning in caught] == [__file__]


def test_a_search_loads_once_and_scores_each_text_once(folder, monkeypatch, text_features):
    texts, tokenize = [], rewards.TokenizedTexts

    def record(tokenizer, new, **options):
        texts.extend(new)
        return tokenize(tokenizer, new, **options)

    monkeypatch.setattr(rewards, "TokenizedTexts", record)
    data = make_detox_preferences(40, random_state=0)
    classifier = save_classifier(folder / "longer", ["neutral", "toxic"], max_position_embeddings=64)
    scorer = make_starc_scorer(toxicity(classifier))
    pipeline = make_pipeline(text_features, MaxEntropyIRL())
    search = GridSearchCV(pipeline, {"maxentropyirl__alpha": [1e-3, 1e-2, 1e-1]}, scoring=scorer, cv=2)
    search.fit(data.data, data.target)
    pickle.loads(pickle.dumps(scorer))(search.best_estimator_, data.data, data.target)  # as in the tasks of n_jobs
    ClassifierReward(classifier, "neutral", desirable=False, output="probability")(data.data[:, 0])
    assert rewards.load_classifier.cache_info().misses == 1 and sorted(texts) == sorted(set(data.data.ravel()))


def test_a_model_whose_files_change_is_loaded_anew(classifier, tmp_path):
    path = shutil.copytree(classifier, tmp_path / "own")
    expected, before = toxicity(path)(TEXTS), toxicity(path).describe()["weights_sha256"]
    assert before == toxicity(classifier).describe()["weights_sha256"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path)
    model.classifier.bias.data += torch.tensor([1.0, 0.0])
    model.save_pretrained(path)
    np.testing.assert_allclose(toxicity(path)(TEXTS), expected + 1, atol=1e-5)
    assert toxicity(path).describe()["weights_sha256"] != before


def test_nothing_is_loaded_before_the_first_call_and_nothing_is_pickled(classifier, local, capsys):
    for reward in (toxicity(classifier, verbose=True), DetoxifyReward(**local)):
        before = pickle.dumps(reward)
        expected = reward(TEXTS)
        assert pickle.dumps(reward) == before and len(before) < 1000
        np.testing.assert_array_equal(pickle.loads(before)(TEXTS), expected)
    assert rewards.load_classifier.cache_info().misses == rewards.load_detoxify.cache_info().misses == 1
    assert f"{len(set(TEXTS))}/{len(set(TEXTS))}" in capsys.readouterr().err


def test_the_record_says_what_the_rewards_depend_on(classifier, local):
    record = ClassifierReward(classifier, "Toxic", desirable=False, output="probability").describe()
    assert json.loads(json.dumps(record)) == record
    assert (record["reward"], record["output"], record["label"]) == ("ClassifierReward", "probability", "toxic")
    assert (record["desirable"], record["labels"], record["model"]) == (False, "exclusive", str(classifier))
    record = DetoxifyReward(category="insult", **local).describe()
    assert json.loads(json.dumps(record)) == record
    assert (record["label"], record["labels"], record["output"]) == ("insult", "independent", "logit")
    assert "tiny.ckpt" in record["model"]


# ------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["good", ""], "an empty text in row 1"),
        (["good", None], "NoneType None in row 1"),
        ("good", "one text, 'good'"),
        ([["good", "bad"]], r"shape \(1, 2\).*stack_outputs"),
        ([], r"shape \(0,\).*at least one"),
    ],
)
def test_what_is_no_text_is_named_with_its_row(texts, message):
    class Untouched:
        def __getattr__(self, name):
            raise AssertionError("the texts are checked first")

    with pytest.raises(ValueError, match=message):
        EstimatorReward(Untouched())(texts)


# ------------------------------------------------------------------------------------------ scikit-learn


@pytest.fixture(scope="module")
def corpus():
    data = make_detox_preferences(200, random_state=0)
    texts, labels = stack_outputs(data.data), data.output_labels.ravel()
    return texts, np.where(labels == 1, "kind", "toxic")


@pytest.fixture(scope="module")
def texts_classifier(corpus):
    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(*corpus)


def test_an_estimators_reward_is_its_decision_function(texts_classifier):
    toxicity = texts_classifier.decision_function(TEXTS)  # of "toxic", the larger class
    assert np.ptp(toxicity) > 0
    np.testing.assert_array_equal(EstimatorReward(texts_classifier)(pd.Series(TEXTS)), toxicity)
    for options in ({"column": "toxic", "desirable": False}, {"column": "kind"}, {"column": "KIND", "desirable": True}):
        np.testing.assert_array_equal(EstimatorReward(texts_classifier, **options)(TEXTS), -toxicity)
    chance = EstimatorReward(texts_classifier, column="kind", output="probability")(TEXTS)
    np.testing.assert_allclose(chance, expit(-toxicity) - 0.5)


def test_many_classes_and_forests_have_log_odds(corpus):
    texts, labels = corpus
    labels = np.where(np.char.startswith(texts.astype(str), "T"), "other", labels)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels)
    chance = model.predict_proba(TEXTS)[:, list(model.classes_).index("kind")]
    np.testing.assert_allclose(EstimatorReward(model, column="kind")(TEXTS), logit(chance))
    np.testing.assert_allclose(EstimatorReward(model, column="kind", desirable=False)(TEXTS), -logit(chance))
    with pytest.raises(ValueError, match="None.*'kind', 'other', 'toxic'"):
        EstimatorReward(model)(TEXTS)
    forest = make_pipeline(TfidfVectorizer(), RandomForestClassifier(5, random_state=0)).fit(*corpus)
    rewards = EstimatorReward(forest, column="kind")(texts)
    sure = forest.predict_proba(texts)[:, 0] == 1
    assert sure.any() and np.allclose(rewards[sure], np.log(2.0**52), rtol=1e-3)


def test_an_estimator_that_lacks_something_is_told_what(corpus):
    margins = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(*corpus)
    assert EstimatorReward(margins).describe()["method"] == "decision_function"
    with pytest.raises(ValueError, match="no predict_proba.*CalibratedClassifierCV"):
        EstimatorReward(margins, output="probability")(TEXTS)
    with pytest.raises(ValueError, match="'rude'.*'kind', 'toxic'"):
        EstimatorReward(margins, column="rude")(TEXTS)
    with pytest.raises(NotFittedError):
        EstimatorReward(make_pipeline(TfidfVectorizer(), LogisticRegression()))(TEXTS)
    with pytest.raises(ValueError, match="TfidfVectorizer has no classes_"):
        EstimatorReward(TfidfVectorizer().fit(TEXTS))(TEXTS)


def test_a_reward_that_is_not_finite_is_refused_with_its_row(texts_classifier):
    model = pickle.loads(pickle.dumps(texts_classifier))
    model[-1].coef_[0, model[0].vocabulary_["green"]] = np.nan
    with pytest.raises(ValueError, match=r"not finite for 1 of 6 texts \(the first in row 3\)"):
        EstimatorReward(model)(TEXTS)


def test_the_estimators_record_follows_the_estimator(texts_classifier, corpus):
    record = EstimatorReward(texts_classifier, column="toxic", desirable=False).describe()
    assert json.loads(json.dumps(record)) == record
    assert (record["label"], record["desirable"], record["output"]) == ("toxic", False, "logit")
    assert record["model"] == "TfidfVectorizer > LogisticRegression"
    again = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(*corpus)
    other = make_pipeline(TfidfVectorizer(), LogisticRegression(C=2)).fit(*corpus)
    assert EstimatorReward(again).describe()["fingerprint"] == record["fingerprint"]
    assert EstimatorReward(other).describe()["fingerprint"] != record["fingerprint"]


# --------------------------------------------------------------------------------------------- benchmark


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parent.parent / "benchmarks" / "toxicity_reference.py"
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_toxicity_reference(benchmark, tmp_path, corpus, capsys):
    texts, labels = corpus
    table = pd.DataFrame({"tweet": texts, "class": np.where(labels == "kind", 2, 1)})
    table.to_csv(tmp_path / "labelled.csv", index=False)
    scores = benchmark.main(tmp_path / "labelled.csv", tmp_path / "reference.skops", size="smoke")
    assert scores["AUC"].low <= scores["AUC"].estimate <= scores["AUC"].high
    assert scores["AUC"].estimate > 0.8
    shown = capsys.readouterr().out
    for interval in scores.values():
        assert f"{interval.estimate:.4f}   {interval.low:.4f} to {interval.high:.4f}" in shown
    saved = load_pipeline(tmp_path / "reference.skops")  # as fairl-sk audit --reference does
    assert np.mean((saved.decision_function(texts) > 0) == (labels == "kind")) > 0.8
    with pytest.raises(FileExistsError, match="reference.skops exists.*--force"):
        benchmark.main(tmp_path / "labelled.csv", tmp_path / "reference.skops", size="smoke")
    assert benchmark.main(tmp_path / "labelled.csv", tmp_path / "reference.skops", size="smoke", force=True) == scores


def test_calibration_error_is_the_distance_of_chances_from_shares(benchmark):
    y = np.array([1, 0, 1, 1, 0, 0])
    chance = np.array([0.75, 0.75, 0.75, 0.75, 0.1, 0.1])
    assert benchmark.expected_calibration_error(y, chance) == pytest.approx(0.2 / 6)
    weight = np.array([1, 0, 1, 1, 0, 2])  # rows of weight 0 are not there
    expected = (3 * 0.25 + 2 * 0.1) / 5
    assert benchmark.expected_calibration_error(y, chance, weight) == pytest.approx(expected)
