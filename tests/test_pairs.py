"""Pairs: reading, checking, shuffling, and lifting a transformer to them."""

import dask.array as da
import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.utils import get_tags

from fairl_sk import MaxEntropyIRL, MaxEntropyIRLCV, PairTransformer, check_pairs, make_pairs
from fairl_sk.metrics import pair_accuracy, pair_accuracy_scorer
from fairl_sk.pairs import is_pairs, preference_sign, read_texts, split_pairs, stack_outputs


@given(arrays(st.sampled_from([np.float32, np.float64, np.int64]), array_shapes(min_dims=3, max_dims=3), elements=None))
@example(np.array([[[-np.inf], [np.inf]]]))
def test_check_pairs_keeps_or_refuses(X):
    """Any 3-D array of numbers is either refused by name or given back with the same values."""
    if X.shape[1] != 2:
        with pytest.raises(ValueError, match=r"Expected features: \(n_pairs, 2, n_features\)"):
            check_pairs(X)
    elif not np.isfinite(X.astype(float)).all():
        with pytest.raises(ValueError, match="NaN|infinity|too large"):
            check_pairs(X)
    else:
        checked = check_pairs(X)
        assert checked.shape == X.shape
        assert checked.dtype == (np.float32 if X.dtype == np.float32 else np.float64)
        np.testing.assert_array_equal(checked, X.astype(checked.dtype))


def test_check_pairs_takes_every_container_and_counts_the_features_of_an_output():
    X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    for form in (X, X.tolist(), tuple(map(list, X)), np.asfortranarray(X), X[::-1][::-1]):
        estimator = MaxEntropyIRL()
        np.testing.assert_array_equal(check_pairs(form, estimator=estimator), X)
        assert estimator.n_features_in_ == 3


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((3, 3, 2)), r"shape \(3, 3, 2\).*Expected features: \(n_pairs, 2, n_features\)"),
        ([[[1, 2], [3, 4]], [[1, 2]]], "ragged.*inhomogeneous.*Expected pairs"),
        ([["a", "b"]], "text.*PairTransformer"),
        (np.zeros((0, 2, 2)), r"0 sample"),
        (sparse.eye(3).tocsr(), "[Ss]parse"),
        (np.zeros((2, 2, 2, 2)), r"shape \(2, 2, 2, 2\), with 4 axes.*flatten"),
        (np.zeros((2, 2, 0)), r"shape \(2, 2, 0\).*at least one feature"),
        (np.zeros((2, 0)), r"0 feature\(s\)"),
        (None, r"Found X=None. Expected features: \(n_pairs, 2, n_features\)"),
        (np.array(["a", "b"]), "text"),
    ],
)
def test_check_pairs_says_what_is_wrong(X, message):
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        check_pairs(X)


def test_tables_of_texts():
    table = pd.DataFrame({"chosen": ["a", "b"], "rejected": ["c", "d"], "prompt": ["p", "q"]})
    assert is_pairs(table)
    assert stack_outputs(table).tolist() == ["p\n\na", "p\n\nc", "q\n\nb", "q\n\nd"]
    assert not is_pairs(pd.DataFrame({"completion": ["a"]}))
    ask = {"role": "user", "content": "hi"}
    data = {side: [[ask, {"role": "assistant", "content": side}]] for side in ("chosen", "rejected")}
    assert stack_outputs(datasets.Dataset.from_dict(data)).tolist() == ["hi\n\nchosen", "hi\n\nrejected"]
    for X in (["a", "b"], np.zeros((3, 2))):
        with pytest.raises(ValueError, match="Expected pairs"):
            stack_outputs(X)


ASK, WELL, ILL = ({"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "a"), ("user", "b")))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": "a", "rejected": "b"},
        {"prompt": [ASK], "chosen": [WELL], "rejected": [ILL]},
        {"prompt": "hi", "chosen": [ASK, WELL], "rejected": [ASK, ILL]},
        {"chosen": [ASK, WELL], "rejected": [ASK, ILL]},
        {"chosen": "hi\n\na", "rejected": "hi\n\nb"},
    ],
)
def test_outputs_of_a_table_keep_their_prompts_apart(row):
    table = pd.DataFrame([{**row, "other": 1}] * 2)
    outputs = split_pairs(table)
    assert not is_pairs(outputs) and outputs["other"] == [1] * 4
    assert read_texts(outputs).tolist() == stack_outputs(table).tolist() == ["hi\n\na", "hi\n\nb"] * 2
    assert ("prompt" not in row) or all(outputs["prompt"])


def test_conversations_outside_a_table_are_refused():
    """Two messages in a row would be a pair."""
    one, two = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    for X in ([[one, two]], [[one], [one, two]], [[[one], [two]]], [one, two], pd.Series([[one]])):
        for call in (is_pairs, stack_outputs, PairTransformer(TfidfVectorizer()).fit):
            with pytest.raises(ValueError, match="conversations .*table|table. Expected conversations"):
                call(X)
    assert not is_pairs(pd.DataFrame({"completion": [[one, two]]}))


@pytest.mark.parametrize("record", [{"chosen": "a", "rejected": "b"}, {"prompt": "p", "completion": "a"}])
def test_a_list_of_records_names_the_call_that_makes_a_table(record):
    for call in (is_pairs, read_texts, PairTransformer(TfidfVectorizer()).fit):
        with pytest.raises(
            ValueError, match=r"records with the keys .* pass pandas.DataFrame\(records\), or read them"
        ):
            call([record, record])
    assert is_pairs(pd.DataFrame([record])) == ("chosen" in record)


def test_numbers_in_a_column_of_texts_are_refused():
    for table in ({"chosen": [0.5, 1.5], "rejected": [1.0, 2.0]}, {"completion": [0.5, None], "age": [3.0, 4.0]}):
        for call in (is_pairs, check_pairs, PairTransformer().fit):
            with pytest.raises(ValueError, match=f"olumn '{list(table)[0]}'(.* float nan| holds numbers .*rename)"):
                call(pd.DataFrame(table))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (pd.DataFrame({"good": ["a"], "bad": ["b"]}), "columns .*good.*Expected 'chosen' and 'rejected'"),
        (datasets.Dataset.from_dict({"text": ["a"]}), "columns .*text.*Expected 'chosen'"),
        (pd.DataFrame({"chosen": ["a", None], "rejected": ["c", "d"]}), "row 1 of column 'chosen'.*(None|nan)"),
        (
            pd.DataFrame({"chosen": ["a"], "rejected": ["b"], "prompt": [3]}),
            "Column 'prompt' holds numbers .3",
        ),
        (np.array([["a", 1.5]], dtype=object), "row 0, side 1.*1.5"),
        (np.array([["a", "b", "c"]]), r"texts of shape \(1, 3\).*Expected \(n_pairs, 2\)"),
        ([[None, "b c"], ["c d", "d e"]], "row 0, side 0, but found NoneType None.*drop or fill"),
        (["b c", np.nan], "row 1, but found float nan.*drop or fill"),
    ],
)
def test_bad_texts_are_named(X, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        PairTransformer(TfidfVectorizer()).fit(X)


def test_preference_sign():
    for y, sign in ((None, [1, 1]), ([0, 1], [-1, 1]), ([1, 1], [1, 1]), ([0, 0], [-1, -1]), ([-1, -1], [-1, -1])):
        assert preference_sign(y, 2).tolist() == sign
    assert preference_sign(["y", "y"], 2, classes=["x", "y"]).tolist() == [1, 1]


REVERSED = "left right, A B, a b, model_a model_b, first second, response_1 response_2, chosen rejected, better worse, "
REVERSED += "nontoxic toxic, safe unsafe, option-1 option-2, response_0 response_1, A>B B>A, a_wins b_wins, "
REVERSED += "prefer_left prefer_right, choice_1 choice_2, Candidate_A Candidate_B"
REVERSED = [pair.split() for pair in REVERSED.split(", ")]


@pytest.mark.parametrize("classes", [*REVERSED, [1, 2], [1.0, 2.0], ["1", "2"]])
def test_labels_whose_words_have_the_reverse_order_are_refused_everywhere(classes, preferences):
    X, y = preferences.data, np.where(preferences.target == 1, *classes)
    for use in (
        lambda: MaxEntropyIRL(random_state=0).fit(X, y),
        lambda: MaxEntropyIRLCV(random_state=0).fit(X, y),
        lambda: pair_accuracy(y, X[:, 0, 0]),
        lambda: pair_accuracy_scorer(MaxEntropyIRL(random_state=0).fit(X, preferences.target), X, y),
    ):
        with pytest.raises(ValueError, match=f"Code them as 1 and 0: y = .y == '?{classes[0]}|Found the label '"):
            use()
    code = (y == classes[0]).astype(int)
    assert (code == preferences.target).all()


@pytest.mark.parametrize("classes", [["lose", "win"], ["bad", "good"], [0, 1], [-1, 1], ["no", "yes"], ["one", "two"]])
def test_other_labels_are_taken(classes, preferences):
    y = np.where(preferences.target == 1, classes[1], classes[0])
    assert pair_accuracy(y, 2.0 * preferences.target - 1) == 1


def test_the_grades_1_and_2_of_outputs_are_taken(preferences):
    outputs = preferences.data.reshape(-1, 8)
    y = np.where(preferences.reference_reward.ravel() > 0, 2, 1)
    assert MaxEntropyIRL(random_state=0).fit(outputs, y).score(outputs, y) > 0.9


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([0, 1, 2], {}, "Found 3 classes"),
        (["x", "x", "x"], {}, "Found 1 class in y"),
        ([0, 1], {}, "2 labels for 3 rows"),
        ([0, 1, 5], {"classes": [0, 1]}, r"label 5 in.*two classes \[0, 1\]"),
        ([0, 1, 0.5], {}, "found 0.5 in y.*twice.*sample_weight 0.5 each"),
        (["a", None, "b"], {}, "None in y, first at row 1"),
        ([0.0, np.nan, 1.0], {"classes": [0, 1]}, "NaN"),
    ],
)
def test_preference_sign_refuses(y, options, message):
    with pytest.raises(ValueError, match=message):
        preference_sign(y, 3, **options)


@given(st.integers(1, 50), st.integers(0, 10))
def test_make_pairs_swaps_half_and_loses_nothing(n, seed):
    chosen, rejected = [f"c{i}" for i in range(n)], [f"r{i}" for i in range(n)]
    X, y = make_pairs(chosen, rejected, random_state=seed)
    assert (y == 0).sum() == n // 2
    first = np.where(y == 1, X[:, 0], X[:, 1])
    assert first.tolist() == chosen
    assert np.where(y == 1, X[:, 1], X[:, 0]).tolist() == rejected
    again, _ = make_pairs(chosen, rejected, random_state=seed)
    assert again.tolist() == X.tolist()


def test_make_pairs_refuses():
    for chosen, rejected, message in (
        (["a"], ["b", "c"], r"chosen of shape \(1,\) and rejected of shape \(2,\)"),
        ([], [], "at least one pair"),
        (["a", None], ["b", "c"], "Expected text at row 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_pairs(chosen, rejected)


def test_each_distinct_output_is_seen_once(rng):
    outputs = rng.normal(size=(5, 3))
    X = outputs[rng.integers(0, 5, size=(40, 2))]
    seen = []
    lift = PairTransformer(FunctionTransformer(lambda rows: seen.append(len(rows)) or rows + 1))
    np.testing.assert_array_equal(lift.fit(X).transform(X), X + 1)
    assert seen == [5]


def test_equal_to_the_inner_transformer_on_each_side_in_every_container(detox, text_features):
    lifted = text_features.fit_transform(detox.data)
    inner = clone(text_features.transformer).fit(np.unique(detox.data.ravel()))
    expected = np.stack([inner.transform(detox.data[:, side]) for side in (0, 1)], axis=1)
    np.testing.assert_allclose(lifted, expected, atol=1e-6)
    np.testing.assert_allclose(text_features.transform(stack_outputs(detox.data)), lifted.reshape(-1, 16), atol=1e-6)
    data = detox.data[:50]
    table = pd.DataFrame(data, columns=["chosen", "rejected"])
    for form in (data, data.tolist(), data.astype(str), table, table.astype("string"), np.asfortranarray(data)):
        np.testing.assert_allclose(text_features.transform(form), lifted[:50], atol=1e-6)


def test_sparse_features_of_pairs_are_refused_with_the_remedy(detox):
    with pytest.raises(ValueError, match="TruncatedSVD"):
        PairTransformer(TfidfVectorizer()).fit_transform(detox.data)
    outputs = PairTransformer(TfidfVectorizer()).fit(detox.data).transform(detox.data[:, 0])
    assert sparse.issparse(outputs)


VECTORS = TfidfVectorizer(token_pattern=r"\w+")


@pytest.mark.parametrize("first", [VECTORS, make_pipeline(VECTORS), make_union(VECTORS, CountVectorizer())])
def test_features_instead_of_texts_are_refused_with_the_remedy(first, rng):
    fitted = PairTransformer(make_pipeline(first, TruncatedSVD(2))).fit([["ab bc", "bc cc"], ["cc dd", "dd ee"]])
    for X, found in (
        (rng.normal(size=(5, 2, 3)), r"features of shape \(5, 2, 3\)"),
        (pd.DataFrame({"a": [1, 2, 3]}), r"features of shape \(3, 1\)"),
        (sparse.eye(3).tocsr(), r"features of shape \(3, 3\)"),
        (None, "X=None"),
    ):
        for call in (clone(fitted).fit, clone(fitted).fit_transform, fitted.transform):
            with pytest.raises(ValueError, match=f"Found {found}, but .*Vectorizer reads texts.*Pass the texts"):
                call(X)


@pytest.mark.parametrize(("bad", "shape"), [(np.nan, (3, 2, 4)), (np.inf, (3, 4))])
def test_values_that_are_not_finite_come_with_a_remedy_for_pairs(bad, shape):
    X = np.zeros(shape)
    X.flat[5] = bad
    for call in (check_pairs, PairTransformer().fit):
        with pytest.raises(ValueError, match=r"(?s)X contains (NaN|inf).*drop the rows.*PairTransformer\(SimpleImput"):
            call(X)


def test_missing_values_are_left_to_the_inner_transformer(rng):
    X = rng.normal(size=(6, 2, 3))
    X[0, 0, 0] = np.nan
    filled = PairTransformer(SimpleImputer()).fit_transform(X)
    assert filled[0, 0, 0] == pytest.approx(np.nanmean(X[..., 0]))
    np.testing.assert_array_equal(filled[1:], X[1:])
    assert np.isfinite(PairTransformer(make_pipeline(SimpleImputer(), PCA(2))).fit_transform(X)).all()
    assert get_tags(PairTransformer(SimpleImputer())).input_tags.allow_nan
    for refusing, name in ((PCA(2), "PCA"), (None, "PairTransformer")):
        with pytest.raises(ValueError, match=f"(?s)contains NaN.*{name} does not accept"):
            PairTransformer(refusing).fit(X)
        assert not get_tags(PairTransformer(refusing)).input_tags.allow_nan


def test_string_features_for_transformers_of_columns():
    assert not is_pairs(np.array([[1, "red", 3.0], [2, "blue", 4.0]], dtype=object))
    assert list(PairTransformer(PCA(2)).fit(np.eye(3)).get_feature_names_out()) == ["pca0", "pca1"]
    X = np.array([[["red", 1], ["blue", 2]], [["blue", 1], ["red", 3]]], dtype=object)
    one_hot = OneHotEncoder(sparse_output=False)
    columns = make_column_transformer((one_hot, [0]), (StandardScaler(), [1]))
    for transformer in (one_hot, make_pipeline(one_hot), columns):
        lift = PairTransformer(transformer)
        features = lift.fit_transform(X)
        assert features[..., 0].tolist() == [[0.0, 1.0], [1.0, 0.0]]  # blue
        # two strings a row are features here, and not the two texts of a pair
        np.testing.assert_array_equal(lift.transform(X[:, 0]), features[:, 0])
    ordinal = PairTransformer(OrdinalEncoder()).fit_transform(pd.DataFrame({"colour": ["b", "a"], "size": ["s", "s"]}))
    assert ordinal.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match=r"texts of shape \(2, 2, 2\)"):
        PairTransformer(StandardScaler()).fit(X)


def test_an_array_of_dask_without_a_cluster_says_how_to_start_one(preferences):
    array = da.from_array(preferences.data)
    with pytest.raises(RuntimeError, match="connected to none. Start one"):
        check_pairs(array, mapped=True)
    np.testing.assert_array_equal(check_pairs(array), preferences.data)  # copied into memory
