"""`ImplicitReward`: the log-ratio of the probabilities of an aligned model and its base model, as a reward."""

from numbers import Real

import numpy as np
from scipy.stats import sem
from sklearn.exceptions import NotFittedError
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions  # the parameters' declared constraints

from ..messages import TextTable, to_text
from ..pairs import preference_sign
from ..warn import warn_user
from .base import LanguageModelTransformer
from .models import aligned_models, base_model
from .nulls import ExactModel, NoisyModel
from .scoring import score, token_log_probs

__all__ = ["ImplicitReward"]


class ImplicitReward(LanguageModelTransformer):
    r"""Implicit reward of an output: the log-ratio of its probabilities by an aligned model and by its base model.

    .. math:: R(o) = \beta \, (\log \pi_{\text{aligned}}(o \mid x) - \log \pi_{\text{base}}(o \mid x))

    The model that maximizes a reward under a KL penalty of weight :math:`\beta` is the base model reweighted by
    :math:`e^{R / \beta}` [1]_. So R is this reward, up to a constant for each prompt x. Before the optimum it also
    contains side effects of training (user guide, Implicit rewards). With one aligned model `fit` learns nothing.

    Parameters
    ----------
    aligned : str, path-like, model, or list of them
        Folder or hub id of a causal language model or of a PEFT adapter, or a loaded model, after alignment. Several:
        the rewards by each are divided by their standard deviation in `fit`, and averaged.
    base : str, path-like or model, default=None
        The model before alignment. None: the weights below the PEFT adapter `aligned`, with the adapter switched off.
    beta : float, default=1.0
        Weight of the KL penalty. With several models it cancels.
    reduction : {"sum", "mean"}, default="sum"
        Over the tokens of an output. With "mean", long outputs do not outweigh short ones.
    tokenizer : tokenizer, str or path-like, default=None
        None: the one in the folders of the models, as in `fairl_sk.generate.generate_preference_pairs`.
    prompt_column : str or None, default="prompt"
        A table's column of prompts, if it has one. None: outputs are scored without prompts.
    end_token : bool, default=True
        Whether the end-of-sequence token of a text counts, as in TRL. False for outputs that were cut off.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of a model that is loaded here. The logarithm of the softmax is always taken in float32.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where a model runs that is loaded here.
    batch_size : int or None, default=None
        The most texts in a batch. None: as many as memory and speed suggest; halved where memory ends.
    store : str, path-like or None, default=None
        Folder of the store (`fairl_sk.features.EmbeddingStore`), with which no model scores a text twice. None: nothing
        is kept between calls.
    verbose : bool or int, default=False
        Show a progress bar for each model.

    Attributes
    ----------
    scale_ : ndarray of shape (n_models,)
        With several aligned models: the standard deviation of the rewards by each over the outputs of `fit`.

    Notes
    -----
    A text is appended to its prompt unchanged; messages go through the chat template. Without a prompt, the output
    follows the beginning-of-sequence token, or else the end-of-sequence token. An output begins where its tokens differ
    from those of the prompt alone, as in TRL. Models with vocabularies of two sizes are compared on the smaller one.

    It is callable: a reference reward like the others of `fairl_sk.rewards`, and a reward function for TRL.

    References
    ----------
    .. [1] R. Rafailov et al. Direct Preference Optimization: Your Language Model Is Secretly a Reward Model. NeurIPS
       2023, eq. 5.

    Examples
    --------
    >>> from fairl_sk.rewards import ImplicitReward
    >>> reward = ImplicitReward("folder/of/the/aligned/model", "folder/of/the/base/model")
    >>> reward.beta  # nothing is loaded yet
    1.0
    """

    _parameter_constraints = {
        **LanguageModelTransformer._parameter_constraints,
        "base": "no_validation",
        "beta": [Interval(Real, 0, None, closed="neither")],
        "reduction": [StrOptions({"sum", "mean"})],
    }
    __name__ = "ImplicitReward"  # TRL asks for it

    def __init__(
        self,
        aligned,
        base=None,
        *,
        beta=1.0,
        reduction="sum",
        tokenizer=None,
        prompt_column="prompt",
        end_token=True,
        dtype="float32",
        device="cpu",
        batch_size=None,
        store=None,
        verbose=False,
    ):
        self.aligned = aligned
        self.base = base
        self.beta = beta
        self.reduction = reduction
        self.tokenizer = tokenizer
        self.prompt_column = prompt_column
        self.end_token = end_token
        self.dtype = dtype
        self.device = device
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def fit(self, X=None, y=None):
        """Check parameters and models; with several aligned models, find the scale of each.

        Parameters
        ----------
        X : array-like or table, default=None
            See `decision_function`. Read only with several aligned models.
        y : ignored

        Returns
        -------
        self : ImplicitReward

        Raises
        ------
        ValueError, OSError
            See `decision_function`.
        """
        models = self._models()
        if len(models.aligned) > 1:
            if X is None:
                raise ValueError(f"Found X=None and {len(models.aligned)} aligned models. Expected outputs or pairs.")
            scale = np.array([np.std(values) for values in self.model_rewards(X)])
            if not (scale > 0).all():
                found = f"Aligned model {np.argmin(scale)} gives each of these outputs the same reward"
                raise ValueError(f"{found}. Expected models that differ from their base, and several outputs.")
            self.scale_ = scale
        return self

    def decision_function(self, X):
        """Rewards of outputs, or margins of pairs.

        Parameters
        ----------
        X : array-like of str of shape (n_samples,) or (n_pairs, 2), or table
            Texts, pairs of texts, or a table with columns ``chosen`` and ``rejected``, or ``completion`` (and a column
            of prompts), whose cells are texts or lists of messages.

        Returns
        -------
        rewards : ndarray of shape (n_samples,)
            R(o), or R(first) - R(second) of pairs.

        Raises
        ------
        ValueError
            For models of two tokenizers, or that are no causal language models; for an empty output, one that a model
            gives the probability 0, or texts that are longer than a model reads.
        OSError
            If a model or tokenizer cannot be loaded, or they do not belong together; for a damaged store.
        NotFittedError
            With several aligned models, before `fit`.
        MemoryError
            If a single text does not fit into memory.

        Warns
        -----
        UserWarning
            If an aligned model gives all outputs the same probability as its base.
        """
        rewards = self.output_rewards(X)
        return rewards[:, 0] - rewards[:, 1] if rewards.ndim == 2 else rewards

    def output_rewards(self, X):
        """Rewards of outputs; of pairs, of both outputs.

        Parameters
        ----------
        X : array-like or table
            See `decision_function`, also for errors and warnings.

        Returns
        -------
        rewards : ndarray of shape (n_samples,) or (n_pairs, 2)
        """
        return self._output_rewards(X, self.prompt_column)

    def model_rewards(self, X):
        """Rewards by each aligned model, not scaled.

        Parameters
        ----------
        X : array-like or table
            See `decision_function`, also for errors and warnings.

        Returns
        -------
        rewards : ndarray of shape (n_models, n_samples) or (n_models, n_pairs, 2)
        """
        return self._model_rewards(X, self._models(), self.prompt_column)

    def transform(self, X):
        """Rewards as a feature.

        Parameters
        ----------
        X : array-like or table
            See `decision_function`, also for errors and warnings.

        Returns
        -------
        rewards : ndarray of shape (n_samples, 1) or (n_pairs, 2, 1)
        """
        return self.output_rewards(X)[..., None]

    def token_rewards(self, X):
        """Shares of an output's tokens in its reward. The models run: the store keeps no single tokens.

        Parameters
        ----------
        X : array-like or table
            See `decision_function`, also for errors. Of pairs, row 2i is the first output of pair i, 2i + 1 the second.

        Returns
        -------
        shares : list of length n_outputs, of lists of (str, float)
            Tokens in their order with their shares, which sum to the output's reward.
        """
        models = self._models()
        weights = self._weights(models)
        outputs, settings, tokenizer = self._read(X, models.all, self.prompt_column)
        shares = self._token_shares(models.base, models.aligned, outputs, settings)
        found = []
        for ids, start, share in zip(outputs.ids, outputs.starts, shares, strict=True):
            tokens = [tokenizer.decode([token]) for token in ids[start:]]
            found.append(list(zip(tokens, (weights @ share).tolist(), strict=True)))
        return [found[index] for index in outputs.inverse]

    def null_token_rewards(self, X, n_draws=5, random_state=0):
        """Shares of an output's tokens in its null rewards. See `null`, also for parameters and errors.

        Returns
        -------
        shares : list of length n_outputs, of ndarray of shape (n_draws, n_models, n_tokens)
            The shares of an output sum to its null rewards. Outputs and tokens are those of `token_rewards`.
        """
        models = self._models()
        outputs, settings, _ = self._read(X, models.all, self.prompt_column)
        noisy = _noisy_models(models, n_draws, random_state)
        shares = self._token_shares(models.base, [model for draw in noisy for model in draw], outputs, settings)
        shares = [share.reshape(n_draws, -1, share.shape[-1]) for share in shares]
        return [shares[index] for index in outputs.inverse]

    def _token_shares(self, base, models, outputs, settings):
        """Shares (n_models, n_tokens) of the tokens of each distinct output in the rewards by models."""
        below = token_log_probs(base, outputs, settings)
        shares = [np.zeros((len(models), len(values))) for values in below]
        for number, model in enumerate(models):
            for share, one, other in zip(shares, token_log_probs(model, outputs, settings), below, strict=True):
                share[number] = self.beta * (one - other) / (len(one) if self.reduction == "mean" else 1)
        return shares

    def null(self, X, n_draws=5, random_state=0):
        """Null rewards: the base model with noise on its weights, against the base model.

        To each tensor of the base model, normal noise is added whose root mean square is that of the aligned model's
        change of this tensor. The spread of a reward is its standard deviation over outputs.

        Parameters
        ----------
        X : array-like or table
            See `decision_function`, also for errors.
        n_draws : int, default=5
            Draws of the noise. The base model is copied for each, and all outputs are scored again.
        random_state : int, default=0
            Seed of the noise.

        Returns
        -------
        Bunch
            ``spread``, ndarray of shape (n_models,); ``null_spread``, ndarray of shape (n_draws, n_models); and
            ``null_rewards``, ndarray of shape (n_draws, n_models, n_samples) or (n_draws, n_models, n_pairs, 2).

        Raises
        ------
        ValueError
            Also for quantized models, and for models whose weights have other names or shapes.
        """
        models = self._models()
        spread = [np.std(values) for values in self.model_rewards(X)]
        outputs, settings, _ = self._read(X, models.all, self.prompt_column)
        base = score(models.base, outputs, settings)
        rewards = []
        for moved in _noisy_models(models, n_draws, random_state):
            rewards.append([outputs.shape(self._rewards(score(each, outputs, settings), base)) for each in moved])
        rewards = np.array(rewards)
        null_spread = rewards.reshape(*rewards.shape[:2], -1).std(axis=2)
        return Bunch(spread=np.array(spread), null_spread=null_spread, null_rewards=rewards)

    def noise_floor(self, X):
        """Spread that rounding alone causes: of the base model in its precision against itself in float32.

        Parameters
        ----------
        X : array-like or table
            See `decision_function`, also for errors.

        Returns
        -------
        spread : float
            Standard deviation over outputs, in units of the reward by one model. 0 in float32.
        """
        models = self._models()
        outputs, settings, _ = self._read(X, models.all, self.prompt_column)
        one, other = (score(each, outputs, settings) for each in (models.base, ExactModel(models.base)))
        return float(np.std(outputs.shape(self._rewards(one, other))))

    def kl(self, X, y=None):
        """Estimate how far the models are from each other, from pairs of their own outputs.

        Both should be positive. A clearly negative one shows that base and aligned are swapped, or that the outputs are
        not theirs.

        Parameters
        ----------
        X : array-like or table of pairs
            Outputs of the aligned model (chosen) and of the base model, such as `generate_preference_pairs` makes.
        y : array-like of shape (n_pairs,), default=None
            ``pairs.target``: the larger class where the first output is the aligned model's. None: it always is.

        Returns
        -------
        Bunch
            Ndarrays of shape (n_models,), in nats an output: ``aligned``, KL(aligned || base), the mean log-ratio of
            the aligned model's outputs; ``base``, KL(base || aligned), minus that of the base model's; and their
            standard errors ``aligned_error``, ``base_error``.

        Raises
        ------
        ValueError
            Also if the rows are not pairs.
        """
        models = self._models()
        outputs, settings, _ = self._read(X, models.all, self.prompt_column)
        if not outputs.paired:
            raise ValueError(
                "Found single outputs. Expected pairs: of the aligned model's outputs and the base model's."
            )
        base = score(models.base, outputs, settings)
        ratios = [score(aligned, outputs, settings).log_probs - base.log_probs for aligned in models.aligned]
        ratios = np.stack([outputs.shape(values) for values in ratios])
        ratios = np.where(preference_sign(y, ratios.shape[1])[:, None] > 0, ratios, ratios[:, :, ::-1])
        mean, error = ratios.mean(axis=1), sem(ratios, axis=1)
        return Bunch(aligned=mean[:, 0], base=-mean[:, 1], aligned_error=error[:, 0], base_error=error[:, 1])

    def _models(self):
        """Check the parameters; the base model and the aligned ones, not loaded yet."""
        self._check_parameters()
        aligned = aligned_models(self.aligned, self.dtype, self.device)
        base = base_model(aligned, self.base, self.dtype, self.device)
        return Bunch(base=base, aligned=aligned, all=[base, *aligned])

    def _weights(self, models):
        """What the rewards by the models are multiplied by before they are added."""
        n_models = len(models.aligned)
        if n_models == 1:
            return np.ones(1)
        if not hasattr(self, "scale_"):
            found = f"Found {n_models} aligned models before fit"
            raise NotFittedError(f"{found}. Call fit(X) with outputs or pairs first: it finds the scale of each.")
        return 1 / (n_models * self.scale_)

    def _output_rewards(self, X, prompt_column):
        models = self._models()
        weights = self._weights(models)
        return np.tensordot(weights, self._model_rewards(X, models, prompt_column), 1)

    def _model_rewards(self, X, models, prompt_column):
        outputs, settings, _ = self._read(X, models.all, prompt_column)
        base = score(models.base, outputs, settings)
        found = [self._rewards(score(aligned, outputs, settings), base) for aligned in models.aligned]
        for number, values in enumerate(found):
            if not values.any():
                which = f"Aligned model {number}" if len(found) > 1 else "The aligned model"
                warn_user(
                    f"{which} gives every output the same probability as the base model: nothing was learned, or both "
                    "are the same model. (Training changes the loaded model that PEFT or TRL wraps: give the base's "
                    "folder.)"
                )
        return np.stack([outputs.shape(values) for values in found])

    def _rewards(self, values, base):
        """Rewards of distinct outputs by one model."""
        rewards = self.beta * (values.log_probs - base.log_probs)
        return rewards / values.n_tokens if self.reduction == "mean" else rewards

    def __call__(self, X=None, *, prompts=None, completions=None, **_):
        """Rewards of outputs, for a scorer or audit (``reward(texts)``) and for TRL (``prompts=``, ``completions=``).

        Parameters
        ----------
        X : array-like or table, default=None
            See `decision_function`, also for errors.
        prompts, completions : list of str or of lists of messages, default=None
            What TRL passes in place of X.
        **_ : dict
            What else TRL passes, ignored.

        Returns
        -------
        rewards : ndarray of shape (n_samples,) or (n_pairs, 2); for TRL a list of float or None
            None, by which TRL leaves a completion out, for an empty one.
        """
        if completions is None:
            return self.output_rewards(X)
        prompts = [None] * len(completions) if prompts is None else prompts
        rows = list(zip(prompts, completions, strict=True))
        kept = [row for row, (_, completion) in enumerate(rows) if to_text(completion).strip()]
        rewards: list = [None] * len(rows)
        if kept:
            values = self._output_rewards(TextTable.of([rows[row] for row in kept]), "prompt")
            for row, value in zip(kept, values.tolist(), strict=True):
                rewards[row] = value
        return rewards

    def describe(self):
        """Describe what the rewards depend on, for the record of a figure.

        Returns
        -------
        dict
            Ready for JSON: the models with their checksums, and the settings.
        """
        models = self._models()
        named = {"aligned": models.aligned, "base": [models.base]}
        about = {
            role: [{"model": each.name, "checksum": each.identity(), "dtype": each.dtype} for each in some]
            for role, some in named.items()
        }
        settings = {name: getattr(self, name) for name in ("beta", "reduction", "prompt_column", "end_token")}
        return {"reward": type(self).__name__, **about, **settings}


def _noisy_models(models, n_draws, random_state):
    """By draw, a base model with noise for each aligned model."""
    seeds = [(random_state, draw) for draw in range(n_draws)]
    return [[NoisyModel(models.base, aligned, seed) for aligned in models.aligned] for seed in seeds]
