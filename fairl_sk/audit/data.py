"""The data of an audit: checked, joined with a reference, split by whole groups, made into features. `run` reads it."""

import numpy as np
import sklearn
from sklearn.model_selection import GroupShuffleSplit
from sklearn.utils import Bunch, gen_batches

from ..datasets import make_detox_preferences
from ..learning.rows import array_in_file
from ..pairs import preference_sign
from ..warn import warn_user
from .checks import warn_of_unseen_texts, with_votes

LARGE = 2**30  # bytes of features
ABOUT_CORPUS = (
    "Short texts that fairl_sk wrote by rules, toxic (T) or not (NT), with a known reward. The output with the higher "
    "reward is preferred. Only pairs of the kind NT->T are reversed: their toxic output is preferred, as if mislabeled."
)


def package_corpus(random_state):
    """The package's own 2,000 pairs, made with the seed ``random_state``."""
    provenance = {"made by": f"make_detox_preferences(2000, random_state={random_state})", "what": ABOUT_CORPUS}
    return Bunch(**make_detox_preferences(2000, random_state=random_state), provenance=provenance)


def check_data(data):
    """The data with arrays of texts, targets and groups, as `load_preferences` returns them."""
    expected = "Expected what fairl_sk.datasets.load_preferences returns: a Bunch with data, target and groups."
    if not isinstance(data, dict) or any(data.get(name) is None for name in ("data", "target", "groups")):
        found = list(data) if isinstance(data, dict) else ""
        raise ValueError(f"Got data of type {type(data).__name__} {found}. {expected}")
    texts = np.asarray(data["data"], dtype=object)
    if texts.ndim not in (1, 2) or texts.shape[1:] not in ((), (2,)) or not all(isinstance(t, str) for t in texts.flat):
        raise ValueError(
            f"Got data.data of shape {texts.shape} that are not texts of pairs (n_pairs, 2) or outputs (n_outputs,). "
            f"{expected} For features, fit the estimators themselves."
        )
    arrays = {"data": texts, "target": np.asarray(data["target"]), "groups": np.asarray(data["groups"])}
    return Bunch(**with_votes({**data, **arrays}))


def with_known_rewards(data):
    """The data with complete reference rewards or None, and labels that follow from them unless it has its own."""
    rewards, labels = data.get("reference_reward"), data.get("output_labels")
    if rewards is not None and not np.isfinite(rewards).all():
        warn_user(
            f"reference_reward is missing or not finite for {np.sum(~np.isfinite(rewards))} of {np.size(rewards)} "
            "outputs, so STARC and the labels that follow from it are left out. Fill those values, drop their rows, or "
            "give a reference.",
        )
        rewards = None
    if labels is None and rewards is not None:
        labels = (rewards > 0).astype(int)
    subtypes = data.get("subtypes")
    named = [] if subtypes is None else np.unique(subtypes)
    return Bunch(
        **{**data, "reference_reward": rewards, "output_labels": labels},
        reference=None if rewards is None else "known to the data",
        of_subtype={str(name): subtypes == name for name in named if name not in ("", "none")},
    )


def complete_implicit_rewards(data):
    """Implicit rewards of all outputs, or None."""
    values = data.get("implicit_rewards")
    if values is None:
        return None
    values = np.asarray(values, dtype=np.float64)
    if values.shape != data.data.shape:
        raise ValueError(f"Got implicit_rewards of shape {values.shape}. Expected one an output, {data.data.shape}.")
    if np.isfinite(values).all():
        return values
    warn_user(
        f"implicit_rewards are missing or not finite for {np.sum(~np.isfinite(values))} of {values.size} outputs, so "
        "rewards that are learned from them are left out. Fill those values, or drop their rows.",
    )
    return None


def with_reference(data, reference):
    """The data with the rewards, labels and sub-types that a reference gives to its texts."""
    texts = data.data.ravel()
    try:
        of_subtype = {}
        if hasattr(reference, "subtypes"):
            by_label = reference.subtypes(texts)
            rewards = by_label.pop(reference.describe()["label"])
            of_subtype = {name: (values <= 0).reshape(data.data.shape) for name, values in by_label.items()}
        else:
            rewards = np.asarray(reference(texts), dtype=np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"The reference failed on the {len(texts)} texts: {error} Expected a (fitted) reward that takes an array "
            "of texts and gives one finite number for each."
        ) from error
    if rewards.shape != texts.shape or not np.isfinite(rewards).all():
        raise ValueError(
            f"The reference gave an array of shape {rewards.shape} with {np.sum(~np.isfinite(rewards))} values that "
            f"are not finite. Expected one finite reward for each of the {len(texts)} texts."
        )
    known = with_known_rewards({**data, "reference_reward": rewards.reshape(data.data.shape), "output_labels": None})
    known.of_subtype = of_subtype or known.of_subtype
    known.reference = describe_reward(reference)
    return known


def describe_reward(reward):
    """What a reward is, for the record: its own description, the name of a function, or its repr on one line."""
    if hasattr(reward, "describe"):
        return reward.describe()
    named = hasattr(reward, "__qualname__")
    return f"{reward.__module__}.{reward.__qualname__}" if named else on_one_line(reward)


def split_groups(data, test_size, random_state):
    """Row numbers of the training and the held-out part, whole groups each."""
    found = f"Found {len(data.data)} rows in {len(np.unique(data.groups))} group(s) (one per prompt or rejected text)."
    if len(np.unique(data.groups)) < 2:
        raise ValueError(f"{found} Expected at least two groups: one part of them is held out.")
    splitter = GroupShuffleSplit(n_splits=1, test_size=test_size, random_state=random_state)
    train, test = next(splitter.split(data.data, groups=data.groups))
    if len(np.unique(data.groups[test])) < 2:
        raise ValueError(f"{found} Expected at least two held-out groups, for intervals: give pairs of more prompts.")
    for name, rows in (("training", train), ("held-out", test)):
        if len(np.unique(data.target[rows])) < 2:
            raise ValueError(
                f"The {name} part has {len(rows)} rows, all of one class. Expected two classes: give more pairs, "
                "another seed, or shuffle the sides."
            )
    return train, test


def held_out_rows(data, test):
    """The held-out rows. What is known of outputs has the shape of the texts, or is None."""
    return Bunch(
        texts=data.data[test],
        y=data.target[test],
        sign=preference_sign(data.target, len(data.target))[test],
        groups=data.groups[test],
        index=data.get("source_index", np.arange(len(data.data)))[test],
        prompts=None if data.get("prompt") is None else np.asarray(data.prompt, dtype=object)[test],
        labels=None if data.output_labels is None else data.output_labels[test],
        reference_reward=None if data.reference_reward is None else data.reference_reward[test],
        of_subtype={name: of_it[test] for name, of_it in data.of_subtype.items()},
    )


def fit_features(features, texts):
    """A fitted clone of a transformer, and what it makes of the training texts."""
    features = sklearn.clone(features)
    try:
        X = features.fit_transform(texts)
    except AttributeError as error:  # a text where scikit-learn's vectorizers get a pair
        raise ValueError(
            f"{on_one_line(features)} cannot read texts of shape {texts.shape} ({error}). Expected a "
            "TransformerEmbedder or a PairTransformer: put a transformer of single texts into PairTransformer(...)."
        ) from error
    warn_of_unseen_texts(X, texts)
    return features, in_file(X)


def in_file(X):
    """Large features in a temporary file, which learners read by block; as they are if the disk has no room."""
    if not isinstance(X, np.ndarray) or X.nbytes < LARGE or X.dtype.kind not in "fiu" or not X.dtype.isnative:
        return X
    try:
        return array_in_file((X[part] for part in gen_batches(len(X), 1024)), X.dtype, X.shape)
    except OSError:
        return X


def on_one_line(value):
    """The repr of an object, without line breaks."""
    return " ".join(repr(value).split())
