"""The losses, the dual-path net as ordinary skorch, and the curriculum that sets the failures' weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skorch.dataset import Dataset

from fairl_sk.device import torch_device
from fairl_sk.failures import MarginFailures
from fairl_sk.learning.curriculum import Curriculum, Schedule
from fairl_sk.learning.losses import LOSSES, hinge_loss, logistic_loss
from fairl_sk.learning.net import DualPath, DualPathLoss, DualPathNet, SliceIterator, export_head, rewards_of_heads

DOUBLE = {"dtype": torch.float64}
both = pytest.mark.parametrize("objective", LOSSES)


# ---------------------------------------------------------------------------------------------------- losses

MARGINS = torch.linspace(-3, 3, 241, dtype=torch.float64)


def test_losses_are_their_formulas():
    np.testing.assert_allclose(hinge_loss(MARGINS, 1.0), np.maximum(0, 1 - MARGINS.numpy()))
    np.testing.assert_allclose(logistic_loss(MARGINS, 0.5), np.log1p(np.exp(-MARGINS.numpy() / 0.5)))
    assert logistic_loss(torch.tensor(-1e4), 1.0) == 1e4


@pytest.mark.parametrize("corner", [0.1, 0.4, 1.0])
def test_a_rounded_corner_is_smooth_and_at_most_half_its_width_below_the_hinge(corner):
    margins = MARGINS.clone().requires_grad_()
    rounded, plain = hinge_loss(margins, 1.0, corner), hinge_loss(MARGINS, 1.0)
    below = (plain - rounded).detach()
    assert 0 <= below.min() <= below.max() == pytest.approx(corner / 2)
    (slope,) = torch.autograd.grad(rounded.sum(), margins)
    assert -1 == slope.min() <= slope.max() == 0
    assert slope.diff().abs().max() <= MARGINS.diff().max() / corner + 1e-9  # a parabola's, without a jump
    step = MARGINS.diff().max()
    np.testing.assert_allclose(rounded.detach().diff() / step, (slope[1:] + slope[:-1]) / 2, atol=float(step / corner))


# --------------------------------------------------------------------------------------------------- the module


def test_heads_start_kaiming_uniform_and_a_correction_at_zero_if_asked():
    torch.manual_seed(0)
    module = DualPath(100, (8,))
    for head in (module.base, module.failure):
        assert 0.09 < head[0].weight.abs().max() <= 0.1  # 1 / sqrt(100)
    corrections = DualPath(100, n_paths=3, zero_failure=True)
    assert (corrections.failure[-1].weight == 0).all()
    assert (corrections.base[-1].weight != 0).any()
    assert [tuple(part.shape) for part in corrections(torch.zeros(7, 2, 100))] == [(7, 2, 1), (7, 2, 3)]


@pytest.mark.parametrize(("layers", "constant"), [((), 0), ((), 1), ((4, 3), 0)])
def test_exported_heads_give_the_rewards_of_the_module(rng, layers, constant):
    """In the units of the input; a constant behind the features is the bias of a linear head."""
    module, X, scale = DualPath(5 + constant, layers, **DOUBLE), rng.normal(size=(20, 2, 5)), 3.0
    inputs = np.concatenate([X, np.ones((20, 2, constant))], axis=2) / scale
    expected = sum(module(torch.from_numpy(inputs))).detach().numpy()[..., 0]
    heads = [export_head(head, scale, 5) for head in (module.base, module.failure)]
    assert [len(head) for head in heads] == [2 * len(layers) + 2] * 2
    np.testing.assert_allclose(rewards_of_heads(heads, X), expected)
    np.testing.assert_allclose(rewards_of_heads(heads, X[:, 0]), expected[:, 0])


# ------------------------------------------------------------------------------------------------- the criterion


@pytest.fixture
def batch():
    """Outputs of 30 pairs, and targets with uneven weights."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(30, 2, 5, generator=generator, **DOUBLE)
    sign = torch.where(torch.rand(30, 1, generator=generator) < 0.5, 1.0, -1.0).double()
    targets = {
        "weight": torch.rand(30, generator=generator, **DOUBLE) + 0.1,
        "failure_weight": torch.rand(30, 1, generator=generator, **DOUBLE).round() * 3,
        "side": torch.cat([sign, -sign], dim=1),
        "target_side": torch.where(torch.rand(30, 2, generator=generator) < 0.5, 1.0, -1.0).double(),
    }
    return X, targets


@both
def test_the_criterion_is_the_objective_of_a_round(batch, objective):
    """Theory, eq. 4 and the pointwise loss, without the penalties."""
    X, targets = batch
    module = DualPath(5, **DOUBLE)
    criterion = DualPathLoss(objective, 1.0, 2.0, pointwise_weight=0.7)
    criterion.threshold.data += 0.3
    base, failure = (path[..., 0].detach().numpy() for path in module(X))
    weight, failing, side, target = (value.numpy() for value in targets.values())

    def loss(margins, required):
        return np.maximum(0, required - margins) if objective == "max_margin" else np.logaddexp(0, -margins / required)

    margins = (side * base).sum(axis=1)
    stretch = 2 if objective == "max_margin" else 1
    of_outputs = loss(stretch * target * (base - 0.3), 1.0).mean(axis=1) / stretch
    expected = weight @ loss(margins, 1.0) + failing[:, 0] @ loss(margins + (side * failure).sum(axis=1), 2.0)
    expected += 0.7 * weight @ of_outputs
    assert criterion(module(X), targets).item() == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------------ batches


def rows(n):
    numbers = torch.arange(float(n))
    targets = {"weight": torch.full((n,), 1 / n), "failure_weight": torch.full((n, 1), 3 / n), "side": numbers[:, None]}
    return Dataset({"features": numbers[:, None, None]}, targets)


@given(st.integers(2, 30), st.integers(1, 30), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_batches_hold_every_row_once_in_an_order_that_the_seed_decides(n, size, seed):
    """Each weighs as much as all rows, whose sum it estimates."""
    epochs = []
    for iterator in (SliceIterator(rows(n), size, seed=seed), SliceIterator(rows(n), size, seed=seed)):
        batches = list(iterator)
        for X, y in batches:
            assert (X["features"][:, 0] == y["side"]).all()
            assert y["weight"].sum().item() == pytest.approx(1.0)
            assert y["failure_weight"].sum().item() == pytest.approx(3.0)
            assert len(y["side"]) <= size
        epochs.append(torch.cat([y["side"] for _, y in batches]).flatten().tolist())
    assert sorted(epochs[0]) == list(range(n))
    assert epochs[0] == epochs[1]


# ------------------------------------------------------------------------------------------------------ the net


def a_net(**settings):
    options = {"module__n_features": 5, "module__dtype": torch.float64, "criterion__objective": "max_entropy"}
    options |= {"criterion__required": 1.0, "criterion__required_fail": 0.5, "batch_size": 10, "max_epochs": 3}
    return DualPathNet(**{**options, **settings})


def test_the_net_is_ordinary_skorch(batch):
    """Its parameters are set by skorch's prefixes, ``fit`` trains it, and ``history`` has the losses."""
    X, targets = batch
    net = a_net(optimizer=torch.optim.Adam, lr=0.1)
    net.set_params(module__hidden_layer_sizes=(4,), optimizer__weight_decay=0.5, max_epochs=15)
    net.fit({"features": X}, targets)
    assert net.module_.base[0].weight.shape == (4, 5)
    assert {group["weight_decay"] for group in net.optimizer_.param_groups} == {0.5}
    losses = np.array(net.history[:, "batches", :, "train_loss"])
    assert losses.shape == (15, 3)
    assert losses[-1].mean() < losses[0].mean()


def test_rounds_start_by_their_seed_and_leave_the_global_one(batch):
    X, targets = batch
    torch.manual_seed(1)
    before = torch.get_rng_state()
    nets = [a_net() for _ in range(3)]
    for net, seed in zip(nets, (5, 5, 6), strict=True):
        net.run_rounds({"features": X}, targets, seed=seed)
    assert (torch.get_rng_state() == before).all()
    weights = [net.module_.base[0].weight for net in nets]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


# ----------------------------------------------------------------------------------------------- the curriculum


class Everything(MarginFailures):
    def detect(self, state):
        return np.ones(len(state.margins))


class Graded(MarginFailures):
    def detect(self, state):
        return np.resize([2.0, 1.0, 0.0, 1.0], len(state.margins))


def failure_weights(batch, schedule, *, sample_weight=None, generator=None):
    """Weights that every round gives, (n_rounds, n_pairs), and the history."""
    data, weights = Dataset({"features": batch[0]}, batch[1]), []
    sample_weight = np.full(30, 1 / 30) if sample_weight is None else sample_weight
    curriculum = Curriculum([schedule], sample_weight, None, generator=generator).initialize()
    net = a_net().initialize()
    for _ in schedule.weights:
        curriculum.on_epoch_begin(net, dataset_train=data)
        weights.append(data.y["failure_weight"][:, 0].numpy().copy())
    return np.array(weights), curriculum.rows_


def a_schedule(detector, rates, weight=3.0):
    return Schedule(detector, np.zeros(len(rates)), np.full(len(rates), weight), np.asarray(rates))


@given(st.integers(0, 1000), st.lists(st.floats(0, 1), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_round_draws_failures_of_at_most_its_rate(seed, rates):
    rng = np.random.default_rng(seed)
    batch = (torch.from_numpy(rng.normal(size=(30, 2, 5))), {"side": torch.tensor([[1.0, -1.0]] * 30).double()})
    batch[1].update(weight=torch.ones(30).double(), failure_weight=torch.zeros(30, 1).double())
    sample_weight = rng.integers(0, 4, size=30) + 0.0
    sample_weight[0] = 1.0
    sample_weight /= sample_weight.sum()
    weights, history = failure_weights(
        batch,
        a_schedule(Everything(), rates),
        sample_weight=sample_weight,
        generator=np.random.RandomState(seed),
    )
    for of_pairs, rate, row in zip(weights, rates, history, strict=True):
        assert sample_weight[of_pairs > 0].sum() <= rate * (1 + 1e-9)
        assert row["n_sampled"] == (of_pairs > 0).sum() <= row["n_failures"] == 30
        assert of_pairs.sum() == pytest.approx(3.0 if row["n_sampled"] else 0.0)


def test_draws_are_those_of_the_generator(batch):
    rates = [0.5] * 6

    def drawn(seed):
        generator = np.random.RandomState(seed)
        return failure_weights(batch, a_schedule(Everything(), rates), generator=generator)[0]

    first = drawn(0)
    np.testing.assert_array_equal(first, drawn(0))
    assert (first != drawn(1)).any()
    assert (first > 0).sum() == 6 * 15
    assert len({tuple(row) for row in first > 0}) == 6  # each round draws anew


def test_without_a_generator_every_failure_counts_by_its_weight_as_long_as_the_rate_is_above_0(batch):
    sample_weight = np.resize([1.0, 3.0, 1.0], 30)
    sample_weight /= sample_weight.sum()
    weights, history = failure_weights(batch, a_schedule(Graded(), [0.2, 0.01, 0.0]), sample_weight=sample_weight)
    expected = sample_weight * np.resize([2.0, 1.0, 0.0, 1.0], 30)
    np.testing.assert_allclose(weights, np.outer([3, 3, 0], expected / expected.sum()))
    assert [row["n_sampled"] for row in history] == [23, 23, 0]
    assert [row["n_failures"] for row in history] == [23, 23, 23]


# -------------------------------------------------------------------------------------------------- the device


def test_devices():
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="Found device='gpu'. Expected 'cpu'"):
        torch_device("gpu")
    with pytest.raises(ValueError, match=r"device='meta', but torch cannot compute there \(.+\)\. Use device='cpu'"):
        torch_device("meta")
