"""Synthetic preferences keep their promises: shapes, rewards, noise, kinds, and no giveaway."""

import numpy as np
import pytest
from conftest import chosen_first
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.utils import check_random_state

from fairl_sk.datasets import make_detox_preferences, make_preferences

# ---------------------------------------------------------------------------------------------- make_preferences


def test_make_preferences_has_the_documented_shapes_and_halves():
    bunch = make_preferences(101, 7, random_state=0)
    assert bunch.data.shape == (101, 2, 7) and bunch.reference_reward.shape == (101, 2)
    assert bunch.target.sum() == 50 and set(bunch.target) == {0, 1}
    assert not bunch.flipped.any() and len(set(bunch.groups)) == 101
    assert np.isclose(np.linalg.norm(bunch.coef), 1)
    assert np.allclose(bunch.data @ bunch.coef, bunch.reference_reward)
    margins = bunch.reference_reward[:, 0] - bunch.reference_reward[:, 1]
    assert ((margins > 0) == (bunch.target == 1)).all()  # without noise the greater reward is preferred
    assert make_preferences(20, shuffle_sides=False, random_state=0).target.tolist() == [1] * 20


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: make_preferences(50, 3, groups=10, noise=0.2, random_state=seed),
        lambda seed: make_detox_preferences(60, noise=0.3, random_state=seed),
    ],
)
def test_a_seed_gives_the_same_pairs_and_leaves_the_global_generator_alone(make):
    before = check_random_state(None).get_state()[1].copy()
    first, again, other = make(3), make(3), make(4)
    assert np.array_equal(check_random_state(None).get_state()[1], before)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first.data, other.data)


def test_make_preferences_noise_flips_that_fraction():
    bunch = make_preferences(4000, 5, noise=0.2, random_state=0)
    wrong = (bunch.reference_reward[:, 0] > bunch.reference_reward[:, 1]) != (bunch.target == 1)
    assert np.array_equal(wrong, bunch.flipped)
    assert abs(bunch.flipped.mean() - 0.2) < 0.03


def test_make_preferences_temperature_is_that_of_bradley_terry():
    bunch = make_preferences(20000, 5, temperature=0.7, random_state=0)
    margins = bunch.reference_reward[:, 0] - bunch.reference_reward[:, 1]
    fit = LogisticRegression(fit_intercept=False, C=1e6).fit(margins[:, None], bunch.target)
    assert abs(fit.coef_[0, 0] - 1 / 0.7) < 0.1
    assert not bunch.flipped.any()


def test_make_preferences_groups_share_a_prompt():
    bunch = make_preferences(400, 30, groups=8, random_state=0)
    assert set(np.bincount(bunch.groups)) == {50}
    means = np.array([bunch.data[bunch.groups == g].mean(axis=(0, 1)) for g in range(8)])
    assert means.std(axis=0).mean() > 0.5  # the prompts' part has standard deviation 1, noise alone would give 0.1


# ---------------------------------------------------------------------------------------- make_detox_preferences


@pytest.fixture(scope="module")
def detox():
    return make_detox_preferences(3000, random_state=0)


def test_detox_has_the_documented_columns(detox):
    assert {detox[name].shape for name in ("data", "reference_reward", "output_labels", "subtypes", "hard")} == {
        (3000, 2)
    }
    assert {detox[name].shape for name in ("target", "prompt", "groups", "kinds", "flipped")} == {(3000,)}
    assert all(isinstance(text, str) for text in detox.data.ravel())
    assert detox.target.sum() == 1500 and not detox.flipped.any()


def test_detox_fractions_are_exact(detox):
    counts = {kind: (detox.kinds == kind).sum() for kind in set(detox.kinds)}
    assert counts == {"T->NT": 1500, "NT->NT": 750, "T->T": 600, "NT->T": 150}
    assert (detox.hard != "").sum() == 1800
    one_kind = make_detox_preferences(7, kinds={"T->T": 1.0}, hard=0, random_state=0)
    assert set(one_kind.kinds) == {"T->T"} and set(one_kind.hard.ravel()) == {""}
    odd = make_detox_preferences(10, kinds={"NT->T": 1 / 3, "T->NT": 2 / 3}, random_state=0)
    assert (odd.kinds == "NT->T").sum() == 3


def test_detox_reward_agrees_with_labels_kinds_and_preferences(detox):
    assert np.array_equal(detox.output_labels, (detox.reference_reward > 0).astype(int))
    assert np.abs(detox.reference_reward).min() > 0.04
    assert np.array_equal(detox.subtypes == "none", detox.output_labels == 1)
    assert set(detox.subtypes.ravel()) == {"none", "insult", "threat", "obscenity", "identity"}
    labels = np.array(["T", "NT"])
    for kind, (chosen, rejected) in zip(detox.kinds, chosen_first(detox, detox.output_labels), strict=True):
        assert kind == f"{labels[rejected]}->{labels[chosen]}"
    margins = np.array([chosen - rejected for chosen, rejected in chosen_first(detox, detox.reference_reward)])
    assert np.array_equal(margins > 0, detox.kinds != "NT->T")
    assert np.abs(margins).min() > 0.049


def test_detox_noise_flips_preferences_and_renames_their_kinds():
    noisy = make_detox_preferences(1000, kinds={"T->NT": 1.0}, noise=0.25, random_state=0)
    assert np.array_equal(noisy.kinds == "NT->T", noisy.flipped) and set(noisy.kinds) == {"T->NT", "NT->T"}
    assert abs(noisy.flipped.mean() - 0.25) < 0.05


def test_detox_groups_hold_prompts_together(detox):
    for column in (detox.prompt, np.array([rejected for _, rejected in chosen_first(detox)])):
        groups = {}
        for value, group in zip(column, detox.groups, strict=True):
            assert groups.setdefault(value, group) == group
    assert len(set(detox.groups)) > 500 and np.bincount(detox.groups).max() < 30


def test_detox_texts_are_distinct_and_length_or_style_is_no_giveaway(detox):
    assert len(set(detox.data.ravel())) > 0.98 * detox.data.size
    for measure in (len, lambda text: len(text.split())):
        sizes = np.array([[measure(text) for text in row] for row in detox.data])
        chosen, rejected = np.array(chosen_first(detox, sizes)).T
        assert 0.45 < np.mean((chosen < rejected) + 0.5 * (chosen == rejected)) < 0.55
        assert 0.45 < roc_auc_score(detox.output_labels.ravel(), sizes.ravel()) < 0.55
    for sign in (str.isupper, lambda c: c == "!", lambda c: c in "\"'", lambda c: c == ","):
        counts = [sum(map(sign, text)) for text in detox.data.ravel()]
        assert 0.45 < roc_auc_score(detox.output_labels.ravel(), counts) < 0.55


def test_detox_bag_of_words_learns_it_but_fails_on_hard_cases(detox):
    train, test = next(GroupShuffleSplit(1, test_size=0.3, random_state=0).split(detox.data, groups=detox.groups))
    features = TfidfVectorizer().fit(detox.data[train].ravel()).transform(detox.data.ravel())
    differences = features[0::2] - features[1::2]
    learner = LogisticRegression(C=10, max_iter=1000).fit(differences[train], detox.target[train])
    truth = detox.reference_reward[:, 0] > detox.reference_reward[:, 1]
    right = learner.predict(differences[test]) == truth[test]
    is_hard = (detox.hard[test] != "").any(axis=1)
    assert 0.8 < right.mean() < 0.95
    assert right[~is_hard].mean() > right[is_hard].mean() + 0.03


def test_detox_hard_cases_are_of_every_kind_and_on_the_right_side(detox):
    harmless = {"negation", "quotation", "reported", "mild"}
    toxic = {"implicit", "disguise"}
    assert set(detox.hard.ravel()) == {""} | harmless | toxic
    assert set(detox.hard[detox.output_labels == 1]) == {""} | harmless
    assert set(detox.hard[detox.output_labels == 0]) == {""} | toxic
    means = {kind: detox.reference_reward[detox.hard == kind].mean() for kind in harmless}
    assert all(abs(means["mild"] + 0.15 - means[kind]) < 0.06 for kind in harmless - {"mild"})
    texts = [text.lower() for text in detox.data[detox.hard == "negation"]]
    assert sum("you are not" in text for text in texts) > 10
    assert not any("{" in text or " a idiot" in text for text in detox.data.ravel())


@pytest.mark.parametrize(
    ("make", "parameters", "message"),
    [
        (make_preferences, {"n_pairs": 1}, r"'n_pairs' .* must be an int in the range \[2, inf\). Got 1"),
        (make_preferences, {"noise": 0.6}, r"'noise' .* must be a float in the range \[0.0, 0.5\]. Got 0.6"),
        (make_preferences, {"temperature": 0}, "'temperature' .* Got 0"),
        (make_preferences, {"groups": 1001}, "groups=1001 for n_pairs=1000. Expected at most one group for each"),
        (make_detox_preferences, {"hard": 1.5}, r"'hard' .* range \[0.0, 1.0\]. Got 1.5"),
        (make_detox_preferences, {"kinds": (0.5, 0.5)}, "'kinds' .* must be an instance of 'dict'"),
        *(
            (make_detox_preferences, {"kinds": kinds}, "Found kinds=.* add up to 1, for some .* 'T->NT', 'NT->NT'")
            for kinds in ({"T->N": 1.0}, {"T->NT": 0.5}, {"T->NT": 1.5, "T->T": -0.5}, {"T->NT": np.nan}, {})
        ),
    ],
)
def test_what_is_out_of_range_is_refused(make, parameters, message):
    with pytest.raises(ValueError, match=message):
        make(**parameters)
