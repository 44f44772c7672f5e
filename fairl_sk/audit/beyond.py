"""Beyond the held-out rows: `novelty`, `learning_curve` and `compare` on the data of an audit. `run` calls it."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import Bunch, check_random_state

from .. import metrics
from ..learning.distilled import DistilledIRL
from .compare import MAX_COMPARED, check_compared, compare_rewards, score_outputs, some_rows
from .data import describe_reward
from .learning_curve import measure_learning_curve
from .measures import null_rewards, rewards_of
from .novelty import measure_novelty, read_deployed

OWN_NAMES = (  # of rewards in the audit's tables
    "MaxEntropyIRL", "MaxMarginIRL", "FailureAwareIRL", "DistilledIRL", "DistilledReward", "ImplicitReward",
    "shuffled labels",
)  # fmt: skip


class Beyond(NamedTuple):
    """What is audited beside the pairs.

    Attributes
    ----------
    deployed : Bunch or None
        From `fairl_sk.audit.novelty.read_deployed`.
    rows : ndarray of int
        The held-out rows that other rewards score: a sample of many.
    compared : dict of str to ndarray
        Their rewards by name.
    settings : dict
        What the compared rewards and the deployment are.
    """

    deployed: Any
    rows: np.ndarray
    compared: dict
    settings: dict


def read_beyond(deploy, compare, held, random_state=0):
    """Check what else is audited and score the held-out outputs by the compared rewards, before anything takes long.

    Parameters
    ----------
    deploy, compare
        See `fairl_sk.audit.audit`.
    held : Bunch
        The held-out rows, with ``prompts`` (n_rows,) or None.
    random_state : int, default=0
        Of the sample of more than `MAX_COMPARED` rows.

    Returns
    -------
    beyond : Beyond
    """
    compare = check_compared(compare, (*OWN_NAMES, *null_rewards(held)))
    n_rows = min(len(held.texts), MAX_COMPARED)
    rows = np.sort(check_random_state(random_state).permutation(len(held.texts))[:n_rows])
    texts, prompts = held.texts[rows], None if held.prompts is None else held.prompts[rows]
    compared = {name: score_outputs(name, reward, texts, prompts) for name, reward in compare.items()}
    settings = {"compared": {name: describe_reward(reward) for name, reward in compare.items()}} if compare else {}
    if deploy is None:
        return Beyond(None, rows, compared, settings)
    deployed = read_deployed(deploy)
    settings["deployed"] = deploy.get("provenance") if isinstance(deploy, dict) else f"{len(deployed.texts)} texts"
    return Beyond(deployed, rows, compared, settings)


def measure_beyond(beyond, train, held, pipeline, posterior, *, properties=None, n_resamples, random_state):
    """Measure novelty, the learning curve and the compared rewards.

    Parameters
    ----------
    beyond : Beyond
    train : Bunch
        Training rows: ``texts``, ``X``, ``y``, ``groups`` and ``implicit_rewards`` (or None).
    held : Bunch
        Held-out rows, with ``X``.
    pipeline : Pipeline
        Features and the recovered reward, fitted.
    posterior : LaplaceReward or None
        Of the standard deviations of rewards.
    properties : dict of str to `Property`, default=None
        From `known_properties`. None: those of the package.
    n_resamples, random_state : int
        Of the intervals.

    Yields
    ------
    part : str
    found : dict or list
        ``compared``, ``novelty`` and ``learning_curve`` when they are measured.
    """
    features, learner = pipeline[:-1], pipeline[-1]
    settings = {"n_resamples": n_resamples, "random_state": random_state}
    interval = partial(metrics.bootstrap_interval, **settings)

    def score(texts):
        X = features.transform(texts)
        return rewards_of(learner, X), None if posterior is None else _std(posterior, X)

    recovered = rewards_of(learner, held.X)
    known = Bunch(
        **{name: held[name] for name in ("texts", "groups", "index", "sign")},
        rewards=recovered,
        std=None if posterior is None else _std(posterior, held.X),
    )
    compared, kept = beyond.compared, some_rows(held, beyond.rows)
    difference = partial(metrics.bootstrap_difference, **settings)
    how = interval, difference, properties
    yield "compared", compare_rewards(compared, recovered[beyond.rows], kept, *how, **settings)
    yield "novelty", measure_novelty(train.texts, known, interval, beyond.deployed, score, random_state)
    told = {"implicit_rewards": train.implicit_rewards} if isinstance(learner, DistilledIRL) else {}
    yield (
        "learning_curve",
        measure_learning_curve(
            learner, train.X, train.y, train.groups, held.X, held.y, held.groups, random_state=random_state, known=told
        ),
    )


def _std(posterior, X):
    """Standard deviations of the rewards of outputs, of the shape of the rows."""
    std = posterior.decision_function(X.reshape(-1, X.shape[-1]), return_std=True)[1]
    return std.reshape(X.shape[:-1])
