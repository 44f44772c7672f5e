"""Base class of `ImplicitReward` and `OwnStates`: parameters, tokens, and the models' values for them."""

from numbers import Integral
from pathlib import Path

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions  # the parameters' declared constraints

from ..device import torch_device
from ..features.loading import DTYPES
from .models import common_tokenizer
from .scoring import Settings
from .tokens import tokenize_outputs


class LanguageModelTransformer(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore  # no set_output, as its tables cannot hold pairs
):
    """A transformer of texts that language models score."""

    _parameter_constraints = {
        "aligned": "no_validation",
        "prompt_column": [str, None],
        "end_token": ["boolean"],
        "dtype": [StrOptions(set(DTYPES))],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "store": [str, Path, None],
        "verbose": ["verbose"],
    }

    def _read(self, X, models, prompt_column):
        """The outputs of the rows as tokens, and how models score them."""
        tokenizer = common_tokenizer(models, self.tokenizer)
        n_vocabulary = min(model.config.vocab_size for model in models)  # a larger one of one tokenizer is padded
        outputs = tokenize_outputs(X, tokenizer, prompt_column=prompt_column, end_token=self.end_token)
        return outputs, Settings(n_vocabulary, self.batch_size, self.store, self.verbose), tokenizer

    def _check_parameters(self):
        self._validate_params()
        torch_device(self.device)

    def __sklearn_clone__(self):
        """A clone shares loaded models: scikit-learn would copy them."""
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False  # numbers are refused, as by scikit-learn's text vectorizers
        tags.requires_fit = False
        return tags

    def __sklearn_is_fitted__(self):
        return True
