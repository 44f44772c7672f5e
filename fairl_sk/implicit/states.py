"""`OwnStates`: an aligned model's own hidden states as features of outputs, for users without an encoder."""

from numbers import Integral

import numpy as np

from .base import LanguageModelTransformer
from .models import aligned_models
from .scoring import score

__all__ = ["OwnStates"]


class OwnStates(LanguageModelTransformer):
    """Features of outputs: an aligned language model's hidden states, averaged over the tokens of the output.

    Prompts are read, but their tokens are not averaged. With a store, the same pass keeps the log-probabilities of the
    outputs: `fairl_sk.rewards.ImplicitReward` with that store then runs the base model only.

    Parameters
    ----------
    aligned : str, path-like, model, or list of them
        See `ImplicitReward`. The states of several models are concatenated.
    layers : sequence of int, default=(-1,)
        Layers whose states are averaged: 0 is the embedding of tokens, i the i-th block, -1 the last one. Choose one by
        cross-validation over pairs; with a store, first transform with all of them, in one pass.
    tokenizer, prompt_column, end_token, dtype, device, batch_size, store, verbose
        See `ImplicitReward`.

    Examples
    --------
    >>> from fairl_sk.implicit import OwnStates
    >>> OwnStates("folder/of/the/aligned/model", layers=[2]).layers  # nothing is loaded yet
    [2]
    """

    _parameter_constraints = {**LanguageModelTransformer._parameter_constraints, "layers": ["array-like"]}

    def __init__(
        self,
        aligned,
        *,
        layers=(-1,),
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
        self.layers = layers
        self.tokenizer = tokenizer
        self.prompt_column = prompt_column
        self.end_token = end_token
        self.dtype = dtype
        self.device = device
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def fit(self, X=None, y=None):
        """Check the parameters; nothing is learned.

        Parameters
        ----------
        X, y : ignored

        Returns
        -------
        self : OwnStates

        Raises
        ------
        ValueError, OSError
            If a parameter is wrong, or a model has no such layer or cannot be found.
        """
        self._models()
        return self

    def _models(self):
        self._check_parameters()
        models = aligned_models(self.aligned, self.dtype, self.device)
        for model in models:
            n_layers = model.config.num_hidden_layers
            wrong = [layer for layer in self.layers if not isinstance(layer, Integral) or abs(layer) > n_layers]
            if wrong or not len(self.layers):
                expected = f"Expected whole numbers from {-n_layers} to {n_layers}: the {model.called} has {n_layers}"
                raise ValueError(f"Found layers={self.layers!r}. {expected}.")
        return models

    @property
    def _n_features_out(self):
        return sum(model.config.hidden_size * len(self.layers) for model in self._models())

    def transform(self, X):
        """Average states over the tokens of outputs.

        Parameters
        ----------
        X : array-like of str of shape (n_samples,) or (n_pairs, 2), or table
            See `ImplicitReward.decision_function`.

        Returns
        -------
        states : ndarray of shape (n_samples, n_features) or (n_pairs, 2, n_features), float32
            By model, then by layer.

        Raises
        ------
        ValueError, OSError, MemoryError
            See `ImplicitReward.decision_function`.
        """
        models = self._models()
        outputs, settings, _ = self._read(X, models, self.prompt_column)
        layers = [int(layer) for layer in self.layers]
        states = [score(model, outputs, settings, layers).states for model in models]
        return outputs.shape(np.concatenate([each.reshape(len(each), -1) for each in states], axis=1))
