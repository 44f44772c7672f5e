"""The dual-path network by skorch: module, loss, batches and net; for readers who know skorch.

One epoch is one round of the curriculum (`fairl_sk.learning.curriculum`), which sets the failures' weights before it.
"""

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn
from tqdm.auto import tqdm

from .blocks import is_mapped, read_blocks
from .losses import LOSSES

__all__ = ["DualPath", "DualPathLoss", "DualPathNet", "ProgressBar", "SliceIterator", "export_head"]
__all__ += ["head_reward", "rewards_of_heads", "rewards_of_paths"]


class DualPath(nn.Module):
    r"""R = R_D + R_F: a base head and a failure head over the same features (theory, eq. 1).

    Heads start Kaiming-uniform, as in the paper. ``zero_failure`` starts the failure heads at zero, beside a base path
    that is solved already. Linear heads have no bias, as margins have none. ``n_paths`` failure heads share the base.
    """

    def __init__(self, n_features, hidden_layer_sizes=(), n_paths=1, zero_failure=False, dtype=torch.float32):
        super().__init__()
        self.base = _head(n_features, hidden_layer_sizes, 1, dtype)
        self.failure = _head(n_features, hidden_layer_sizes, n_paths, dtype)
        if zero_failure:
            nn.init.zeros_(self.failure[-1].weight)

    def forward(self, features, base=None):
        """Rewards of both paths, of shape (n_rows, n_sides, 1) and (n_rows, n_sides, n_paths).

        Features have the shape (n_rows, n_sides, n_features): the outputs of pairs (two sides), or single outputs or
        differences (one side). ``base`` has the rewards of a base path that was solved before.
        """
        return self.base(features) if base is None else base, self.failure(features)


def _head(n_features, hidden_layer_sizes, n_outputs, dtype):
    sizes = [n_features, *hidden_layer_sizes, n_outputs]
    layers = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out, bias=len(sizes) > 2, dtype=dtype), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def export_head(head, scale, n_features):
    """A head as arrays [W, b, ..., W, b] in the units of the input; it was trained on features divided by the scale.

    A linear head that has one input more than there are features has a constant there, its bias.
    """
    arrays = [parameter.detach().cpu().numpy().copy() for parameter in head.parameters()]
    arrays[0] = arrays[0] / scale
    if len(arrays) > 1:
        return arrays
    weight = arrays[0]
    return [weight[:, :n_features], weight[0, n_features:] if weight.shape[1] > n_features else np.zeros(1)]


def head_reward(arrays, X):
    """Reward of each row of ``X``, shape (n_samples, n_features), by one head, in NumPy."""
    for depth in range(0, len(arrays), 2):
        if depth:
            X = np.maximum(X, 0)
        X = X @ arrays[depth].T.astype(X.dtype) + arrays[depth + 1].astype(X.dtype)
    return X[:, 0]


def rewards_of_heads(heads, X):
    """Sum of the heads' rewards of every output in X, (..., n_features), without the offset; see `export_head`."""
    return rewards_of_paths([heads], X)[0]


def rewards_of_paths(paths, X):
    """Rewards (n_paths, ...) of every output in X, (..., n_features), by paths, which are lists of heads; no offset."""
    if is_mapped(X):
        blocks = read_blocks(X)
        rewards = blocks.collect(
            lambda rows: torch.from_numpy(rewards_of_paths(paths, rows.numpy())).movedim(0, -1),
            (*X.shape[:-1], len(paths)),
            blocks.dtype,
        )
        return rewards.movedim(-1, 0).numpy()
    flat = X.reshape(-1, X.shape[-1])
    if all(len(head) == 2 for heads in paths for head in heads):  # the sum of linear heads is linear
        weights, biases = (
            np.concatenate([sum(head[part] for head in heads) for heads in paths]).astype(X.dtype) for part in (0, 1)
        )
        rewards = weights @ flat.T + biases[:, None]
    else:
        rewards = np.stack([sum(head_reward(head, flat) for head in heads) for heads in paths])
    return rewards.reshape(len(paths), *X.shape[:-1])


class DualPathLoss(nn.Module):
    r"""The objective of a round without its penalties (theory, eq. 4).

    ``required`` is M or tau of all pairs, ``required_fail`` that of failures: a number, or one for each failure path.
    ``threshold`` is learned: preferred outputs should exceed it and others should not (the pointwise loss).
    """

    def __init__(self, objective, required, required_fail, pointwise_weight=0.0, failure_gradient="failure"):
        super().__init__()
        self.loss = LOSSES[objective]
        # two outputs that are half of a required margin on their side of the threshold lead by all of it
        self.stretch = 2.0 if objective == "max_margin" else 1.0
        self.required = required
        self.register_buffer("required_fail", torch.as_tensor(required_fail))
        self.pointwise_weight, self.failure_gradient = pointwise_weight, failure_gradient
        if pointwise_weight > 0:
            self.threshold = nn.Parameter(torch.zeros(()))

    def forward(self, rewards, targets):
        """Loss of a batch, summed over the failure paths, for the rewards that `DualPath` gives.

        Targets are ``weight`` (n_rows,), of sum 1; ``failure_weight`` (n_rows, n_paths), of sum lambda_t; ``side``
        (n_rows, n_sides), +1 for the preferred side and -1 for the other, absent for differences that have the sign of
        their pair; ``target_side``, the same for the pointwise loss.
        """
        base, failure = (self.margins(path, targets.get("side")) for path in rewards)
        fixed = base.detach() if self.failure_gradient == "failure" else base
        loss = (targets["failure_weight"] * self.loss(fixed + failure, self.required_fail)).sum()
        if base.requires_grad:
            loss = loss + (targets["weight"] * self.loss(base[:, 0], self.required)).sum()
        if self.pointwise_weight > 0:
            above = self.stretch * targets["target_side"] * (rewards[0][..., 0] - self.threshold)
            of_outputs = (self.loss(above, self.required) / self.stretch).mean(dim=1)
            loss = loss + self.pointwise_weight * (targets["weight"] * of_outputs).sum()
        return loss

    @staticmethod
    def margins(rewards, side=None):
        """Margins of shape (n_rows, n_paths) of rewards of shape (n_rows, n_sides, n_paths), with the sides' signs."""
        return rewards[:, 0] if side is None else (rewards * side[..., None]).sum(dim=1)


class SliceIterator:
    """Batches by slicing tensors that already lie on the device: skorch's loader without the row-by-row work.

    A batch that holds all rows is the tensors themselves, not a copy.
    """

    def __init__(self, dataset, batch_size, seed=0):
        self.X, self.y, self.batch_size = dataset.X, dataset.y, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        n_rows = len(self.y["weight"])
        if self.batch_size >= n_rows:
            yield self.X, self.y
            return
        order = torch.randperm(n_rows, generator=self.generator).to(self.y["weight"].device)
        for rows in order.split(self.batch_size):
            X, y = ({name: tensor[rows] for name, tensor in part.items()} for part in (self.X, self.y))
            share = n_rows / len(rows)  # so that a batch estimates the sum over all rows
            yield X, {**y, "weight": y["weight"] * share, "failure_weight": y["failure_weight"] * share}


class DualPathNet(NeuralNet):
    """skorch's net of a `DualPath`, trained in rounds."""

    def __init__(self, module=DualPath, criterion=DualPathLoss, *args, **kwargs):
        self.known = None, None  # features of all rows, and the module's answer at its present weights
        settings = {"iterator_train": SliceIterator, "train_split": None, "verbose": 0}
        super().__init__(module, criterion, *args, **{**settings, **kwargs})

    @property
    def _default_callbacks(self):
        return []

    def run_rounds(self, X, y, seed):
        """Train for ``max_epochs`` rounds; an interrupt goes to the caller, which skorch's ``fit`` would hide."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        try:
            self.fit_loop(X, y)
        finally:
            self.notify("on_train_end", X=X, y=y)

    def infer(self, x, **fit_params):
        """The module's answer to a batch, which lies on the device already; `margins` may know it."""
        (features, answer), self.known = self.known, (None, None)
        return answer if features is x["features"] else self.module_(**x)

    def margins(self, dataset):
        """Margins of the base path, shape (n_rows, 1), and of the failure paths, shape (n_rows, n_paths)."""
        if len(self.module_.failure) == 1:
            answer = self.module_(**dataset.X)
            self.known = dataset.X["features"], answer
            side = dataset.y.get("side")
            return tuple(self.criterion_.margins(path.detach(), side) for path in answer)
        with torch.no_grad():
            return self._margins_by_part(dataset)

    def _margins_by_part(self, dataset):
        parts = []
        for begin in range(0, len(dataset), 2**16):  # hidden layers take memory
            rows = slice(begin, begin + 2**16)
            X, y = ({name: tensor[rows] for name, tensor in part.items()} for part in (dataset.X, dataset.y))
            parts.append([self.criterion_.margins(path, y.get("side")) for path in self.module_(**X)])
        return tuple(torch.cat(path) for path in zip(*parts, strict=True))


class ProgressBar(Callback):
    """A progress bar over the rounds."""

    def __init__(self, name):
        self.name = name

    def on_train_begin(self, net, **kwargs):
        self.bar_ = tqdm(total=net.max_epochs, desc=self.name, unit="round")

    def on_epoch_end(self, net, **kwargs):
        self.bar_.update()

    def on_train_end(self, net, **kwargs):
        self.bar_.close()
