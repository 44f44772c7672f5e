"""The estimators: `MaxMarginIRL`, `MaxEntropyIRL` and `FailureAwareIRL`."""

from numbers import Real

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions  # the parameters' declared constraints

from ..failures import MarginFailures, make_detector
from ..warn import warn_user
from .curriculum import Schedule
from .preference import NON_NEGATIVE, POSITIVE, PreferenceIRL, document
from .problem import Settings
from .rows import labels_of_pairs
from .schedules import ExponentialSchedule, LinearSchedule, schedule_values

__all__ = ["FailureAwareIRL", "MaxEntropyIRL", "MaxMarginIRL"]

_SHARED_PARAMETERS = """
alpha : float >= 0, default=1e-3
    L2 strength of the base path. Larger: smaller rewards that lean on fewer directions. With linear heads
    ``LogisticRegression``'s and ``LinearSVC``'s ``C`` is ``1 / (2 * alpha * n_pairs)``.
hidden_layer_sizes : sequence of int, default=()
    Widths of ReLU layers in each head. Empty: linear rewards, by a convex solver. Otherwise Adam trains the heads.
n_rounds : int, default=50
    Rounds of the curriculum; epochs of heads with hidden layers.
learning_rate : float > 0 or "auto", default="auto"
    Step size, in units where differences have root mean squared length 1. "auto": ``10 / n_rounds`` in two-stage
    training, 0.01 for Adam, 0.003 with hidden layers.
batch_size : int or "auto", default="auto"
    Pairs in a step of Adam. "auto": 256.
max_iter : int, default=1000
    Most iterations of the solver of a linear base path.
tol : float >= 0, default=1e-5
    Duality gap at which a linear base path is solved, as a share of the loss of a constant reward.
device : {"cpu", "cuda", "auto"} or str, default="cpu"
    Where the fit runs. "auto": a GPU if there is one. Predictions run on the CPU.
random_state : int, RandomState or None, default=None
    Start of the heads, batches and sampled failures. A two-stage fit of linear heads draws nothing.
verbose : int or bool, default=0
    Show a progress bar over the rounds.

Attributes
----------
coef_ : ndarray of shape (n_features,)
    Weights of a linear reward, theta_D + theta_F.
base_coef_, failure_coef_ : ndarray of shape (n_features,)
    theta_D and theta_F of linear heads.
base_weights_, failure_weights_ : list of ndarray
    The heads' layers, [W, b, W, b, ...].
intercept_ : float
    Offset of the reward. It cancels in margins, so pairs cannot identify it. It is set so that 0 separates chosen from
    rejected (desirable from other) training outputs best, both counting one half.
classes_ : ndarray of shape (2,)
    The two classes; the larger means "the first is preferred" (of outputs: "desirable").
history_ : list of dict
    A row a round: losses, failure threshold, weight and rate, numbers of failures and of those used, quantiles of the
    margins, all before the round's step.
n_iter_ : int
    Iterations of the solver; epochs of Adam.
dual_gap_ : float
    Duality gap of a linear base path, as a share of the loss of a constant reward; NaN where Adam trained it.
n_features_in_ : int
    Number of features of an output.
feature_names_in_ : ndarray of shape (n_features,)
    Names of the features, for tables.
"""


@document(shared=_SHARED_PARAMETERS)
class MaxMarginIRL(PreferenceIRL):
    r"""Standard IRL by maximum margin.

    It minimizes

    .. math:: \frac{1}{\sum_i w_i} \sum_i w_i \max(0, M - \Delta_i) + \alpha \|\theta\|^2,

    with :math:`\Delta_i = R(o_i^+) - R(o_i^-)` the margin of pair i, M the ``margin``, :math:`\alpha` the ``alpha``
    and :math:`w_i` the sample weights (theory, eq. 2). With linear heads it is the problem of ``LinearSVC(
    loss="hinge", fit_intercept=False)`` on the differences.

    Parameters
    ----------
    margin : float > 0, default=1.0
        Required margin M, in units of reward. With ``alpha`` it sets the unit of the reward.
    temperature : float > 0, default=1.0
        Scale of `predict_proba`, in units of reward. It is not learned and does not change the reward.
    {shared}

    See Also
    --------
    MaxEntropyIRL : The probabilistic baseline.
    FailureAwareIRL : The same objectives with a failure path.

    References
    ----------
    .. [1] A. Ng and S. Russell. Algorithms for inverse reinforcement learning. ICML 2000.
    .. [2] Patel et al. Learning from failures. arXiv 2510.06092, section 4.

    Examples
    --------
    >>> from fairl_sk import MaxMarginIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, random_state=0)
    >>> MaxMarginIRL().fit(data.data, data.target).score(data.data, data.target) > 0.95
    True
    """

    _parameter_constraints = {**PreferenceIRL._parameter_constraints, "margin": [POSITIVE]}

    def __init__(
        self,
        *,
        margin=1.0,
        temperature=1.0,
        alpha=1e-3,
        hidden_layer_sizes=(),
        n_rounds=50,
        learning_rate="auto",
        batch_size="auto",
        max_iter=1000,
        tol=1e-5,
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self._keep_parameters(locals())

    def _settings(self):
        return _standard_settings(self, "max_margin", self.margin)


@document(shared=_SHARED_PARAMETERS)
class MaxEntropyIRL(PreferenceIRL):
    r"""Standard IRL by maximum entropy: the Bradley-Terry likelihood of the preferences.

    It minimizes

    .. math:: \frac{1}{\sum_i w_i} \sum_i w_i \log(1 + e^{-\Delta_i / \tau}) + \alpha \|\theta\|^2,

    with :math:`\Delta_i = R(o_i^+) - R(o_i^-)` the margin of pair i, :math:`\tau` the ``temperature``,
    :math:`\alpha` the ``alpha`` and :math:`w_i` the sample weights (theory, eq. 3). With linear heads and
    :math:`\tau = 1` it is the problem of ``LogisticRegression(fit_intercept=False)`` on the differences.

    Parameters
    ----------
    temperature : float > 0, default=1.0
        Temperature tau, in units of reward: a margin of one temperature means odds of e to 1. Larger: larger rewards.
    {shared}

    See Also
    --------
    MaxMarginIRL : The baseline with required margins.
    FailureAwareIRL : The same objectives with a failure path.

    References
    ----------
    .. [1] B. Ziebart et al. Maximum entropy inverse reinforcement learning. AAAI 2008.
    .. [2] Patel et al. Learning from failures. arXiv 2510.06092, section 4.

    Examples
    --------
    >>> from fairl_sk import MaxEntropyIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, random_state=0)
    >>> MaxEntropyIRL().fit(data.data, data.target).predict_proba(data.data[:3]).shape
    (3, 2)
    """

    def __init__(
        self,
        *,
        temperature=1.0,
        alpha=1e-3,
        hidden_layer_sizes=(),
        n_rounds=50,
        learning_rate="auto",
        batch_size="auto",
        max_iter=1000,
        tol=1e-5,
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self._keep_parameters(locals())

    def _settings(self):
        return _standard_settings(self, "max_entropy", self.temperature)


def _standard_settings(estimator, objective, required):
    """Settings of a learner without failures."""
    zeros = np.zeros(estimator.n_rounds)
    return Settings(
        objective=objective,
        required=required,
        required_fail=required,
        alpha=estimator.alpha,
        alpha_fail=estimator.alpha,
        schedule=Schedule(MarginFailures(), zeros, zeros, zeros),
        learning_rate=estimator.learning_rate,
        tol=estimator.tol,
        max_iter=estimator.max_iter,
    )


@document(shared=_SHARED_PARAMETERS)
class FailureAwareIRL(PreferenceIRL):
    r"""Failure-aware IRL: a second head corrects the pairs that the reward gets wrong or nearly ties.

    The reward is :math:`R = R_D + R_F`. The base path :math:`R_D` minimizes the loss of `MaxMarginIRL` or
    `MaxEntropyIRL` over all pairs. The failure path :math:`R_F` then takes a gradient step a round on

    .. math::

        \lambda_t \frac{1}{\sum_{i \in F_t} w_i} \sum_{i \in F_t} w_i\, \ell_F(\Delta_{D,i} + \Delta_{F,i})
        + \alpha_F \|\theta_F\|^2 ,

    where :math:`F_t` are the failures of round t and :math:`\ell_F` is the loss with the stricter ``margin_fail`` or
    ``temperature_fail`` (theory, eq. 4). With ``failure_weight=0``, ``pointwise_weight=0`` and
    ``recurrence_correlation=0`` it is the standard learner. `paper` has the settings of the paper. If outputs are
    labeled, ``failures="confirmed", failure_weight=1, pointwise_weight=3`` learns more.

    Parameters
    ----------
    objective : {"max_entropy", "max_margin"}, default="max_entropy"
        Loss of a margin.
    margin, margin_fail : float > 0, default=1.0, None
        Required margins M of all pairs and of failures, read by max-margin. None: twice ``margin``. M_fail matters for
        failures whose margin exceeds M only: with labels, or thresholds above M.
    temperature, temperature_fail : float > 0, default=1.0, None
        Temperatures tau of all pairs and of failures, read by max-entropy (and ``temperature`` by `predict_proba`).
        None: half of ``temperature``.
    failure_threshold : float, schedule or None, default=None
        gamma_t, the margin up to which a pair fails. None: rising linearly from 0 to ``margin`` or ``temperature``.
    failure_weight : float, schedule or None, default=None
        lambda_t, what failures count beside all pairs. None: ``ExponentialSchedule(10, 5)``. 0: no failures.
    failure_rate : float, schedule or None, default=None
        p_t. In joint training a round draws failures of at most this share of the pairs. In two stages all failures
        count as long as it is above 0. None: falling linearly from 0.2 to 0.
    failures : {"near_ties", "margin", "labels", "confirmed", "implicit"} or detector, default="near_ties"
        Which pairs fail: margins near 0; margins at or below the threshold (the paper's); outputs on the wrong side of
        0 for their label; margin failures that labels or implicit rewards confirm; or an object of `fairl_sk.failures`.
    alpha_fail : float >= 0 or None, default=None
        L2 strength of the failure path. Larger: smaller corrections. None: ``alpha``.
    pointwise_weight : float >= 0 or "auto", default="auto"
        Weight of the pointwise loss, which asks preferred outputs to exceed a threshold, others not (labels, where a
        detector reads them). "auto": estimated from the pairs; 0 unless chosen and rejected texts differ in style.
    recurrence_correlation : float in [0, 1], default=0.03
        Intra-cluster correlation of pairs that share an output (a design effect). 0 treats pairs as independent.
    training : {"two_stage", "joint"}, default="two_stage"
        "two_stage": solve the base path, then train the failure path; nothing is random. "joint": both by Adam, with
        sampled failures (algorithm 1 of the paper). Hidden layers are always trained jointly.
    failure_gradient : {"failure", "both"}, default="failure"
        Heads that the failures' gradient moves. "both" needs joint training.
    {shared}
    pointwise_weight_ : float
        The pointwise weight that was used; 0 where ``X`` holds single outputs.

    See Also
    --------
    MaxMarginIRL, MaxEntropyIRL : The standard learners.
    FailureAwareIRLCV : Chooses the parameters by cross-validation.

    Notes
    -----
    A schedule is a number, an object such as ``ExponentialSchedule``, whose parameters ``GridSearchCV`` reaches as
    ``failure_weight__decay``, or a callable of progress in [0, 1].

    References
    ----------
    .. [1] Patel et al. Learning from failures: understanding LLM alignment through failure-aware inverse RL.
       arXiv 2510.06092, section 4 and algorithm 1.

    Examples
    --------
    >>> from fairl_sk import FailureAwareIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, noise=0.1, random_state=0)
    >>> reward = FailureAwareIRL().fit(data.data, data.target)
    >>> len(reward.history_)
    50
    """

    _parameter_constraints = {
        **PreferenceIRL._parameter_constraints,
        "objective": [StrOptions({"max_margin", "max_entropy"})],
        "margin": [POSITIVE],
        "margin_fail": [POSITIVE, None],
        "temperature_fail": [POSITIVE, None],
        "failure_threshold": [Real, callable, None],
        "failure_weight": [NON_NEGATIVE, callable, None],
        "failure_rate": [NON_NEGATIVE, callable, None],
        "failures": [str, HasMethods("detect")],
        "alpha_fail": [NON_NEGATIVE, None],
        "pointwise_weight": [StrOptions({"auto"}), NON_NEGATIVE],
        "recurrence_correlation": [Interval(Real, 0, 1, closed="both")],
        "training": [StrOptions({"two_stage", "joint"})],
        "failure_gradient": [StrOptions({"failure", "both"})],
    }

    def __init__(
        self,
        objective="max_entropy",
        *,
        margin=1.0,
        margin_fail=None,
        temperature=1.0,
        temperature_fail=None,
        failure_threshold=None,
        failure_weight=None,
        failure_rate=None,
        failures="near_ties",
        alpha_fail=None,
        pointwise_weight="auto",
        recurrence_correlation=0.03,
        training="two_stage",
        failure_gradient="failure",
        alpha=1e-3,
        hidden_layer_sizes=(),
        n_rounds=50,
        learning_rate="auto",
        batch_size="auto",
        max_iter=1000,
        tol=1e-5,
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self._keep_parameters(locals())

    @classmethod
    def paper(cls, **changes):
        """The estimator with the settings of the paper's algorithm 1.

        The paper leaves ``margin_fail``, ``temperature_fail``, the decay of ``failure_weight`` and the L2 strengths
        open (theory, "Where this differs from the paper").

        Parameters
        ----------
        **changes : dict
            Parameters to set otherwise.

        Returns
        -------
        estimator : FailureAwareIRL

        Examples
        --------
        >>> from fairl_sk import FailureAwareIRL
        >>> FailureAwareIRL.paper(random_state=0).training
        'joint'
        """
        settings = {
            "objective": "max_margin",
            "failure_threshold": LinearSchedule(0.0, 1.0),
            "failure_weight": ExponentialSchedule(10.0, 5.0),
            "failure_rate": LinearSchedule(0.2, 0.0),
            "failures": "margin",
            "alpha_fail": 1e-3,
            "pointwise_weight": 0.0,
            "recurrence_correlation": 0.0,
            "training": "joint",
            "n_rounds": 100,
        }
        return cls(**{**settings, **changes})

    def set_params(self, **params):
        """Set parameters; those of a schedule or detector need the object to be there.

        Parameters
        ----------
        **params : dict
            Parameters by name, also nested: ``failure_weight__decay=2.0``.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For an unknown parameter, or a nested one of a parameter that is None, a number or a str.
        """
        for address in params:
            name, nested, _ = address.partition("__")
            value = params.get(name, getattr(self, name, None))
            if nested and name in _NESTED and not hasattr(value, "set_params"):
                raise ValueError(
                    f"Found {name}={value!r}, which has no parameters, hence no {address}. Expected an object that "
                    f"has: pass {name}={_NESTED[name]} first."
                )
        return super().set_params(**params)

    def fit(self, X, y=None, sample_weight=None, output_labels=None, implicit_rewards=None):
        """Learn the reward. See `MaxMarginIRL.fit` for the errors and warnings that all learners share.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None
        output_labels : array-like of shape (n_pairs, 2), default=None
            Labels y(o) of the outputs, in the order of ``X``: 1 = desirable, 0 = not. Read by detectors that ask for
            labels, ignored by others.
        implicit_rewards : array-like of shape (n_pairs, 2), default=None
            Rewards of the outputs by `fairl_sk.rewards.ImplicitReward`, in the order of ``X``, in place of labels: the
            larger one of a pair counts as desirable, the other one as not.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Also if failures do not get the stricter constraint, a schedule gives a value out of its range, or labels
            are needed and missing.

        Warns
        -----
        UserWarning
            Also if ``margin_fail`` or ``temperature_fail`` is set and the objective does not read it.
        """
        return self._fit(X, y, sample_weight, labels_of_pairs(output_labels, implicit_rewards))

    def _learn(self, X, y, sample_weight, output_labels):
        self._warn_of_unread()
        super()._learn(X, y, sample_weight, output_labels)

    def _keep(self, problem, settings, heads, rewards=None):
        super()._keep(problem, settings, heads, rewards)
        self.pointwise_weight_ = float(settings.pointwise_weight)

    def _is_joint(self):
        return super()._is_joint() or self.training == "joint"

    def _check_params(self):
        super()._check_params()
        self._schedule()
        if self.failure_gradient == "both" and not self._is_joint():
            raise ValueError('failure_gradient="both" moves both heads. Expected training="joint" with it.')

    def _schedule(self):
        """The curriculum: a detector, and the schedules' values in every round."""
        required = self.margin if self.objective == "max_margin" else self.temperature
        threshold = LinearSchedule(0.0, required) if self.failure_threshold is None else self.failure_threshold
        weight = ExponentialSchedule() if self.failure_weight is None else self.failure_weight
        rate = LinearSchedule(0.2, 0.0) if self.failure_rate is None else self.failure_rate
        return Schedule(
            make_detector(self.failures),
            schedule_values(threshold, self.n_rounds, name="failure_threshold"),
            schedule_values(weight, self.n_rounds, name="failure_weight", minimum=0),
            schedule_values(rate, self.n_rounds, name="failure_rate", minimum=0, maximum=1),
        )

    def _settings(self):
        required, required_fail = self._required()
        return Settings(
            objective=self.objective,
            required=required,
            required_fail=required_fail,
            alpha=self.alpha,
            alpha_fail=self.alpha if self.alpha_fail is None else self.alpha_fail,
            schedule=self._schedule(),
            pointwise_weight=self.pointwise_weight,
            recurrence_correlation=self.recurrence_correlation,
            failure_gradient=self.failure_gradient,
            learning_rate=self.learning_rate,
            tol=self.tol,
            max_iter=self.max_iter,
        )

    def _required(self):
        """The constraints of all pairs and of failures, which have to be stricter."""
        if self.objective == "max_margin":
            fail = 2 * self.margin if self.margin_fail is None else self.margin_fail
            if fail <= self.margin:
                raise ValueError(
                    f"Found margin_fail={fail} and margin={self.margin}. Expected margin_fail > margin, e.g. "
                    f"margin_fail={2 * self.margin:g}: failures get the stricter constraint."
                )
            return self.margin, fail
        fail = self.temperature / 2 if self.temperature_fail is None else self.temperature_fail
        if fail >= self.temperature:
            raise ValueError(
                f"Found temperature_fail={fail} and temperature={self.temperature}. Expected temperature_fail < "
                f"temperature, e.g. temperature_fail={self.temperature / 2:g}: failures get the stricter constraint."
            )
        return self.temperature, fail

    def _warn_of_unread(self):
        """Warn of a constraint of failures that the objective does not read: a grid over it searches nothing."""
        for name, objective in (("margin_fail", "max_margin"), ("temperature_fail", "max_entropy")):
            if getattr(self, name) is not None and self.objective != objective:
                warn_user(
                    f"{name}={getattr(self, name)!r} makes no difference: only objective={objective!r} reads it, and "
                    f"the objective is {self.objective!r}."
                )


# What to write where a nested parameter is asked for.
_NESTED = {
    "failure_threshold": "LinearSchedule(0, 1)",
    "failure_weight": "ExponentialSchedule()",
    "failure_rate": "LinearSchedule(0.2, 0)",
    "failures": "<an object of your detector's class>",
}
