"""The net: its iterator, its module, and one round of it against autograd and closed forms."""

import numpy as np
import pytest
import torch
from skorch.dataset import Dataset

from fairl_sk.learning.failures import Round
from fairl_sk.learning.net import (
    Curriculum,
    DualPath,
    DualPathLoss,
    JointSolver,
    LinearSolver,
    PairRows,
    SliceIterator,
    StackedRows,
    _root_of_increasing,
    export_heads,
    head_reward,
    import_heads,
    torch_device,
)


def a_module(n_features=5, hidden=(), **options):
    return DualPath(n_features, hidden, seed=0, dtype=torch.float64, **options)


# -------------------------------------------------------------------------------------------------- iterator


def test_full_batch_is_the_tensors_themselves():
    X, y = torch.arange(10.0)[:, None], torch.arange(10.0)
    ((batch, target),) = SliceIterator(Dataset(X, y), batch_size=10)
    assert batch is X
    assert target is y


def test_batches_hold_every_row_once_in_a_new_order_each_epoch():
    X = torch.arange(10.0)[:, None]
    iterator = SliceIterator(Dataset(X, X[:, 0]), batch_size=4, seed=3)
    epochs = []
    for _ in range(2):
        batches = list(iterator)
        assert [len(batch) for batch, _ in batches] == [4, 4, 2]
        assert all((batch[:, 0] == target).all() for batch, target in batches)
        epochs.append(torch.cat([target for _, target in batches]))
    assert epochs[0].sort().values.tolist() == list(range(10))
    assert epochs[0].tolist() != epochs[1].tolist()
    again = torch.cat([target for _, target in SliceIterator(Dataset(X, X[:, 0]), batch_size=4, seed=3)])
    assert again.tolist() == epochs[0].tolist()


# ---------------------------------------------------------------------------------------------------- module


def test_an_untrained_failure_path_is_no_correction_and_the_base_path_is_small():
    module = a_module(100, (8,))
    base, failure = module(torch.randn(50, 2, 100, dtype=torch.float64))
    assert (failure == 0).all()
    assert (base != 0).all()
    bound = module.base[0].weight.abs().max()  # Kaiming-uniform with a = sqrt(5)
    assert 0.09 < bound <= 0.1
    assert all((weight == 0).all() for weight in a_module(100).parameters())


def test_differences_pairs_and_outputs_agree():
    X = torch.randn(7, 2, 5, dtype=torch.float64)
    module = a_module()
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    on_pairs = torch.stack(module(X))
    torch.testing.assert_close(torch.stack(module(X[:, 0] - X[:, 1])), on_pairs)
    single = [torch.stack(module(X[:, side : side + 1])) for side in (0, 1)]
    torch.testing.assert_close(single[0] - single[1], on_pairs)


@pytest.mark.parametrize(("hidden", "width"), [((), 5), ((), 6), ((4, 3), 5)])
def test_heads_go_out_and_come_back(hidden, width):
    """width 6 is a linear head trained with a constant feature for the bias of outputs."""
    module, scale = a_module(width, hidden), 3.0
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    heads = export_heads(module, scale, 5)
    X = np.random.default_rng(0).normal(size=(20, 5))
    inputs = np.concatenate([X, np.ones((20, width - 5))], axis=1) / scale
    expected = module.base(torch.from_numpy(inputs))[:, 0].detach().numpy()
    np.testing.assert_allclose(head_reward(heads[0], X), expected)
    back = a_module(width, hidden, start=import_heads(heads, scale, width))
    for ours, theirs in zip(back.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("hidden", "failure_hidden"), [((), (4,)), ((4,), ()), ((4,), (3, 2)), ((), ())])
@pytest.mark.parametrize("width", [5, 6])
def test_heads_of_two_forms(hidden, failure_hidden, width):
    """The base head starts as if both were of its form; of a constant behind the features linear heads make a bias."""
    options = {"failure_hidden_layer_sizes": failure_hidden, "constant": width > 5}
    module, scale = a_module(5, hidden, **options), 3.0
    alike = a_module(5, hidden, constant=width > 5)
    for ours, theirs in zip(module.base.parameters(), alike.base.parameters(), strict=True):
        assert (ours == theirs).all()
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    X = np.random.default_rng(0).normal(size=(20, 2, 5))
    inputs = torch.from_numpy(np.concatenate([X, np.ones((20, 2, width - 5))], axis=2) / scale)
    heads = export_heads(module, scale, 5)
    for rewards, weights in zip(module(inputs[:, :1]), heads, strict=True):
        np.testing.assert_allclose(head_reward(weights, X[:, 0]), rewards.detach().numpy())
    for differences, weights in zip(module(inputs), heads, strict=True):
        expected = head_reward(weights, X[:, 0]) - head_reward(weights, X[:, 1])
        np.testing.assert_allclose(expected, differences.detach().numpy())
    back = a_module(5, hidden, start=import_heads(heads, scale, width), **options)
    for ours, theirs in zip(back.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


# ------------------------------------------------------------------------------------------------------ loss


@pytest.mark.parametrize("failure_gradient", ["failure", "both"])
def test_the_heads_that_the_failure_term_reaches(failure_gradient):
    X, targets = torch.randn(30, 5, dtype=torch.float64), torch.ones(30, 3, dtype=torch.float64)
    gradients = {}
    for weight in (0.0, 10.0):
        module = a_module()
        loss = DualPathLoss("max_entropy", 1.0, 0.5, 0.0, 0.0, failure_gradient=failure_gradient)
        loss.failure_weight = weight
        loss(module(X), targets).backward()
        gradients[weight] = module.base[0].weight.grad, module.failure[0].weight.grad
    assert gradients[0.0][1] is None
    assert gradients[10.0][1].norm() > 0
    pull = gradients[10.0][1] if failure_gradient == "both" else torch.zeros(1, 5, dtype=torch.float64)
    torch.testing.assert_close(gradients[0.0][0] + pull, gradients[10.0][0])


# ---------------------------------------------------------------------------------------------------- solver


def solve(
    objective,
    features,
    targets,
    n_rounds=200,
    tol=1e-9,
    failure_weight=0.0,
    lr=0.1,
    alpha_fail=0.0,
    pointwise_weight=0.0,
    solver=LinearSolver,
):
    module = a_module(features.shape[-1])
    required_fail = 2.0 if objective == "max_margin" else 0.5
    failure_gradient = "both" if solver is JointSolver else "failure"
    loss = DualPathLoss(objective, 1.0, required_fail, 1e-2, alpha_fail, pointwise_weight, failure_gradient)
    loss.failure_weight = failure_weight
    groups = [{"params": [module.base[0].weight]}, {"params": [module.failure[0].weight]}]
    solver = solver(groups, lr=lr, tol=tol, n_rounds=n_rounds)
    for _ in range(n_rounds):
        solver.step(lambda: (features, targets, loss))
    return module, solver, loss


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    differences = torch.randn(200, 5, dtype=torch.float64, generator=generator) + 0.3
    targets = torch.rand(200, 3, dtype=torch.float64, generator=generator) + 0.1
    return differences, targets


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_margins_are_kept_up_to_date(problem, objective):
    module, solver, _ = solve(objective, *problem, n_rounds=30, failure_weight=3.0, alpha_fail=0.1)
    torch.testing.assert_close(solver.margins, torch.stack(module(problem[0])), atol=1e-10, rtol=0)


def test_the_base_path_ends_where_the_gradient_is_zero(problem):
    module, solver, loss = solve("max_entropy", *problem, tol=1e-12)
    assert solver.resting
    targets = problem[1].clone()
    targets[:, 2] = 1
    total = loss(module(problem[0]), targets) + loss.alpha * (module.base[0].weight ** 2).sum()
    total.backward()
    assert module.base[0].weight.grad.norm() < 1e-5


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_one_step_of_the_failure_path_is_a_gradient_step(problem, objective):
    differences, targets = problem
    module, _, loss = solve(objective, differences, targets, n_rounds=1, failure_weight=3.0, lr=0.2, alpha_fail=0.7)
    start = a_module()
    oriented = targets.clone()
    oriented[:, 2] = 1
    loss(start(differences), oriented).backward()
    expected = -0.2 * start.failure[0].weight.grad / (1 + 2 * 0.2 * 0.7)
    torch.testing.assert_close(module.failure[0].weight.data, expected)


def test_a_base_path_at_rest_is_left_alone(problem):
    module, solver, _ = solve("max_entropy", *problem, n_rounds=50, tol=1e-6)
    assert solver.resting
    weight = module.base[0].weight.clone()
    solver.step(lambda: (*problem, DualPathLoss("max_entropy", 1.0, 0.5, 1e-2, 0.0)))
    assert (module.base[0].weight == weight).all()


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_margins_of_a_base_head_that_failures_move_are_kept_up_to_date(problem, objective):
    options = {"failure_weight": 3.0, "alpha_fail": 0.1, "solver": JointSolver}
    module, solver, _ = solve(objective, *problem, n_rounds=30, **options)
    torch.testing.assert_close(solver.margins, torch.stack(module(problem[0])), atol=1e-10, rtol=0)
    assert np.isnan(solver.gap) and not solver.resting


def test_without_failures_the_joint_solver_is_the_other(problem):
    for objective in ("max_margin", "max_entropy"):
        (one, joint, _), (other, linear, _) = (
            solve(objective, *problem, n_rounds=50, tol=1e-6, solver=solver) for solver in (JointSolver, LinearSolver)
        )
        assert (one.base[0].weight == other.base[0].weight).all()
        assert joint.gap == linear.gap and joint.resting == linear.resting


def test_the_joint_solver_ends_where_both_gradients_are_zero(problem):
    """At the minimum of the objective of the round, where the failures and their weight stay the same."""
    differences, targets = problem
    options = {"failure_weight": 3.0, "alpha_fail": 0.05, "lr": 0.2, "solver": JointSolver}
    module, _, loss = solve("max_entropy", differences, targets, n_rounds=800, **options)
    oriented = targets.clone()
    oriented[:, 2] = 1
    total = loss(module(differences), oriented) + loss.alpha * (module.base[0].weight ** 2).sum()
    (total + loss.alpha_fail * (module.failure[0].weight ** 2).sum()).backward()
    assert module.base[0].weight.grad.norm() < 1e-5
    assert module.failure[0].weight.grad.norm() < 1e-5
    standard, _, _ = solve("max_entropy", differences, targets)
    assert (module.base[0].weight - standard.base[0].weight).norm() > 0.05


def test_root_of_increasing():
    for root in (0.01, 1.0, 37.0):
        found = _root_of_increasing(lambda s, root=root: (s - root, 1.0), tolerance=1e-9, newton=False)
        assert found == pytest.approx(root)
    # no curvature where it starts, as with a hinge whose corner lies further on
    found = _root_of_increasing(lambda s: (max(-1.0, s - 5), float(s > 4)), tolerance=1e-6, newton=True)
    assert found == pytest.approx(5)


# ------------------------------------------------------------------------------------- single outputs and pairs


@pytest.fixture
def outputs():
    """Outputs of 30 pairs, their targets, and a direction of the base and of the failure path."""
    generator = torch.Generator().manual_seed(1)
    X, directions = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((30, 2, 5), (2, 6)))
    targets = torch.rand(30, 5, dtype=torch.float64, generator=generator) + 0.1
    targets[:, 0] /= targets[:, 0].mean()
    targets[:, 2] = 1
    targets[:, 3:] = torch.where(targets[:, 3:] > 0.5, 1.0, -1.0)
    return X, targets, directions[0], directions[1, :5]


@pytest.mark.parametrize(("objective", "stretch"), [("max_margin", 2.0), ("max_entropy", 1.0)])
def test_stacked_rows_are_outputs_and_pairs_one_below_the_other(outputs, objective, stretch):
    X, targets, base, failure = outputs
    sides = targets[:, 3:]
    rows = StackedRows(X, targets[:, 0], DualPathLoss(objective, 1.0, 2.0, 0.1, 0.1, 0.7), sides)
    above = torch.cat([X, torch.ones(30, 2, 1)], dim=2)
    explicit = torch.cat([*(stretch * sides[..., None] * above).swapaxes(0, 1), above[:, 0] - above[:, 1]])
    differences = explicit[60:, :5]
    assert (rows.n_rows, rows.width) == explicit.shape
    along, of_failure = rows.along(base, failure)
    torch.testing.assert_close(along, explicit @ base)
    torch.testing.assert_close(of_failure, differences @ failure)
    torch.testing.assert_close(rows.sum(along), along @ explicit)
    pairs = torch.tensor([3, 7, 8])
    expected = PairRows(differences, targets[:, 0], None).sum_of_pairs(along[pairs], pairs)
    torch.testing.assert_close(rows.sum_of_pairs(along[pairs], pairs), expected)
    assert rows.weight.mean() == pytest.approx(1)


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_stacked_rows_have_the_loss_of_a_batch(outputs, objective):
    """Up to the common factor: the value, and the penalty against it."""
    X, targets, base, _ = outputs
    loss, module = DualPathLoss(objective, 1.0, 2.0, 0.1, 0.1, 0.7), a_module(with_outputs=True)
    module.base[0].weight.data = base[None, :-1]
    loss.threshold.data = -base[-1]
    rows = StackedRows(X, targets[:, 0], loss, targets[:, 3:])
    stacked = (rows.weight * rows.loss.loss(rows.along(base, base[:-1])[0], 1.0)[0]).mean()
    expected = loss(module(X), targets)
    torch.testing.assert_close(stacked * loss.alpha / rows.loss.alpha, expected)
    flipped = targets[:, [0, 1, 2, 4, 3]]
    flipped[:, 2] = -1
    torch.testing.assert_close(loss(module(X.flip(1)), flipped), expected)


def test_the_joint_solver_where_single_outputs_count(outputs):
    """The gradients of weights and threshold end at zero, as of pairs alone; the threshold is penalised as a weight."""
    X, targets, _, _ = outputs
    X, targets = X - X.mean(dim=(0, 1)), targets.clone()
    targets[:, 1] = 1
    options = {"failure_weight": 0.5, "alpha_fail": 0.05, "lr": 0.2, "pointwise_weight": 0.7, "solver": JointSolver}
    module, solver, loss = solve("max_entropy", X, targets, n_rounds=800, **options)
    both = a_module(with_outputs=True, start=import_heads(export_heads(module, 1.0, 5), 1.0, 5))
    loss.threshold.data = -(solver._base_path.theta + solver._deviation)[-1]
    (loss(both(X), targets) + loss.alpha * ((both.base[0].weight ** 2).sum() + loss.threshold**2)).backward()
    assert both.base[0].weight.grad.norm() < 1e-5
    assert abs(loss.threshold.grad) < 1e-5
    pairs = torch.stack(module(X[:, 0] - X[:, 1]))
    torch.testing.assert_close(solver.margins, pairs, atol=1e-10, rtol=0)


# ------------------------------------------------------------------------------------------------ curriculum


def test_a_failure_of_weight_2_counts_double():
    class Weighted:
        def detect(self, state):
            return np.array([2.0, 1, 0, 1])

    one = np.ones(1)
    for sample_weight, expected in ((np.ones(4), [2, 1, 0, 1]), (np.array([1.0, 3, 1, 1]), [4 / 3, 2, 0, 2 / 3])):
        curriculum = Curriculum(Weighted(), one, one, one, np.arange(4, dtype=np.uint64), sample_weight, None, None)
        targets = torch.ones(4, 3, dtype=torch.float64)
        n_failures, sample = curriculum._sample(Round(0, 0.0, 0.0, np.zeros(4), None, None), targets)
        assert (n_failures, sorted(sample.tolist())) == (3, [0, 1, 3])
        assert targets[:, 1].tolist() == pytest.approx(expected)
        assert (targets[:, [0, 2]] == 1).all()


# ---------------------------------------------------------------------------------------------------- device


@pytest.mark.parametrize("name", ["meta", "xla", "hpu", "vulkan", "privateuseone"])
def test_a_device_that_cannot_compute_is_named_before_the_fit(name):
    with pytest.raises(ValueError, match=rf"device='{name}', but torch cannot compute there \(.+\)\. Use device='cpu'"):
        torch_device(name)


def test_devices_that_compute():
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="Found device='gpu'. Expected 'cpu'"):
        torch_device("gpu")
