"""The curriculum: before each round it measures the margins, finds the failures and sets their weights."""

from dataclasses import dataclass

import numpy as np
import torch
from skorch.callbacks import Callback

from ..failures import Round, find_failures

__all__ = ["Curriculum", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """What one failure path goes through: a detector, and arrays of shape (n_rounds,)."""

    detector: object  # with ``detect``
    thresholds: np.ndarray  # gamma_t
    weights: np.ndarray  # lambda_t
    rates: np.ndarray  # p_t

    @property
    def is_idle(self):
        """Whether no round uses failures."""
        return not (self.weights * self.rates).any()


class Curriculum(Callback):
    """skorch's callback that names the failures of every round, and writes a row of history for the first path.

    There is one `Schedule` for each failure path. ``sample_weight`` has the sum 1. ``rewards(module, path)`` gives the
    rewards of the (preferred, other) outputs, with the offset set; ``output_labels`` have that order too. A
    ``generator`` draws the failures of a round, as in the paper; without one every failure counts, in expectation.
    """

    def __init__(self, schedules, sample_weight, rewards, output_labels=None, generator=None, record=True):
        self.schedules, self.sample_weight = schedules, sample_weight
        self.rewards, self.output_labels = rewards, output_labels
        self.generator, self.record = generator, record

    def initialize(self):
        self.rows_, self.round_ = [], 0
        return self

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        base, failure = net.margins(dataset_train)
        margins = (base + failure).T.contiguous().cpu().numpy()
        if self.round_ == 0 or "base" not in dataset_train.X:  # else the base path stays what it is
            loss, weight = net.criterion_, dataset_train.y["weight"]
            self.loss_base_ = float((weight * loss.loss(base[:, 0], loss.required)).sum())
        targets = dataset_train.y["failure_weight"]
        weights = np.zeros(margins.shape, dtype=margins.dtype)
        for path, schedule in enumerate(self.schedules):
            state = self._state(schedule, margins[path], net, path)
            failures = find_failures(schedule.detector, state)
            weights[path] = self._weights(failures, schedule)
            if path == 0 and self.record:
                self.rows_.append(self._row(net, schedule, margins[0], failures, weights[0]))
        targets.copy_(torch.from_numpy(weights.T))
        self.round_ += 1

    def _state(self, schedule, margins, net, path):
        return Round(
            index=self.round_,
            progress=self.round_ / max(len(schedule.weights) - 1, 1),
            threshold=schedule.thresholds[self.round_],
            margins=margins,
            rewards=lambda: self.rewards(net.module_, path),
            output_labels=self.output_labels,
        )

    def _weights(self, failures, schedule):
        """Weights of the failures' losses, (n_pairs,), of sum lambda_t; all 0 where nothing fails."""
        weight, rate = schedule.weights[self.round_], schedule.rates[self.round_]
        if weight * rate == 0:
            return 0.0
        weights = failures * self.sample_weight
        if self.generator is not None:
            weights = self._sample(weights, rate * self.sample_weight.sum())
        total = weights.sum()
        return weights * (weight / total) if total > 0 else 0.0

    def _sample(self, weights, budget):
        """Weights of a random sample of the failures, whose sample weights sum to the budget at most."""
        order = self.generator.permutation(np.flatnonzero(weights))
        sample = order[np.cumsum(self.sample_weight[order]) <= budget * (1 + 1e-9)]
        sampled = np.zeros_like(weights)
        sampled[sample] = weights[sample]
        return sampled

    def _row(self, net, schedule, margins, failures, weights):
        loss, t = net.criterion_, self.round_
        failing = loss.loss(torch.from_numpy(margins), loss.required_fail.flatten()[0].cpu()).numpy()
        total = weights.sum()
        low, middle, high = np.quantile(margins, [0.05, 0.5, 0.95]).tolist()
        return {
            "round": t,
            "loss_base": self.loss_base_,
            "loss_failure": float((weights * failing).sum() / total) if total > 0 else 0.0,
            "failure_threshold": float(schedule.thresholds[t]),
            "failure_weight": float(schedule.weights[t]),
            "failure_rate": float(schedule.rates[t]),
            "n_failures": int(np.count_nonzero(failures)),
            "n_sampled": int(np.count_nonzero(weights)),
            "margin_q05": low,
            "margin_q50": middle,
            "margin_q95": high,
        }
