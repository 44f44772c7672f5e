"""The dual-path torch module, its skorch net, the tensor-slicing iterator and the curriculum callback.

Linear heads see only the differences of a pair's features, since a margin is linear in them; heads with hidden
layers see both outputs. A *round* is one epoch of the net: the curriculum names and samples the failures, then the
net takes its step. Full-batch linear heads take it with `LinearSolver`, everything else with Adam; beside a failure
head with hidden layers, a linear base head takes it with the former and the failure head with the latter.
"""

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn
from tqdm.auto import tqdm

from .failures import Round, find_failures
from .objective import hinge_loss, logistic_loss
from .products import FormedDifferences, release_freed_memory, weighted_sum
from .sampling import sample_failures, sampled_weights

# -------------------------------------------------------------------------------------------------- module


class DualPath(nn.Module):
    r"""R = R_D + R_F: two heads over the same features (theory, eq. 1).

    Linear heads start at zero: their problem is convex, and a direction in which no pair differs has to stay without
    weight, not keep that of a random start. Hidden layers start Kaiming-uniform, as in the paper, but the last layer of
    the failure head at zero: R_F is a correction, and one that was never trained has to be none
    (``failure_weight=0`` is the standard learner).

    Parameters
    ----------
    n_features : int
    hidden_layer_sizes : sequence of int
        Empty for a linear base head.
    seed : int
        Seed of the start; the global generator is neither read nor moved.
    dtype : torch.dtype
    start : pair of lists of arrays, default=None
        Weights of the base and of the failure head to start from, as `import_heads` gives them.
    with_outputs : bool, default=False
        Whether `forward` also gives what each output of a pair gets from the base head.
    failure_hidden_layer_sizes : sequence of int, default=None
        Those of the failure head; None: as the base head.
    constant : bool, default=False
        Whether a constant stands behind the features, a bias for linear heads. Hidden layers do not see it: they have
        biases.
    """

    def __init__(
        self,
        n_features,
        hidden_layer_sizes,
        seed,
        dtype,
        start=None,
        with_outputs=False,
        failure_hidden_layer_sizes=None,
        constant=False,
    ):
        super().__init__()
        self.with_outputs = with_outputs
        generator = torch.Generator().manual_seed(seed)
        failure_sizes = hidden_layer_sizes if failure_hidden_layer_sizes is None else failure_hidden_layer_sizes
        self.base, self.failure = (
            _head(n_features + (constant and not len(sizes)), sizes, generator, dtype)
            for sizes in (hidden_layer_sizes, failure_sizes)
        )
        nn.init.zeros_(self.failure[-1].weight)  # its bias is zero already
        if not len(hidden_layer_sizes):
            nn.init.zeros_(self.base[-1].weight)
        if start is not None:
            for head, arrays in zip((self.base, self.failure), start, strict=True):
                for parameter, array in zip(head.parameters(), arrays, strict=True):
                    parameter.data.copy_(torch.from_numpy(np.asarray(array)))

    def forward(self, X):
        """R_D and R_F differences of each row: of features (n, 2, d), (n, 1, d), or of differences (n, d).

        With ``with_outputs``, pairs (n, 2, d) give R_D of the outputs (n, 2) as a third.
        """
        rewards = [head(X[..., : head[0].in_features])[..., 0] for head in (self.base, self.failure)]
        if X.ndim == 2:
            return tuple(rewards)
        differences = tuple(r[:, 0] - r[:, 1] if r.shape[1] == 2 else r[:, 0] for r in rewards)
        return (*differences, rewards[0]) if self.with_outputs and X.shape[1] == 2 else differences


def _head(n_features, hidden_layer_sizes, generator, dtype):
    """Linear layers with ReLU between them; a head of one layer has no bias, as differences have none."""
    sizes = [n_features, *hidden_layer_sizes, 1]
    layers = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layer = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=len(sizes) > 2, dtype=dtype)
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def export_heads(module, scale, n_features):
    """The base and the failure head in the units of the input, as lists of arrays (W, b, ..., W, b).

    ``scale`` is what the features were divided by. A linear head that was trained with a constant feature, the
    bias of outputs, has it behind the others.
    """
    heads = []
    for head in (module.base, module.failure):
        arrays = [p.detach().cpu().numpy().copy() for p in head.parameters()]
        if len(arrays) == 1:
            arrays = export_linear(arrays[0], scale, n_features)
        else:
            arrays[0] = arrays[0] / scale
        heads.append(arrays)
    return tuple(heads)


def export_linear(weight, scale, n_features):
    """The arrays (W, b) of a linear head's weights (1, n_features or n_features + 1), in the units of the input."""
    weight = weight / scale
    return [weight[:, :n_features], weight[0, n_features:] if weight.shape[1] > n_features else np.zeros(1)]


def import_heads(heads, scale, width):
    """The inverse of `export_heads`, for a module whose linear heads have ``width`` inputs."""
    result = []
    for arrays in heads:
        first = arrays[0] * scale
        if len(arrays) > 2:
            result.append([first, *arrays[1:]])
        else:
            result.append([np.concatenate([first, arrays[1][None] * scale], axis=1)[:, :width]])
    return tuple(result)


def head_reward(weights, X):
    """Reward of each row of ``X`` (n_samples, n_features) by one head, in NumPy."""
    for depth in range(0, len(weights), 2):
        if depth:
            X = np.maximum(X, 0)
        X = X @ weights[depth].T.astype(X.dtype) + weights[depth + 1].astype(X.dtype)
    return X[:, 0]


class DualPathLoss(nn.Module):
    r"""The objective of a round (theory, eq. 4).

    Parameters
    ----------
    objective : {"max_margin", "max_entropy"}
    required, required_fail : float
        M and M_fail, or tau and tau_fail.
    alpha, alpha_fail : float
        L2 strengths, for weights that act on scaled features.
    pointwise_weight : float, default=0.0
        Weight of the loss of single outputs, for predictions that hold them.
    failure_gradient : {"failure", "both"}, default="failure"
        The heads that the failure term's gradient reaches.

    Attributes
    ----------
    failure_weight : float
        lambda_t, which the curriculum sets in every round.
    threshold : Parameter
        What preferred outputs should lie above and others below; Adam learns it, where single outputs count.
    """

    def __init__(
        self,
        objective,
        required,
        required_fail,
        alpha,
        alpha_fail,
        pointwise_weight=0.0,
        failure_gradient="failure",
    ):
        super().__init__()
        self.loss = {"max_margin": hinge_loss, "max_entropy": logistic_loss}[objective]
        self.objective = objective
        self.required, self.required_fail = required, required_fail
        self.alpha, self.alpha_fail = alpha, alpha_fail
        self.failure_weight = 0.0
        self.pointwise_weight = pointwise_weight
        self.failure_gradient = failure_gradient
        if pointwise_weight > 0:
            self.threshold = nn.Parameter(torch.zeros(()))

    @property
    def stretch(self):
        """What an output's distance from the threshold is multiplied by, and its loss divided by.

        The hinge asks an output for half of a pair's margin: two outputs that have it give the pair all of it.
        """
        return 2.0 if self.objective == "max_margin" else 1.0

    def forward(self, predictions, targets):
        """Mean losses of a batch, without penalties.

        Parameters
        ----------
        predictions : pair of Tensor of shape (n,)
            Differences of R_D and of R_F; then R_D of both outputs, of shape (n, 2), where single outputs count.
        targets : Tensor of shape (n, 3) or (n, 5)
            Weight, weight as a sampled failure, and +1 or -1 for the preferred side; weights have mean 1. Where single
            outputs count, then +1 or -1 for the side of the threshold on which each of the two should lie.
        """
        base, failure = (targets[:, 2] * difference for difference in predictions[:2])
        loss = (targets[:, 0] * self.loss(base, self.required)[0]).mean()
        if self.failure_weight > 0:
            fixed = base.detach() if self.failure_gradient == "failure" else base
            failing = self.loss(fixed + failure, self.required_fail)[0]
            loss = loss + self.failure_weight * (targets[:, 1] * failing).mean()
        if len(predictions) > 2:
            loss = loss + self.pointwise_weight * self._of_outputs(predictions[2], targets)
        return loss

    def _of_outputs(self, rewards, targets):
        """Mean loss of single outputs, of rewards (n, 2)."""
        margins = self.stretch * targets[:, 3:] * (rewards - self.threshold)
        return (targets[:, :1] * self.loss(margins, self.required)[0]).mean() / self.stretch


# ------------------------------------------------------------------------------------------------ iterator


class SliceIterator:
    """Batches by slicing tensors that already lie on the device: skorch's loader, less the row-by-row work.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset
        Holding two tensors.
    batch_size : int
        A batch that holds all rows is the tensors themselves, not a copy.
    seed : int, default=0
        Seed of the shuffles.
    """

    def __init__(self, dataset, batch_size, seed=0):
        self.X, self.y = dataset.X, dataset.y
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        if self.batch_size >= len(self.X):
            yield self.X, self.y
            return
        order = torch.randperm(len(self.X), generator=self.generator).to(self.X.device)
        for rows in order.split(self.batch_size):
            yield self.X[rows], self.y[rows]


# -------------------------------------------------------------------------------------------------- solver


class BasePath:
    r"""The base path of linear heads on the full batch: its weights, its margins, and one step of L-BFGS a round.

    A round is three calls, between which whoever owns the path forms the two products with the differences D (a
    single fit for one path, a search for all of its columns together)::

        slopes = path.slopes(weight, loss)
        direction = path.descend(slopes @ D / n_pairs, slopes, weight, loss)  # None: the path now rests
        path.advance(direction, D @ direction, weight, loss)

    The base path is convex and does not depend on the failures: it takes a step of L-BFGS with an exact line search,
    which is free because the margins along a direction p are :math:`\Delta + s D p`. The hinge's corner is rounded at
    first and sharpened over the rounds. The slopes of the loss are a feasible point of the dual, so that every round
    knows its duality gap; once it is below ``tol`` the base path rests.

    With single outputs in the objective, "pairs" here are all rows of `StackedRows`.

    Parameters
    ----------
    theta : Tensor of shape (n_features,)
        Weights, which `advance` changes in place.
    margins : Tensor of shape (n_pairs,)
        Their margins, which `advance` changes in place.
    tol : float
        Gap at which the path rests.
    n_rounds : int
        Rounds to come: the corner is sharp after three quarters of them at the latest.

    Attributes
    ----------
    gap : float
        Duality gap as a share of the loss of a constant reward (without penalty: norm of the gradient as a share of
        the first).
    resting : bool
        Whether the path has converged.
    """

    memory = 10

    def __init__(self, theta, margins, tol, n_rounds):
        self.theta, self.margins = theta, margins
        self.tol, self.n_rounds = tol, n_rounds
        # Last width of the hinge's corner, as a share of M: the gap that it leaves is a small part of tol.
        self._sharpest = min(max(5 * tol, 1e-6), 5e-3)
        self._sharpness = 0.0  # 0: a width of M, 1: the sharpest
        self.gap, self.resting = np.inf, False
        self._round, self._pairs, self._dual = 0, [], DualBundle()
        self._gradient = self._step = self._first_norm = None

    def slopes(self, weight, loss, margins=None):
        """Slope of every pair's loss, weighted, (n_pairs,), at the path's margins or others; ``weight`` has mean 1."""
        margins = self.margins if margins is None else margins
        return weight * loss.loss(margins, loss.required, *self._corner(loss))[1]

    def descend(self, gradient, slopes, weight, loss):
        """Direction (n_features,) of descent, after the gap has been measured; None if the path now rests.

        ``gradient`` (n_features,) is that of the mean loss, without the penalty.
        """
        self._measure_gap(gradient, slopes, weight, loss)
        if self.resting:
            return None
        gradient = gradient + 2 * loss.alpha * self.theta
        if self._gradient is not None:
            change = gradient - self._gradient
            curvature = change @ self._step
            if curvature > 1e-10 * (self._step @ self._step):
                self._pairs = [*self._pairs, (self._step, change, curvature)][-self.memory :]
        self._gradient = gradient
        direction = -self._two_loops(gradient)
        if direction @ gradient >= 0:
            self._pairs, direction = [], -gradient
        return direction

    def advance(self, direction, along, weight, loss):
        """Step to the minimum along the direction, whose margins (n_pairs,) are ``along``; narrow the corner."""
        self._line_search(direction, along, weight, loss)
        self._sharpen()

    def _corner(self, loss):
        """Width of the hinge's rounded corner in this round; the logistic has none."""
        return (loss.required * self._sharpest**self._sharpness,) if loss.objective == "max_margin" else ()

    def _sharpen(self):
        """Narrow the corner for the next round: on schedule, or at once where rounding makes up most of the gap.

        The latter goes by twenty coarse steps, so that the last bits of the gap do not decide on the trajectory.
        """
        self._round += 1
        scheduled = min(1.0, self._round / (0.75 * self.n_rounds))
        reached = np.log(np.clip(20 * self.gap, self._sharpest, 1.0)) / np.log(self._sharpest)
        self._sharpness = max(self._sharpness, scheduled, np.floor(20 * reached) / 20)

    def _two_loops(self, gradient):
        """Inverse Hessian times the gradient (Nocedal and Wright, Numerical Optimization, algorithm 7.4)."""
        result, factors = gradient.clone(), []
        for step, change, curvature in reversed(self._pairs):
            factors.append((step @ result) / curvature)
            result -= factors[-1] * change
        if self._pairs:
            _, change, curvature = self._pairs[-1]
            result *= curvature / (change @ change)
        for (step, change, curvature), factor in zip(self._pairs, reversed(factors), strict=True):
            result += (factor - (change @ result) / curvature) * step
        return result

    def _measure_gap(self, gradient, slopes, weight, loss):
        """Primal minus dual, as a share of the loss at 0; the slopes are weighted (theory, eq. 8)."""
        if loss.alpha == 0:
            size = float(gradient.norm())
            self._first_norm = self._first_norm or size
            self.gap = size / self._first_norm if size > 0 else 0.0
        else:
            penalty = loss.alpha * self.theta @ self.theta
            primal = float((weight * loss.loss(self.margins, loss.required)[0]).mean() + penalty)
            share = (-slopes / weight.clamp(min=torch.finfo(weight.dtype).tiny)).double()
            if loss.objective == "max_margin":
                conjugate = loss.required * share
            else:
                conjugate = torch.special.entr(loss.required * share)
                conjugate = conjugate + torch.special.entr((1 - loss.required * share).clamp(min=0))
            self._dual.add(float((weight * conjugate).mean()), gradient)
            at_zero = float(loss.loss(self.theta.new_zeros(1), loss.required)[0])
            self.gap = max(0.0, (primal - self._dual.bound(loss.alpha)) / at_zero)
        self.resting = self.gap <= self.tol

    def _line_search(self, direction, along, weight, loss):
        """Minimise the objective along the direction: a safeguarded Newton iteration on its derivative."""
        corner = self._corner(loss)
        inner, square = float(direction @ self.theta), float(direction @ direction)

        def derivatives(step):
            _, slope, curvature = loss.loss(self.margins + step * along, loss.required, *corner)
            first, second = torch.stack(
                [(weight * slope * along).mean(), (weight * curvature * along**2).mean()]
            ).tolist()
            return first + 2 * loss.alpha * (inner + step * square), second + 2 * loss.alpha * square

        step = _root_of_increasing(
            derivatives, tolerance=1e-3 * abs(float(direction @ self._gradient)), newton=not self._pairs
        )
        self.theta += step * direction
        self.margins += step * along
        self._step = step * direction


def failure_slopes(loss, margins, weights, failure_weight, required_fail):
    """Slopes (n_sampled,) of the failure term in the margins of the sampled failures, whose weights have mean 1."""
    return failure_weight * weights * loss.loss(margins, required_fail)[1]


def take_failure_step(theta, gradient, lr, alpha_fail):
    """One step of the failure path's weights (n_paths, n_features), in place; the gradient is overwritten.

    The penalty is taken implicitly, so that no step size is unstable under it:
    theta_F <- argmin over theta of <g, theta> + alpha_F |theta|^2 + |theta - theta_F|^2 / (2 lr).
    """
    return theta.sub_(gradient.mul_(lr)).mul_(1 / (1 + 2 * lr * alpha_fail))


class PairRows:
    """The rows of the base path's problem: the differences of pairs, or outputs with their bias.

    Parameters
    ----------
    differences : Tensor of shape (n_pairs, n_features)
    weight : Tensor of shape (n_pairs,)
        Of mean 1.
    loss : DualPathLoss

    Attributes
    ----------
    n_rows, width : int
        Numbers of margins and of weights of the base path.
    unit : float
        What the problem of the pairs is divided by.
    """

    unit = 1.0

    def __init__(self, differences, weight, loss):
        self.differences, self.weight, self.loss = differences, weight, loss
        self.n_rows, self.width = differences.shape

    def along(self, base, failure):
        """Margins of all rows along a direction (width,), and of pairs along one (n_features,), in one pass."""
        both = nn.functional.linear(self.differences, torch.stack([base, failure])).T
        return both[0].contiguous(), both[1]

    def sum(self, values):
        """Sum of all rows, (width,), by values (n_rows,)."""
        return weighted_sum(values, self.differences)

    def sum_of_pairs(self, values, pairs):
        """Sum of the differences of some pairs, (n_features,), by values (n_chosen,)."""
        return weighted_sum(values, self.differences, pairs)


class FormedRows(PairRows):
    """`PairRows` whose differences, `FormedDifferences` of one set, are formed anew each time, to the same last bit."""

    def along(self, base, failure):
        """As in `PairRows`."""
        both = self.weight.new_empty(2, self.n_rows)
        self.differences.margins({0: torch.stack([base, failure])}, {0: both})
        return both[0], both[1]

    def sum(self, values):
        """As in `PairRows`."""
        return self.differences.sums({0: values[None]})[0][0]

    def sum_of_pairs(self, values, pairs):
        """As in `PairRows`."""
        return self.differences.sum_of_some(0, values, pairs)


class StackedRows:
    r"""The rows of the base path's problem where single outputs count, outputs and pairs, by products with outputs.

    With c the pointwise weight over the loss's ``stretch`` f, the problem of the pairs and of the outputs is that of
    3 n rows, times 1 + c: of the outputs, s f (h, 1), s being their side; and of the pairs, (d, 0). The constant behind
    the features learns minus the threshold.

    Parameters
    ----------
    outputs : Tensor of shape (n_pairs, 2, n_features)
        Preferred and other outputs, around their mean.
    weight, loss
        Those of the pairs, as in `PairRows`.
    sides : Tensor of shape (n_pairs, 2)
        +1 for outputs that should lie above the threshold, -1 for the others.

    Attributes
    ----------
    weight, loss
        Those of the rows: weights of mean 1, and the penalty that goes with them.
    n_rows, width, unit
        As in `PairRows`.
    """

    def __init__(self, outputs, weight, loss, sides):
        self.outputs, self.stretched = outputs, loss.stretch * sides.T
        self.n_rows, self.width = 3 * len(outputs), outputs.shape[2] + 1
        share = loss.pointwise_weight / loss.stretch
        self.unit = 1 + share
        self.weight = torch.cat([share / 2 * weight, share / 2 * weight, weight]) * (3 / (1 + share))
        self.loss = DualPathLoss(
            loss.objective, loss.required, loss.required_fail, loss.alpha / (1 + share), loss.alpha_fail
        )

    def along(self, base, failure):
        """Margins of all rows along a direction (width,), and of pairs along one (n_features,), in one pass."""
        weights = torch.stack([base[:-1], failure])
        rewards = nn.functional.linear(self.outputs.flatten(0, 1), weights).T.reshape(2, -1, 2)
        pairs = rewards[..., 0] - rewards[..., 1]
        above = self.stretched * (rewards[0] + base[-1]).T
        return torch.cat([above[0], above[1], pairs[0]]), pairs[1]

    def sum(self, values):
        """Sum of all rows, (width,), by values (n_rows,)."""
        values, pairs = values.view(3, -1)[:2] * self.stretched, values.view(3, -1)[2]
        of_outputs = torch.stack([values[0] + pairs, values[1] - pairs], dim=1)
        total = weighted_sum(of_outputs.flatten(), self.outputs.flatten(0, 1))
        return torch.cat([total, values.sum()[None]])

    def sum_of_pairs(self, values, pairs):
        """Sum of the differences of some pairs, (n_features,), by values (n_chosen,)."""
        rows, values = torch.stack([2 * pairs, 2 * pairs + 1], dim=1), torch.stack([values, -values], dim=1)
        return weighted_sum(values.flatten(), self.outputs.flatten(0, 1), rows.flatten())


def base_direction(path, rows):
    """Direction of a `BasePath`'s next step, (width,), in one pass; None if it now rests."""
    slopes = path.slopes(rows.weight, rows.loss)
    return path.descend(rows.sum(slopes) / rows.n_rows, slopes, rows.weight, rows.loss)


class LinearSolver(torch.optim.Optimizer):
    r"""One step a round for linear heads on the full batch, in two passes over the features.

    The base path takes the step of a `BasePath`, the failure path a gradient step on its term.

    Parameters
    ----------
    params : two groups of one parameter each
        Weights (1, n_features) of the base and of the failure head.
    lr : float
        Step size of the failure path.
    tol : float
        Gap at which the base path rests.
    n_rounds : int
        Rounds to come.

    Attributes
    ----------
    margins : Tensor of shape (2, n_pairs)
        Differences of R_D and R_F, kept up to date.
    gap, resting
        Those of the base path.
    """

    def __init__(self, params, lr, tol, n_rounds):
        super().__init__(params, {"lr": lr})
        self.tol, self.n_rounds = tol, n_rounds
        self.margins = self._base_path = self._rows = None

    @property
    def gap(self):
        return np.inf if self._base_path is None else self._base_path.gap

    @property
    def resting(self):
        return self._base_path is not None and self._base_path.resting

    def start(self, features, targets, loss):
        """Margins of the first round, of differences (n, d) or of the (preferred, other) outputs (n, 2, d)."""
        if self.margins is not None:
            return
        base, failure = (group["params"][0] for group in self.param_groups[:2])
        theta = base.detach()[0]
        if isinstance(features, FormedDifferences):
            self._rows = FormedRows(features, targets[:, 0], loss)
        elif features.ndim == 2:
            self._rows = PairRows(features, targets[:, 0], loss)
        else:
            self._rows = StackedRows(features, targets[:, 0], loss, targets[:, 3:])
            theta = torch.cat([theta, theta.new_zeros(1)])  # the threshold is no part of the reward
            base.data = theta[None, :-1]
        # the base path's margins end with those of the pairs, behind which the failure path's stand
        margins = torch.cat(self._rows.along(theta, failure.detach()[0]))
        self.margins = margins[-2 * len(features) :].view(2, -1)
        self._base_path = BasePath(theta, margins[: self._rows.n_rows], self.tol, self.n_rounds)

    @torch.no_grad()
    def step(self, closure):
        """Take one round; ``closure()`` gives the features as in `start`, the targets (n, 3) and the loss."""
        features, targets, loss = closure()
        self.start(features, targets, loss)
        path, rows = self._base_path, self._rows
        failure, lr = self.param_groups[1]["params"][0], self.param_groups[1]["lr"]
        direction = None if self._base_path.resting else base_direction(path, rows)
        take_failure_step(failure, self._failure_gradient(failure, targets, loss), lr, loss.alpha_fail)
        moving = torch.zeros_like(path.theta) if direction is None else direction
        along, self.margins[1] = rows.along(moving, failure[0])
        if direction is not None:
            path.advance(direction, along, rows.weight, rows.loss)
        if isinstance(rows, FormedRows):  # there memory counts: what a round has freed would add up
            release_freed_memory()

    def _failure_gradient(self, failure, targets, loss):
        """Gradient (1, n_features) of the failure term: it reads the sampled failures only."""
        if loss.failure_weight == 0:
            return torch.zeros_like(failure)
        pairs = targets[:, 1].nonzero()[:, 0]
        total = self.margins[0][pairs] + self.margins[1][pairs]
        slopes = failure_slopes(loss, total, targets[pairs, 1], loss.failure_weight, loss.required_fail)
        return self._rows.sum_of_pairs(slopes, pairs)[None] / len(targets)


class JointSolver(LinearSolver):
    r"""`LinearSolver` where the failure term's gradient reaches the base head, too.

    The base head's weights are :math:`\theta_D = \theta + u`: the path of the standard learner, as `LinearSolver` goes
    it, and a deviation u, which takes gradient steps like the failure path:

    .. math:: u \leftarrow \arg\min_v \langle g_F + \nabla \ell(\theta + u) - \nabla \ell(\theta), v \rangle
        + \alpha \|v\|^2 + \|v - u\|^2 / (2 \eta) ,

    with :math:`g_F` the gradient of the failure term and :math:`\ell` the mean loss of the base path. Once the path
    has converged this is a gradient step on the objective of the round; without failures u stays zero. The step of
    L-BFGS cannot go to the minimum of that objective: it would be fitted to the few pairs of the round's sample.

    Parameters
    ----------
    params, lr, tol, n_rounds
        As in `LinearSolver`; ``lr`` is the step size of u, too.

    Attributes
    ----------
    margins
        As in `LinearSolver`, of all of the base head.
    gap : float
        That of the path; NaN once u is not zero.
    resting : bool
        Whether the path rests and u is zero.
    """

    @property
    def gap(self):
        return np.nan if self._deviates else super().gap

    @property
    def resting(self):
        return super().resting and not self._deviates

    @property
    def _deviates(self):
        return self.margins is not None and bool(self._deviation.any())

    def start(self, features, targets, loss):
        """As in `LinearSolver`; the path and the head part."""
        if self.margins is not None:
            return
        super().start(features, targets, loss)
        path = self._base_path
        path.theta, self.margins = path.theta.clone(), self.margins.clone()
        self._deviation, self._moved = torch.zeros_like(path.theta), torch.zeros_like(path.margins)

    @torch.no_grad()
    def step(self, closure):
        """As in `LinearSolver`; path, deviation and failure path all see the margins with which the round starts."""
        features, targets, loss = closure()
        self.start(features, targets, loss)
        base, failure = (group["params"][0] for group in self.param_groups[:2])
        gradient = self._deviation_gradient(failure, targets, loss)
        super().step(lambda: (features, targets, loss))
        take_failure_step(self._deviation, gradient, self.param_groups[0]["lr"], loss.alpha)
        if self._deviates:
            self._moved, _ = self._rows.along(self._deviation, torch.zeros_like(failure[0]))
        path, n_pairs = self._base_path, len(targets)
        self.margins[0] = path.margins[-n_pairs:] + self._moved[-n_pairs:]
        base.data.copy_((path.theta + self._deviation)[None, : base.shape[1]])  # a threshold is no part of the head

    def _deviation_gradient(self, failure, targets, loss):
        """Gradient (width,) of the failure term and of what the deviation has changed of the base path's losses."""
        path, rows = self._base_path, self._rows
        gradient = torch.zeros_like(path.theta)
        if self._deviates:
            moved = path.slopes(rows.weight, rows.loss, path.margins + self._moved)
            change = moved - path.slopes(rows.weight, rows.loss)
            gradient += rows.unit * rows.sum(change) / rows.n_rows
        pull = self._failure_gradient(failure, targets, loss)[0]
        gradient[: len(pull)] += pull
        return gradient


class DualBundle:
    r"""The best lower bound of the base path's objective that the last rounds' slopes give.

    The slopes of one round are a point a of the dual, whose value is :math:`c(a) - |g(a)|^2 / (4 \alpha)` with g linear
    and c concave in a. Any mixture of points is a point, so that the best mixture gives the best bound; near a kink of
    the hinge it is far better than that of one round, where the slopes jump to and fro.

    Attributes
    ----------
    size : int
        Largest number of rounds that are mixed.
    """

    size = 25

    def __init__(self):
        self._values, self._gradients = np.empty(0), []
        self._products = np.empty((0, 0))  # of the gradients with each other
        self._share = np.empty(0)
        self._best = 0.0  # slopes of 0 are a point of bound 0

    def add(self, value, gradient):
        """Add a point: its c, and its g of shape (n_features,)."""
        if len(self._values) == self.size:
            self._drop(np.argmin(self._share))
        gradient = gradient.double()
        self._gradients.append(gradient)
        products = (torch.stack(self._gradients) @ gradient).cpu().numpy()
        self._products = np.pad(self._products, (0, 1))
        self._products[-1], self._products[:, -1] = products, products
        self._values = np.append(self._values, value)
        self._share = np.append(self._share, 0.0)

    def _drop(self, point):
        del self._gradients[point]
        self._values, self._share = np.delete(self._values, point), np.delete(self._share, point)
        self._share /= self._share.sum() or 1.0
        self._products = np.delete(np.delete(self._products, point, axis=0), point, axis=1)

    def bound(self, alpha, n_moves=200):
        """The largest bound so far; the best mixture is sought by moving share from the worst to the best point."""
        values, quadratic, share = self._values, self._products / (4 * alpha), self._share
        alone = values - np.diag(quadratic)
        if not share.any() or alone.max() > values @ share - share @ quadratic @ share:
            share = self._share = np.eye(len(values))[np.argmax(alone)]
        slopes = 2 * quadratic
        for _ in range(n_moves):
            ascent = values - slopes @ share  # anew: rounding that adds up would decide on the trajectory
            to, origin = ascent.argmax(), np.where(share > 0, ascent, np.inf).argmin()
            gain = ascent[to] - ascent[origin]
            if gain <= 1e-12:
                break
            bend = quadratic[to, to] + quadratic[origin, origin] - slopes[to, origin]
            move = min(share[origin], gain / (2 * bend)) if bend > 0 else share[origin]
            share[to] += move
            share[origin] -= move
        self._best = max(self._best, float(values @ share - share @ quadratic @ share))
        return self._best


def _root_of_increasing(derivatives, *, tolerance, newton, n_trials=50):
    """Root of an increasing function on (0, inf), given (value, slope) at a point; starts at 1 or a Newton step."""
    low, high, point, best = 0.0, np.inf, 1.0, (np.inf, 0.0)
    if newton:
        value, slope = derivatives(0.0)
        point = -value / slope if slope > 0 else 1.0
    for _ in range(n_trials):
        value, slope = derivatives(point)
        if abs(value) <= tolerance:
            return point
        best = min(best, (abs(value), point))
        low, high = (low, point) if value > 0 else (point, high)
        guess = point - value / slope if slope > 0 else np.nan
        if not low < guess < high:
            guess = (low + high) / 2 if high < np.inf else 2 * point
        point = guess
    return best[1]  # of what was looked at: where little is left to gain, rounding hides the root


# ----------------------------------------------------------------------------------------------------- net


class SolvedBase:
    """A linear base head's own solver, beside a failure head with hidden layers.

    Parameters
    ----------
    head : Sequential
        The base head, which no other optimizer then trains.
    rows : Tensor
        What the solver reads, as in `LinearSolver.start`.
    solver : subclass of LinearSolver
    lr, tol, n_rounds
        The solver's. Its own failure head, a linear one, is of no use here: at step size 0 it stays zero.
    """

    def __init__(self, head, rows, solver, lr, tol, n_rounds):
        weight = head[0].weight.requires_grad_(False)
        self.rows = rows
        groups = [{"params": [weight]}, {"params": [torch.zeros_like(weight)], "lr": 0.0}]
        self.solver = solver(groups, lr=lr, tol=tol, n_rounds=n_rounds)


class DualPathNet(NeuralNet):
    """skorch's net with `LinearSolver` beside the usual optimizers; data are tensors on the device."""

    solved_base = None

    @property
    def _default_callbacks(self):
        return []

    @property
    def solver(self):
        """The `LinearSolver` of both heads or of the base head, or None where another optimizer trains both."""
        if self.solved_base is not None:
            return self.solved_base.solver
        return self.optimizer_ if isinstance(self.optimizer_, LinearSolver) else None

    def train_step(self, batch, **fit_params):
        """One step of the optimizer: a round of the solver, or skorch's own step on a batch."""
        if not isinstance(self.optimizer_, LinearSolver):
            return super().train_step(batch, **fit_params)
        self.solver.step(lambda: (*batch, self.criterion_))
        return {"loss": batch[1].new_zeros(()), "y_pred": None}

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """The round of a base head that has its own solver: the batches have seen it as the round began."""
        if self.solved_base is not None:
            self.solver.step(lambda: (self.solved_base.rows, dataset_train.y, self.criterion_))

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """The criterion and the L2 penalties of the weights (not of the biases) of each head."""
        penalties = [
            alpha * sum((p**2).sum() for name, p in head.named_parameters() if name.endswith("weight"))
            for alpha, head in (
                (self.criterion_.alpha, self.module_.base),
                (self.criterion_.alpha_fail, self.module_.failure),
            )
        ]
        return super().get_loss(y_pred, y_true, X, training) + sum(penalties)

    @torch.no_grad()
    def margins(self, dataset):
        """Differences of R_D and R_F in favour of the preferred side, (2, n_pairs), on all pairs."""
        if self.solver is not None:
            rows = dataset.X if self.solved_base is None else self.solved_base.rows
            self.solver.start(rows, dataset.y, self.criterion_)
        if isinstance(self.optimizer_, LinearSolver):
            return self.solver.margins
        parts = [torch.stack(self.module_(part)[:2]) for part in dataset.X.split(8192)]
        margins = torch.cat(parts, dim=1) * dataset.y[:, 2]
        if self.solver is None:
            return margins
        self.solver.margins[1] = margins[1]
        return self.solver.margins


class Curriculum(Callback):
    """Before each round: measure all margins, name the failures, sample them, and write the round's history.

    Parameters
    ----------
    detector : object with ``detect``
    thresholds, weights, rates : ndarray of shape (n_rounds,)
        gamma_t, lambda_t, p_t.
    keys : ndarray of shape (n_pairs,)
        The pairs' content keys.
    sample_weight : ndarray of shape (n_pairs,)
    rewards : callable of the module
        Rewards (n_pairs, 2) of the (preferred, other) outputs.
    output_labels : ndarray of shape (n_pairs, 2) or None
    """

    n_quantile_pairs = 4096  # beyond so many, the history's quantiles are of evenly spaced ones

    def __init__(self, detector, thresholds, weights, rates, keys, sample_weight, rewards, output_labels):
        self.detector = detector
        self.thresholds, self.weights, self.rates = thresholds, weights, rates
        self.keys, self.sample_weight = keys, sample_weight
        self.rewards, self.output_labels = rewards, output_labels
        self._total_weight = sample_weight.sum()

    def initialize(self):
        self.rows_ = []
        return self

    @property
    def finished(self):
        """Whether no later round samples failures."""
        return not (self.weights * self.rates)[len(self.rows_) :].any()

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        t = len(self.rows_)
        margins = net.margins(dataset_train)
        total = margins.sum(dim=0)
        state = Round(
            index=t,
            progress=t / max(len(self.weights) - 1, 1),
            threshold=self.thresholds[t],
            margins=total.cpu().numpy(),
            rewards=lambda: self.rewards(net.module_),
            output_labels=self.output_labels,
        )
        n_failures, sample = self._sample(state, dataset_train.y)
        net.criterion_.failure_weight = float(self.weights[t]) if len(sample) else 0.0
        self.rows_.append(self._row(net, state, margins[0], dataset_train.y, n_failures, sample))

    def _sample(self, state, targets):
        """Number of failures, and the sampled ones, whose weights (of mean 1) are written into the targets."""
        failures = find_failures(self.detector, state)
        n_failures = int(np.count_nonzero(failures))
        targets[:, 1] = 0
        if self.weights[state.index] * self.rates[state.index] == 0:
            return n_failures, []
        budget = self.rates[state.index] * self._total_weight
        sample = sample_failures(failures, self.keys, state.index, self.sample_weight, budget)
        if len(sample):
            weights = sampled_weights(failures, sample, self.sample_weight)
            sample = torch.from_numpy(sample).to(targets.device)
            targets[sample, 1] = torch.from_numpy(weights).to(targets)
        return n_failures, sample

    def _row(self, net, state, base_margins, targets, n_failures, sample):
        loss, t = net.criterion_, state.index
        if self.rows_ and net.solver is not None and net.solver.resting:  # the base path stays as it was
            base = self.rows_[-1]["loss_base"]
        else:
            base = float((targets[:, 0] * loss.loss(base_margins, loss.required)[0]).mean())
        total = torch.from_numpy(state.margins).to(targets)[sample]
        failing = targets[sample, 1] * loss.loss(total, loss.required_fail)[0]
        low, middle, high = self._quantiles(state.margins)
        return {
            "round": t,
            "loss_base": base,
            "loss_failure": float(failing.sum() / len(targets)),
            "failure_threshold": float(state.threshold),
            "failure_weight": float(self.weights[t]),
            "failure_rate": float(self.rates[t]),
            "n_failures": n_failures,
            "n_sampled": len(sample),
            "margin_q05": low,
            "margin_q50": middle,
            "margin_q95": high,
        }

    def _quantiles(self, margins):
        """5 %, 50 % and 95 % of the margins."""
        margins = margins[:: -(-len(margins) // self.n_quantile_pairs)]
        ranks = [int(share * (len(margins) - 1) + 0.5) for share in (0.05, 0.5, 0.95)]
        return np.partition(margins, ranks)[ranks].tolist()


class ProgressBar(Callback):
    """A progress bar over the rounds, with the losses and the number of failures; full once the fit has converged."""

    def __init__(self, n_rounds, name):
        self.n_rounds, self.name = n_rounds, name

    def on_train_begin(self, net, **kwargs):
        self.bar_ = tqdm(total=self.n_rounds, desc=self.name, unit="round", leave=True)

    def on_epoch_end(self, net, **kwargs):
        row = net.curriculum.rows_[-1]
        self.bar_.set_postfix(loss=f"{row['loss_base']:.4f}", failures=row["n_failures"], refresh=False)
        self.bar_.update()

    def on_train_end(self, net, **kwargs):
        if self.bar_.n < self.bar_.total and converged(net):
            self.bar_.total = self.bar_.n
            self.bar_.set_postfix_str(f"{self.bar_.postfix}, converged")
        self.bar_.close()


def converged(net):
    """Whether no round is left that would change anything; an interrupted fit has not converged."""
    return net.solver is not None and net.solver.resting and net.curriculum.finished
