"""Rewards by the names that the command line takes: saved pipelines, classifiers, reward models, own functions."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

from .. import rewards
from ..export.folder import folder_function
from ..features.classifiers import load_classifier
from ..features.loading import find_model
from ..messages import join_prompt
from .report import load_pipeline


def reward_kind(name):
    """What a name means: "saved" (an estimator), "detoxify", or "classifier" (of Hugging Face)."""
    if name.endswith(".skops"):
        return "saved"
    return "detoxify" if name.endswith(".ckpt") or name.partition(":")[0] == "detoxify" else "classifier"


def load_reward(
    name, label=None, desirable=True, *, how_to_label, output="logit", config_folder=None, device="cpu", verbose=False
):
    """Load a reward by the log-odds of a label.

    Parameters
    ----------
    name : str
        A file .skops, ``detoxify`` or ``detoxify:VARIANT``, a checkpoint of Detoxify (.ckpt), or a classifier.
    label, desirable, output, config_folder, device, verbose
        See `fairl_sk.rewards`.
    how_to_label : str
        For the message about a missing label: how to give one.

    Returns
    -------
    reward : callable
        Texts (n,) -> rewards (n,).

    Raises
    ------
    FileNotFoundError, ValueError
        See `load_pipeline`; also if a saved estimator needs a label.
    """
    kind = reward_kind(name)
    if kind == "saved":
        pipeline = load_pipeline(name)
        classes = getattr(pipeline, "classes_", ())
        if label is None and (len(classes) > 2 or any(isinstance(known, str) for known in classes)):
            raise ValueError(
                f"{name} has the classes {', '.join(repr(str(known)) for known in classes)}. Expected "
                f"{how_to_label} with one of them, to say which is desirable."
            )
        return rewards.EstimatorReward(pipeline, column=label, desirable=desirable, output=output)
    settings = {"output": output, "device": device, "verbose": verbose}
    if kind == "classifier":
        return rewards.ClassifierReward(name, label, desirable=desirable, **settings)
    settings["config_folder"] = config_folder
    if name.endswith(".ckpt"):
        return rewards.DetoxifyReward(checkpoint=name, **settings)
    return rewards.DetoxifyReward(name.partition(":")[2] or "original", **settings)


def load_compared(model, *, device="cpu", verbose=False):
    """Load a reward that is compared with the recovered one.

    Parameters
    ----------
    model : str
        What `load_reward` takes, a label behind a colon (``:toxic`` if it is desirable, ``:-toxic`` if it is not); a
        Hugging Face reward model (one logit); or ``module:name``, a function or estimator in a module of the current
        folder.
    device, verbose
        Where a model runs, and whether it shows progress.

    Returns
    -------
    reward : callable or estimator
        See `fairl_sk.audit.compare.score_outputs`.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        If there is no such file, folder, module or name, or a label is missing.
    """
    settings = {"device": device, "verbose": verbose}
    if reward_kind(model) == "detoxify" or Path(model).exists():
        name, label = model, ""
    else:
        name, _, label = model.rpartition(":") if ":" in model else (model, "", "")
        if label and (found := _imported(name, label)) is not None:
            return found
    if name.endswith(".skops") and not label and not hasattr(saved := load_pipeline(name), "classes_"):
        return saved  # a regression
    if label or reward_kind(name) != "classifier":
        settings["how_to_label"] = f"{name}:LABEL (desirable) or {name}:-LABEL (undesirable)"
        return load_reward(name, label.removeprefix("-") or None, not label.startswith("-"), **settings)
    config = Path(name, "config.json")
    if config.is_file() and "fairl_sk" in json.loads(config.read_text(encoding="utf-8")):
        return folder_function(name)
    return RewardModel(name, **settings)


def _imported(module, name):
    """An object of a module in the current folder or of an installed one; None if there is no such module.

    What is imported is said on stderr.
    """
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        return None
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            return None
        found = importlib.import_module(module)
    finally:
        sys.path.remove(folder)
    print(f"fairl-sk: imported {module} from {found.__file__}", file=sys.stderr)
    if not hasattr(found, name):
        raise ImportError(f"{module} ({found.__file__}) has no {name!r}. Name a function or an estimator in it.")
    return getattr(found, name)


class RewardModel:
    """A Hugging Face sequence classifier with one logit, which is the reward of a prompt with its completion.

    Both go through the model's chat template, if it has one; else the completion follows the prompt.

    Parameters
    ----------
    model : str
        A folder, or a name in the Hugging Face hub or its cache.
    device, verbose
        See `fairl_sk.rewards.ClassifierReward`.

    Raises
    ------
    OSError, ValueError
        If there is no such model, or it has several logits.
    """

    def __init__(self, model, *, device="cpu", verbose=False):
        classifier = load_classifier(*find_model(model)[:3], device)
        if len(classifier.labels) > 1:
            raise ValueError(
                f"{model} has the labels {', '.join(classifier.labels)}. Expected one of them behind the model: "
                f"{model}:LABEL if it is desirable, {model}:-LABEL if it is not."
            )
        self._tokenizer = classifier.tokenizer
        self._reward = rewards.ClassifierReward(model, None, desirable=True, device=device, verbose=verbose)

    def __call__(self, prompts, completions):
        """Rewards (n_outputs,) of completions, each behind its prompt (a text, "" for none)."""
        texts = [self._joined(*row) for row in zip(prompts, completions, strict=True)]
        return self._reward(np.array(texts, dtype=object))

    def describe(self):
        """Describe what the rewards depend on. See `fairl_sk.rewards.ClassifierReward.describe`."""
        return self._reward.describe() | {"chat_template": bool(self._tokenizer.chat_template)}

    def _joined(self, prompt, completion):
        if not self._tokenizer.chat_template:
            return join_prompt(prompt, completion)
        messages = [{"role": "user", "content": prompt}] if prompt else []
        messages.append({"role": "assistant", "content": completion})
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # whatever a template raises
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(f"The model's chat template refuses messages with the roles {roles} ({error}).") from error
        begin = self._tokenizer.bos_token
        if begin and text.startswith(begin) and self._tokenizer("")["input_ids"][:1] == [self._tokenizer.bos_token_id]:
            return text.removeprefix(begin)  # the tokenizer puts it there again
        return text
