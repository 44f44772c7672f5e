"""Features in a file or on a cluster: the rewards of features in memory, no copy, and errors that name the place."""

import tracemalloc

import dask.array as da
import numpy as np
import pytest
from dask import bag, delayed

from fairl_sk import FailureAwareIRL, FailureAwareIRLCV, MaxEntropyIRL, MaxMarginIRL, check_pairs
from fairl_sk.datasets import make_preferences
from fairl_sk.learning import blocks
from fairl_sk.learning.rows import number_outputs

LEARNERS = {
    "max_entropy": MaxEntropyIRL(),
    "max_margin": MaxMarginIRL(alpha=0.1),
    "failures": FailureAwareIRL(n_rounds=5),
    "pointwise": FailureAwareIRL(objective="max_entropy", pointwise_weight=0.5, n_rounds=2),
    "labels": FailureAwareIRL(failures="labels", n_rounds=3),
    "joint": FailureAwareIRL.paper(n_rounds=2, random_state=0),
    "hidden layers": FailureAwareIRL(hidden_layer_sizes=(4,), n_rounds=2, random_state=0),
}


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """A function that puts features into a file and gives the memory map of it; blocks are small."""
    monkeypatch.setattr(blocks, "_BLOCK", 3000)
    monkeypatch.setattr(blocks, "_PIECE", 700)

    def write(X):
        np.save(tmp_path / "X.npy", X)
        return np.load(tmp_path / "X.npy", mmap_mode="r")

    return write


@pytest.fixture(params=["file", "cluster"])
def placed(request, mapped):
    """A function that puts features into a file, or on a cluster in chunks of unequal lengths."""
    if request.param == "file":
        return mapped
    request.getfixturevalue("cluster")

    def chunked(X):
        step = len(X) // 8
        return da.from_array(X, chunks=((3 * step, 0, step, len(X) - 4 * step), *X.shape[1:-1], 3))

    return chunked


@pytest.fixture(scope="module")
def pairs():
    """Features that float16 holds exactly, some outputs twice, and labels."""
    data = make_preferences(400, 6, noise=0.1, random_state=0)
    X = data.data.astype(np.float16)
    X[1::9, 1] = X[::9, 0][: len(X[1::9])]
    return X.astype(np.float32), data.target


@pytest.mark.parametrize("name", LEARNERS)
def test_a_fit_elsewhere_is_the_fit_in_memory(name, pairs, placed):
    learner, (X, y) = LEARNERS[name], pairs
    given = {"output_labels": np.stack([y, 1 - y], axis=1)} if name == "labels" else {}
    in_memory = learner.fit(X, y, **given).decision_function(X)
    elsewhere = placed(X.astype(np.float16))
    learner.fit(elsewhere, y, **given)
    close = 0.03 if name == "max_margin" else 2e-3  # the minimum of the hinge is flat
    np.testing.assert_allclose(learner.decision_function(elsewhere), in_memory, atol=close * in_memory.std())
    np.testing.assert_allclose(learner.predict_proba(elsewhere), learner.predict_proba(X), atol=1e-5)
    assert learner.score(elsewhere, y) == learner.score(X, y)


@pytest.mark.parametrize("learner", [MaxEntropyIRL(), FailureAwareIRL(training="joint", n_rounds=2, random_state=0)])
def test_single_outputs_elsewhere(learner, pairs, placed):
    X, y = pairs[0].reshape(-1, 6), np.stack([pairs[1], 1 - pairs[1]], axis=1).ravel()
    expected = learner.fit(X, y).decision_function(X)
    found = learner.fit(placed(X), y).decision_function(X)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.std(expected))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_search_on_a_file_is_the_search_in_memory(dtype, pairs, mapped):
    X, y = pairs
    layers = [(), (2,)] if dtype == np.float16 else [()]
    search = FailureAwareIRLCV(alpha=1e-3, hidden_layer_sizes=layers, n_rounds=1, cv=2, random_state=0)
    expected = search.fit(X, y).cv_results_["mean_test_score"]
    in_file = mapped(X.astype(dtype))
    found = search.fit(in_file, y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(in_file, X)  # nothing wrote to it
    np.testing.assert_allclose(found, expected, atol=1 / 200)


def test_duplicates_elsewhere_have_one_number(pairs, placed):
    X = check_pairs(placed(pairs[0]), mapped=True)
    np.testing.assert_array_equal(number_outputs(X), number_outputs(pairs[0]))


def test_a_fit_copies_no_features(tmp_path):
    """It allocates less than a third of the features' size in Python; in torch, the blocks."""
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float16, (20_000, 2, 200))
    X[:] = np.random.default_rng(0).normal(size=(20_000, 1, 200))
    X[:, 0, 0] += 1
    tracemalloc.start()
    try:
        MaxEntropyIRL(max_iter=3, alpha=1.0).fit(X)
        assert tracemalloc.get_traced_memory()[1] < X.nbytes / 3
    finally:
        tracemalloc.stop()


def test_what_is_wrong_in_a_file_is_named_with_its_row(pairs, mapped):
    X, y = pairs
    for value in (np.nan, np.inf):
        broken = X.astype(np.float16)
        broken[321, 1, 2] = value
        with pytest.raises(ValueError, match="NaN or infinity, first in row 321 of 400"):
            MaxEntropyIRL().fit(mapped(broken), y)
    learner = MaxEntropyIRL().fit(X, y)
    with pytest.raises(ValueError, match="5 features, but MaxEntropyIRL is expecting 6"):
        learner.predict(mapped(X[..., :5]))
    for values, message in ((X[:0], "0 sample"), (X.astype(">f2"), "order of bytes"), (X[..., None], "4 axes")):
        with pytest.raises(ValueError, match=message):
            MaxEntropyIRL().fit(mapped(values))
    with pytest.raises(ValueError, match="identical on both sides"):
        MaxEntropyIRL().fit(mapped(X[:, [0, 0]]))


def test_check_pairs_copies_a_file_unless_it_is_asked_not_to(pairs, mapped):
    in_file = mapped(pairs[0].astype(np.float16))
    assert check_pairs(in_file).dtype == np.float64 and not isinstance(check_pairs(in_file), np.memmap)
    assert check_pairs(in_file, mapped=True) is in_file


@pytest.mark.filterwarnings("ignore:.* pairs (contradict|have the same features):UserWarning")  # of rounded features
def test_chunks_of_any_form_and_targets_of_dask(pairs, cluster):
    """Swapped sides, many small chunks, another dtype than the array says, and a weight for each row."""
    X, y = pairs
    weight = np.linspace(0.5, 2, len(y))
    expected = MaxEntropyIRL().fit(X[:, ::-1], 1 - y, sample_weight=weight).coef_
    chunks = da.from_array(X, chunks=(25, 2, 6))[:, ::-1]
    found = MaxEntropyIRL().fit(chunks, da.from_array(1 - y), sample_weight=da.from_array(weight))
    np.testing.assert_allclose(found.coef_, expected, rtol=1e-3)
    for dtype in (np.float64, np.int64, bool, ">f4"):
        values = X.round().astype(dtype)
        chunks = da.from_delayed(delayed(values.astype(np.float16)), X.shape, values.dtype)
        expected = MaxEntropyIRL(alpha=0.1).fit(values.astype(float), y).coef_
        np.testing.assert_allclose(MaxEntropyIRL(alpha=0.1).fit(chunks, y).coef_, expected, rtol=1e-2, atol=1e-3)


def test_what_is_wrong_on_a_cluster_is_named_with_its_block_and_row(pairs, cluster):
    X, y = pairs
    broken = X.copy()
    broken[321, 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity, first in row 321 of 400 \(block 3\)"):
        MaxEntropyIRL().fit(da.from_array(broken, chunks=((100, 0, 200, 100), 2, 6)), y)
    narrow = da.from_delayed(delayed(X[200:, :, :5]), (200, 2, 6), X.dtype)
    with pytest.raises(ValueError, match=r"Block 1 .*from row 200.* shape \(200, 2, 5\)\. Expected \(200, 2, 6\)"):
        MaxEntropyIRL().fit(da.concatenate([da.from_array(X[:200]), narrow]), y)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        MaxEntropyIRL().fit(da.from_array(X)[da.from_array(y) > 0])
    with pytest.raises(ValueError, match="Dask array of <U4. Expected numbers"):
        MaxEntropyIRL().fit(da.from_array(np.array([["good", "bad"]])))
    with pytest.raises(ValueError, match="5 features, but MaxEntropyIRL is expecting 6"):
        MaxEntropyIRL().fit(X, y).predict(da.from_array(X[..., :5]))
    with pytest.raises(ValueError, match="X of shape .400, 3, 6., with 3 axes"):
        MaxEntropyIRL().fit(da.concatenate([da.from_array(X), da.from_array(X[:, :1])], axis=1))
    with pytest.raises(ValueError, match="Dask array of shape .400,.. Expected features"):
        MaxEntropyIRL().fit(da.from_array(y), y)
    with pytest.raises(ValueError, match="Found a Dask Bag. Expected a Dask array of features"):
        MaxEntropyIRL().fit(bag.from_sequence([1, 2]))
    with pytest.raises(ValueError, match="could not convert"):
        MaxEntropyIRL().fit(da.from_delayed(delayed(np.full((5, 2, 3), "a", dtype=object)), (5, 2, 3), float))
    with pytest.raises(ValueError, match="which a search does not read"):
        FailureAwareIRLCV().fit(da.from_array(X), y)
