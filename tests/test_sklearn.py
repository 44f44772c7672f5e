"""Every public estimator, found by walking the package, through every check of scikit-learn, none excused."""

import importlib
import inspect
import pkgutil
from collections import defaultdict
from unittest import SkipTest

import pytest
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

import fairl_sk.implicit
from fairl_sk import (
    DistilledIRL,
    FailureAwareIRL,
    LaplaceReward,
    MaxMarginIRL,
    PairTransformer,
    TextFeatures,
    TransformerEmbedder,
)
from fairl_sk.implicit import DistilledReward, ImplicitReward, OwnStates

# Besides each class as constructed without arguments: settings that change what runs. Adam's learners train on every
# failure, as a row of weight 2 is not sampled as two rows are.
TRAINED = {"failure_rate": 1.0, "learning_rate": 0.03}
VARIANTS = [
    PairTransformer(StandardScaler()),
    FailureAwareIRL("max_margin", tol=1e-2),
    FailureAwareIRL(hidden_layer_sizes=(8,), **TRAINED),
    FailureAwareIRL.paper(**TRAINED, n_rounds=50),
    FailureAwareIRL.paper(failure_gradient="both", **TRAINED, n_rounds=50),
    LaplaceReward(MaxMarginIRL(tol=1e-2), prior=1.0),
]


def public_modules():
    """The package's modules, rooms and the modules in them; ``__main__`` would run the command line."""
    for info in pkgutil.walk_packages(fairl_sk.__path__, "fairl_sk."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def public_estimators():
    """Classes with ``fit`` that the package defines under public names, wherever they stand.

    Failure detectors are none: they predict nothing (test_failures.py). Nor are the skorch net that estimators train
    and classes that others derive from.
    """
    found = set()
    for module in public_modules():
        for name, value in inspect.getmembers(module, inspect.isclass):
            own = value.__module__ == module.__name__ and not name.startswith("_")
            if own and issubclass(value, BaseEstimator) and hasattr(value, "fit") and not _is_excused(value):
                found.add(value)
    bases = {base for cls in found for base in cls.__mro__[1:]}
    return sorted(found - bases, key=lambda cls: cls.__name__)


def _is_excused(cls):
    return hasattr(cls, "detect") or any(base.__module__.startswith("skorch") for base in cls.__mro__)


def test_the_walk_finds_the_estimators():
    names = [cls.__name__ for cls in public_estimators()]
    assert names == [
        "DistilledIRL",
        "DistilledReward",
        "FailureAwareIRL",
        "FailureAwareIRLCV",
        "ImplicitReward",
        "LaplaceReward",
        "MaxEntropyIRL",
        "MaxEntropyIRLCV",
        "MaxMarginIRL",
        "MaxMarginIRLCV",
        "MultiObjectiveIRL",
        "OwnStates",
        "PairTransformer",
        "TextFeatures",
        "TransformerEmbedder",
    ]
    assert all(name in fairl_sk.__all__ + fairl_sk.implicit.__all__ for name in names)


def make(cls):
    """An estimator with as few arguments as it needs; those that read language models need one."""
    return cls("folder") if cls.__module__.startswith("fairl_sk.implicit") else cls()


def takes_features(estimator):
    """scikit-learn's checks feed features; it checks no text transformer, its own included, beyond the interface.

    They know no implicit rewards either, which `DistilledIRL` needs.
    """
    return get_tags(estimator).input_tags.two_d_array and not isinstance(estimator, DistilledIRL)


# Three folds, as scikit-learn checks its own searches, and at a looser gap: the check of weights puts the same rows
# into every fold, and on these 45 rows of 30 features a hinge at gap 1e-4 turns the rounding of a row twice into 1e-3.
SETTINGS = {name: {"cv": 3, "tol": 1e-2} for name in ("FailureAwareIRLCV", "MaxEntropyIRLCV", "MaxMarginIRLCV")}
SETTINGS["MaxMarginIRL"] = {"tol": 1e-2}

ESTIMATORS = [
    cls().set_params(**SETTINGS.get(cls.__name__, {})) for cls in public_estimators() if takes_features(make(cls))
] + VARIANTS
OF_TEXTS = [cls for cls in public_estimators() if not takes_features(make(cls))]

# All that need no data.
INTERFACE_CHECKS = [
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_mixin_order,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_set_params,
    estimator_checks.check_valid_tag_types,
]


@pytest.mark.parametrize("check", INTERFACE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("cls", OF_TEXTS)
def test_interface_of_what_is_not_checked_further(cls, check):
    check(cls.__name__, make(cls))


def test_the_others_are_default_constructible():
    needs_models = [DistilledReward, ImplicitReward, OwnStates]
    assert {*OF_TEXTS} == {DistilledIRL, TextFeatures, TransformerEmbedder, *needs_models}
    for cls in (DistilledIRL, TextFeatures, TransformerEmbedder):
        estimator_checks.check_parameters_default_constructible(cls.__name__, cls())


@parametrize_with_checks(ESTIMATORS)
def test_sklearn_check(estimator, check):
    try:
        check(estimator)
    except SkipTest as reason:  # pytest would count it as no failure
        pytest.fail(f"{check.func.__name__} did not run: {reason}")


def test_so_many_checks_run():
    """A tag can make scikit-learn leave checks out and report success : count those that it gives us.

    Each of them runs to its end, as `test_sklearn_check` lets none be skipped and none is expected to fail.
    """
    runs = [run for estimator in ESTIMATORS for run in estimator_checks_generator(estimator)]
    checks = defaultdict(set)
    for estimator, check in runs:
        checks[type(estimator).__name__].add(check.func.__name__)
    print({name: len(found) for name, found in checks.items()}, "distinct checks;", len(runs), "runs")
    assert len(runs) >= 690
    learners = [name for name in checks if "IRL" in name and name != "MultiObjectiveIRL"]
    assert len(learners) == 6
    assert min(len(checks[name]) for name in [*learners, "LaplaceReward"]) >= 55
    assert len(checks["PairTransformer"]) >= 44
    assert len(checks["MultiObjectiveIRL"]) >= 46  # with y as a column: no classifier, whose checks are of one output
    # The ones that a wrong tag would drop first.
    assert {
        "check_classifiers_train",
        "check_n_features_in",
        "check_sample_weight_equivalence_on_dense_data",
    } <= checks["FailureAwareIRL"]
