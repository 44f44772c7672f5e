"""The steps of a fit: prepare the rows, solve the base path, train the failure paths, or train both jointly.

A single fit (`fairl_sk.learning.estimators`) takes these steps once; a search (`fairl_sk.learning.search`) takes them
for all of its candidates.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ..device import torch_device
from .curriculum import Curriculum, Schedule
from .net import DualPathNet, ProgressBar, export_head, rewards_of_heads
from .pointwise import estimate_weight
from .rows import difference_scale, discount_duplicates, number_outputs, preferred_first, signed_differences
from .solvers import solve_max_entropy, solve_max_margin

__all__ = [
    "BasePath",
    "Problem",
    "Settings",
    "few_threads",
    "output_offset",
    "prepare",
    "separating_threshold",
    "settle_pointwise_weight",
    "solve_base",
    "train_failures",
    "train_jointly",
]

_SOLVERS = {"max_margin": solve_max_margin, "max_entropy": solve_max_entropy}


@dataclass(frozen=True)
class Settings:
    """What a fit minimizes, from an estimator's parameters.

    Parameters
    ----------
    objective : {"max_margin", "max_entropy"}
    required, required_fail : float
        M and M_fail, or tau and tau_fail.
    alpha, alpha_fail : float
        L2 strengths.
    schedule : Schedule
        The curriculum; idle in the standard learners.
    pointwise_weight : float or "auto", default=0.0
    recurrence_correlation : float, default=0.0
    failure_gradient : {"failure", "both"}, default="failure"
    learning_rate : float or "auto", default="auto"
    tol : float, default=1e-5
    max_iter : int, default=1000
    """

    objective: str
    required: float
    required_fail: float
    alpha: float
    alpha_fail: float
    schedule: Schedule
    pointwise_weight: float | str = 0.0
    recurrence_correlation: float = 0.0
    failure_gradient: str = "failure"
    learning_rate: float | str = "auto"
    tol: float = 1e-5
    max_iter: int = 1000


@dataclass(frozen=True)
class Problem:
    """The rows that a fit reads.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_samples, n_features)
    sign : ndarray of shape (n_pairs,)
        +1 where the first side is preferred, else -1.
    weight : ndarray of shape (n_pairs,)
        Of sum 1; duplicate outputs are discounted.
    numbers : ndarray of shape (n_pairs, 2) or None
        Numbers of the distinct outputs of pairs.
    labels : ndarray of shape (n_pairs, 2) or None
        Labels of the outputs, in the order of ``X``.
    differences : ndarray of shape (n_pairs, n_features) or (n_samples, n_features + 1)
        Of the preferred and the other output, in units of ``scale``; of single outputs see `signed_differences`.
    scale : float
        Root mean squared length of the differences.
    device : torch.device
    """

    X: np.ndarray
    sign: np.ndarray
    weight: np.ndarray
    numbers: np.ndarray | None
    labels: np.ndarray | None
    differences: np.ndarray
    scale: float
    device: torch.device

    @property
    def is_paired(self):
        return self.X.ndim == 3

    @property
    def target_sides(self):
        """+1 for outputs that should lie above the threshold, -1 for others, (n_pairs, 2), in the order of X."""
        if self.labels is not None:
            return np.where(self.labels == 1, 1.0, -1.0)
        return np.stack([self.sign, -self.sign], axis=1)

    @cached_property
    def estimated_pointwise_weight(self):
        """What ``pointwise_weight="auto"`` stands for."""
        return estimate_weight(self.X, self.sign, self.weight, self.numbers, self.target_sides)

    def tensor(self, values, dtype=torch.float64):
        """A tensor of an array on the device; its own dtype if None."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, dtype)


def prepare(X, sign, sample_weight, labels, recurrence_correlation, device):
    """The problem of checked rows.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_samples, n_features)
    sign, sample_weight : ndarray of shape (n_pairs,)
    labels : ndarray of shape (n_pairs, 2) or None
    recurrence_correlation : float
    device : str

    Returns
    -------
    problem : Problem

    Raises
    ------
    ValueError
        If all pairs are identical on both sides, or the features' squares overflow or underflow.
    """
    numbers = None
    if X.ndim == 3:
        numbers = number_outputs(X)
        sample_weight = discount_duplicates(numbers, sample_weight, recurrence_correlation)
    differences = signed_differences(X, sign)
    scale = difference_scale(differences[:, : X.shape[-1]], sample_weight, paired=X.ndim == 3)
    differences /= differences.dtype.type(scale)
    weight = sample_weight / sample_weight.sum()
    return Problem(X, sign, weight, numbers, labels, differences, scale, torch_device(device))


def settle_pointwise_weight(problem, settings):
    """The settings with a number as ``pointwise_weight``.

    Parameters
    ----------
    problem : Problem
    settings : Settings

    Returns
    -------
    settings : Settings
        The failure weights are divided by one more than an estimate: failures are pairs, which count that much less.
    """
    if not problem.is_paired:
        return replace(settings, pointwise_weight=0.0)
    if settings.pointwise_weight != "auto":
        return settings
    estimate = problem.estimated_pointwise_weight
    schedule = replace(settings.schedule, weights=settings.schedule.weights / (1 + estimate))
    return replace(settings, pointwise_weight=estimate, schedule=schedule)


@contextmanager
def few_threads(n_values):
    """One torch thread where a pass over so few values takes less time than waiting for a second thread may."""
    n_threads = torch.get_num_threads()
    try:
        if n_values < 2**21:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(n_threads)


# ------------------------------------------------------------------------------------------- the base path


@dataclass(frozen=True)
class BasePath:
    """A solved base path.

    Parameters
    ----------
    head : list of ndarray
        [W, b] in the units of the input.
    margins : Tensor of shape (n_pairs,)
    gap : float
        Duality gap as a share of the loss of a constant reward.
    n_iter : int
        Iterations of the solver.
    """

    head: list
    margins: torch.Tensor
    gap: float
    n_iter: int


def solve_base(problem, settings, differences):
    """Solve the convex problem of a linear base path (theory, eq. 2, 3 and the pointwise loss).

    Parameters
    ----------
    problem : Problem
    settings : Settings
        With a number as ``pointwise_weight``.
    differences : Tensor of shape (n_pairs, n_features)
        Those of the problem, on its device.

    Returns
    -------
    base : BasePath
    """
    weight, n_features = problem.tensor(problem.weight), differences.shape[1]

    def margins_of(theta):
        pairs = (differences @ theta[:n_features].to(differences.dtype)).double()
        return pairs if above is None else torch.cat([pairs, above(theta)])

    above, width = None, n_features
    if settings.pointwise_weight > 0:
        stretch = 2.0 if settings.objective == "max_margin" else 1.0
        above, width = _output_margins(problem, stretch), n_features + 1  # the last weight is the threshold
        share = settings.pointwise_weight / stretch
        weight = torch.cat([weight, (share / 2 * weight).repeat_interleave(2)])
    solve = _SOLVERS[settings.objective]
    alpha = settings.alpha / problem.scale**2
    found = solve(margins_of, width, weight, settings.required, alpha, settings.tol, settings.max_iter)
    theta = found.theta[:n_features]
    margins = differences @ problem.tensor(theta, differences.dtype)
    return BasePath(_linear_head(theta, problem), margins, found.gap, found.n_iter)


def _output_margins(problem, stretch):
    """How far each output lies on its side of the threshold, the last of the weights: (2 n_pairs,)."""
    X, sides = torch.from_numpy(problem.X).to(problem.device), problem.tensor(stretch * problem.target_sides)
    share = problem.tensor(problem.weight, X.dtype)
    center = (share @ X[:, 0] + share @ X[:, 1]) / 2  # the threshold is penalized, so features are centered
    outputs = (X - center).div_(problem.scale).flatten(0, 1)

    def margins_of(theta):
        rewards = (outputs @ theta[:-1].to(outputs.dtype)).double() + theta[-1]
        return (sides * rewards.view(-1, 2)).flatten()

    return margins_of


def _linear_head(theta, problem):
    """[W, b] in the units of the input; weights of outputs end with a bias."""
    theta, width = theta / problem.scale, problem.X.shape[-1]
    bias = theta[width:] if len(theta) > width else np.zeros(1)
    return [theta[None, :width].astype(problem.X.dtype), bias.astype(problem.X.dtype)]


# ---------------------------------------------------------------------------------------- the failure paths


def train_failures(problem, settings, base, differences, n_rounds, *, record=True, progress=None):
    """Train failure paths beside a solved base path (theory, eq. 4), as columns of one product.

    Parameters
    ----------
    problem : Problem
    settings : list of Settings
        One for each path; they share the base path, ``alpha_fail`` and ``learning_rate``.
    base : BasePath
    differences : Tensor of shape (n_pairs, n_features)
    n_rounds : int
    record : bool, default=True
        Whether to write the history of the first path.
    progress : str, default=None
        Name of the progress bar; None shows none.

    Returns
    -------
    heads : list of list of ndarray
        [W, b] of each path.
    history : list of dict
    """
    first, width = settings[0], differences.shape[1]

    def rewards_of(module, path):
        weight = module.failure[0].weight[path].detach().cpu().numpy()
        head = [b + f for b, f in zip(base.head, _linear_head(weight, problem), strict=True)]
        return _rewards_with_offset(problem, [head])

    curriculum = Curriculum(
        [path.schedule for path in settings],
        problem.weight,
        rewards_of,
        preferred_first(problem.labels, problem.sign),
        record=record,
    )
    decay = 2 * first.alpha_fail / problem.scale**2
    step = 10 / n_rounds if first.learning_rate == "auto" else first.learning_rate
    if not problem.is_paired:  # the bias is a feature of length 1 / scale beside those of mean squared length 1
        step /= 1 + 1 / problem.scale**2
    net = DualPathNet(
        module__n_features=width,
        module__n_paths=len(settings),
        module__zero_failure=True,
        module__dtype=differences.dtype,
        criterion__objective=first.objective,
        criterion__required=first.required,
        criterion__required_fail=[path.required_fail for path in settings],
        optimizer=torch.optim.SGD,
        optimizer__lr=step / (1 + step * decay),  # so that no strength of the penalty makes the steps diverge
        optimizer__weight_decay=decay,
        batch_size=len(differences),
        max_epochs=n_rounds,
        callbacks=[curriculum] + ([ProgressBar(progress)] if progress else []),
        device=str(problem.device),
    )
    X = {"features": differences[:, None], "base": base.margins[:, None, None]}
    net.run_rounds(X, _targets(problem, len(settings), differences.dtype, oriented=True), seed=0)
    weights = net.module_.failure[0].weight.detach().cpu().numpy()
    return [_linear_head(weight, problem) for weight in weights], curriculum.rows_


def _targets(problem, n_paths, dtype, *, oriented):
    """Targets of the loss; differences are oriented already, each of one side."""
    n_rows, ones = len(problem.X), np.ones((len(problem.X), 1))
    side = ones if oriented else problem.sign[:, None]
    if problem.is_paired and not oriented:
        side = np.stack([problem.sign, -problem.sign], axis=1)
    return {
        "weight": problem.tensor(problem.weight, dtype),
        "failure_weight": torch.zeros(n_rows, n_paths, dtype=dtype, device=problem.device),
        "side": problem.tensor(side, dtype),
        "target_side": problem.tensor(problem.target_sides if problem.is_paired else side, dtype),
    }


# ------------------------------------------------------------------------------------------ joint training


def train_jointly(problem, settings, layers, batch_size, n_rounds, seed, generator, *, progress=None):
    """Train both heads by Adam from a Kaiming-uniform start (the paper's algorithm 1).

    Parameters
    ----------
    problem : Problem
    settings : Settings
        With a number as ``pointwise_weight``.
    layers : sequence of int
        Widths of the hidden layers.
    batch_size : int
    n_rounds : int
    seed : int
        Of the start and of the batches.
    generator : numpy.random.RandomState
        Samples the failures of each round.
    progress : str, default=None
        Name of the progress bar; None shows none.

    Returns
    -------
    base, failure : list of ndarray
        Heads [W, b, ..., W, b]. Without failures the failure head is zero.
    history : list of dict
    """
    features, dtype = _joint_features(problem, constant=not layers), problem.X.dtype

    def export(module):
        heads = [export_head(head, problem.scale, problem.X.shape[-1]) for head in (module.base, module.failure)]
        if settings.schedule.is_idle:  # a correction that was never trained is none
            heads[1] = [np.zeros_like(array) for array in heads[1]]
        return [[array.astype(dtype) for array in head] for head in heads]

    curriculum = Curriculum(
        [settings.schedule],
        problem.weight,
        lambda module, path: _rewards_with_offset(problem, export(module)),
        preferred_first(problem.labels, problem.sign),
        generator=generator,
    )
    decays = (2 * alpha / problem.scale**2 for alpha in (settings.alpha, settings.alpha_fail))
    net = DualPathNet(
        module__n_features=features.shape[-1],
        module__hidden_layer_sizes=layers,
        module__dtype=features.dtype,
        criterion__objective=settings.objective,
        criterion__required=settings.required,
        criterion__required_fail=settings.required_fail,
        criterion__pointwise_weight=settings.pointwise_weight,
        criterion__failure_gradient=settings.failure_gradient,
        optimizer=torch.optim.Adam,
        optimizer__lr=(0.003 if layers else 0.01) if settings.learning_rate == "auto" else settings.learning_rate,
        optimizer__param_groups=[
            (f"{head}.*weight", {"weight_decay": decay})
            for head, decay in zip(("base", "failure"), decays, strict=True)
        ],
        batch_size=batch_size,
        max_epochs=n_rounds,
        iterator_train__seed=seed,
        callbacks=[curriculum] + ([ProgressBar(progress)] if progress else []),
        device=str(problem.device),
    )
    net.run_rounds({"features": features}, _targets(problem, 1, features.dtype, oriented=False), seed)
    return *export(net.module_), curriculum.rows_


def _joint_features(problem, *, constant):
    """Outputs in units of the scale, shape (n_rows, n_sides, n_features); single ones with a constant if asked."""
    X = problem.X
    if X.ndim == 2:
        X = np.column_stack([X, np.ones(len(X), dtype=X.dtype)]) if constant else X
        X = X[:, None]
    return torch.from_numpy(X / X.dtype.type(problem.scale)).to(problem.device)


# --------------------------------------------------------------------------------------------- the offset


def separating_threshold(rewards, positive, weight):
    """Threshold that separates two sets of rewards best.

    Parameters
    ----------
    rewards : ndarray of shape (n_outputs,)
    positive : ndarray of shape (n_outputs,), bool
        Which outputs should lie above the threshold.
    weight : ndarray of shape (n_outputs,)

    Returns
    -------
    threshold : float
        Half-way between two neighboring rewards, where the balanced accuracy (each set counts one half) is largest. Of
        several such places the middle one; a constant reward is its own threshold.

    Examples
    --------
    >>> separating_threshold(np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, False, True, True]), np.ones(4))
    1.5
    """
    counted = weight > 0
    rewards, positive, weight = rewards[counted], positive[counted], weight[counted].astype(np.float64)
    share = np.where(positive, weight / weight[positive].sum(), -weight / weight[~positive].sum())
    order = np.argsort(rewards)
    rewards, share = rewards[order], share[order]
    places = np.flatnonzero(rewards[1:] > rewards[:-1])
    if not len(places):
        return float(rewards[0])
    below = np.cumsum(share)[places]  # positives less negatives at or below the place: small is good
    best = np.flatnonzero(below <= below.min() + 1e-12)
    place = places[best[(len(best) - 1) // 2]]
    return float((np.float64(rewards[place]) + rewards[place + 1]) / 2)


def output_offset(problem, rewards):
    """What to add to rewards so that 0 separates the outputs best: chosen from rejected or, if given, by label.

    Parameters
    ----------
    problem : Problem
    rewards : ndarray of shape (n_pairs, 2) or (n_samples,)
        In the order of the problem's ``X``.

    Returns
    -------
    offset : float
    """
    if not problem.is_paired:
        return -separating_threshold(rewards, problem.sign > 0, problem.weight)
    positive = problem.target_sides > 0
    return -separating_threshold(rewards.ravel(), positive.ravel(), np.repeat(problem.weight, 2))


def _rewards_with_offset(problem, heads):
    """Rewards of the (preferred, other) outputs, or of single outputs as one column, by a reward of some heads."""
    rewards = rewards_of_heads(heads, problem.X)
    rewards = rewards + output_offset(problem, rewards)
    return preferred_first(rewards, problem.sign) if problem.is_paired else rewards[:, None]
