"""The steps of a fit: solve the base path, train the failure paths, or train both jointly.

A single fit (`fairl_sk.learning.estimators`) takes these steps once; a search (`fairl_sk.learning.search`) takes them
for all of its candidates.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from .blocks import products_by_part, with_side
from .curriculum import Curriculum
from .net import DualPathNet, ProgressBar, export_head
from .offset import output_offset
from .rows import preferred_first
from .solvers import solve_max_entropy, solve_max_margin

__all__ = ["BasePath", "solve_base", "train_failures", "train_jointly"]

_SOLVERS = {"max_margin": solve_max_margin, "max_entropy": solve_max_entropy}


# ------------------------------------------------------------------------------------------- the base path


@dataclass(frozen=True)
class BasePath:
    """A solved base path."""

    head: list  # [W, b] in the units of the input
    margins: torch.Tensor  # (n_pairs,)
    gap: float  # duality gap as a share of the loss of a constant reward
    n_iter: int


def solve_base(problem, settings, differences):
    """Solve the convex problem of a linear base path (theory, eq. 2, 3 and the pointwise loss)."""
    n_features = differences.shape[1]
    parts, width = _pair_parts(problem, differences), n_features
    if settings.pointwise_weight > 0:
        parts, width = parts + _output_parts(problem, settings), n_features + 1  # the last weight is the threshold
    solve = _SOLVERS[settings.objective]
    alpha = settings.alpha / problem.scale**2
    found = solve(parts, width, settings.required, alpha, settings.tol, settings.max_iter)
    theta = found.theta[:n_features]
    weights = problem.tensor(theta, differences.dtype)
    margins = torch.cat([product(weights) for product, _ in products_by_part(differences)])
    return BasePath(_linear_head(theta, problem), margins, found.gap, found.n_iter)


def _pair_parts(problem, differences):
    """Margins of pairs, or of single outputs, as a function of the weights, and their weights; by part."""
    weight, n_features = problem.tensor(problem.weight), differences.shape[1]

    def margins_of(theta, product):
        return product(theta[:n_features].to(differences.dtype)).double()

    return [(partial(margins_of, product=product), weight[part]) for product, part in products_by_part(differences)]


def _output_parts(problem, settings):
    """How far outputs lie on their side of the threshold, the last of the weights, and their weights; by part."""
    stretch = 2.0 if settings.objective == "max_margin" else 1.0
    sides = problem.tensor(stretch * problem.target_sides)
    weight = problem.tensor(problem.weight)
    outputs = problem.outputs(center=True)  # the threshold is penalized
    share = settings.pointwise_weight / stretch

    def margins_of(theta, product, sides):
        rewards = product(theta[:-1].to(outputs.dtype)).double() + theta[-1]
        return (sides * rewards).flatten()

    return [
        (partial(margins_of, product=product, sides=sides[part]), (share / 2 * weight[part]).repeat_interleave(2))
        for product, part in products_by_part(outputs)
    ]


def _linear_head(theta, problem):
    """[W, b] in the units of the input; weights of outputs end with a bias."""
    theta, width = theta / problem.scale, problem.X.shape[-1]
    bias = theta[width:] if len(theta) > width else np.zeros(1)
    return [theta[None, :width].astype(problem.dtype), bias.astype(problem.dtype)]


# ---------------------------------------------------------------------------------------- the failure paths


def train_failures(problem, settings, base, differences, n_rounds, *, record=True, progress=None):
    """Train failure paths beside a solved base path (theory, eq. 4), as columns of one product.

    There is one `Settings` for each path; they share the base path, ``alpha_fail`` and ``learning_rate``. Gives the
    head [W, b] of each path, and the history of the first one (if ``record``).
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
        callbacks=[curriculum] + ([ProgressBar(progress)] if progress and n_rounds > 1 else []),
        device=str(problem.device),
    )
    X = {"features": with_side(differences), "base": base.margins[:, None, None]}
    net.run_rounds(X, _targets(problem, len(settings), differences.dtype, oriented=True), seed=0)
    weights = net.module_.failure[0].weight.detach().cpu().numpy()
    return [_linear_head(weight, problem) for weight in weights], curriculum.rows_


def _targets(problem, n_paths, dtype, *, oriented):
    """Targets of the loss; differences are oriented already, each of one side."""
    targets = {
        "weight": problem.tensor(problem.weight, dtype),
        "failure_weight": torch.zeros(len(problem.sign), n_paths, dtype=dtype, device=problem.device),
    }
    if oriented:  # without the pointwise loss
        return targets
    side = np.stack([problem.sign, -problem.sign], axis=1) if problem.is_paired else problem.sign[:, None]
    targets["side"] = problem.tensor(side, dtype)
    targets["target_side"] = problem.tensor(problem.target_sides if problem.is_paired else side, dtype)
    return targets


# ------------------------------------------------------------------------------------------ joint training


def train_jointly(problem, settings, layers, batch_size, n_rounds, seed, generator, *, progress=None):
    """Train both heads by Adam from a Kaiming-uniform start (the paper's algorithm 1).

    The seed decides the start and the batches; the generator samples the failures of each round. Gives the base head
    and the failure head (zero without failures), both as [W, b, ..., W, b], and the history.
    """
    features, dtype = _joint_features(problem, constant=not layers), problem.dtype

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
    outputs = problem.outputs(constant=constant and not problem.is_paired)
    return outputs if problem.is_paired else with_side(outputs)


def _rewards_with_offset(problem, heads):
    """Rewards of the (preferred, other) outputs, or of single outputs as one column, by a reward of some heads."""
    rewards = problem.rewards([heads])[0]
    rewards = rewards + output_offset(problem, rewards)
    return preferred_first(rewards, problem.sign) if problem.is_paired else rewards[:, None]
