"""Preference pairs from two language models: what the aligned one says is chosen, what the base one says rejected.

For whoever has no preference data yet, but the models: `generate_preference_pairs` asks both, `generate_completions`
one, and `pair_kinds` says how many pairs there are to learn from. Prompts of like length share a batch, padded on the
left under an attention mask; the pad id decides nothing.

What is said depends on the seed and on nothing else: not on the batch, the order or an interrupt. Token v of largest
``log p(v) + g(v)`` is a draw from p if the g(v) are independent standard Gumbel numbers [1]_; they come from a
counter-based generator of their own for each seed, model, prompt, repetition of the prompt and completion. One thing is
left: batches move logits by rounding, in float32 by some 1e-6, and with about that chance a token two that are as
good as equal change places, after which a completion goes on differently. Another device, or precision, does the same.

.. [1] C. J. Maddison, D. Tarlow and T. Minka. A* Sampling. NeurIPS 2014 (the Gumbel-max trick).
"""

import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import Bunch
from tqdm.auto import tqdm

from .datasets.readers import generation_settings, load_preferences, read_generated
from .device import torch_device
from .features.encoder import (
    _DTYPES,
    _LOADING,
    _NO_MEMORY,
    _VOCABULARIES,
    _WEIGHTS,
    _checksum,
    _load_tokenizer,
    _loading,
    _warn,
    count_positions,
)
from .pairs import preference_sign, read_texts, to_text
from .rewards import _import_extra, _weights_sha256

__all__ = ["PAIR_KINDS", "generate_completions", "generate_preference_pairs", "pair_kinds"]

PAIR_KINDS = ("T->NT", "NT->NT", "T->T", "NT->T")  # rejected -> chosen, T for toxic
_LEAST_PAIRS, _LEAST_SHARE = 100, 0.1  # of T->NT, below which `pair_kinds` warns
_MANY_IDENTICAL = 0.1  # share of pairs from which on identical completions are warned about
_CHUNK = 8  # batches of a model between two writes: what an interrupt loses at most
_N_COMPARED = 4  # prompts on which the two models are compared before they generate
_ASIDE = ("base", "aligned", "versions", "device")  # settings that may differ when a file is continued
_GENERATED_BY = "fairl_sk.generate.generate_preference_pairs"


# ------------------------------------------------------------------------------------------------- public


def generate_completions(
    model,
    prompts,
    *,
    tokenizer=None,
    n_completions=1,
    max_new_tokens=64,
    min_new_tokens=0,
    temperature=1.0,
    top_k=None,
    top_p=1.0,
    batch_tokens=None,
    dtype="float32",
    device="cpu",
    random_state=0,
    verbose=False,
):
    """Let a causal language model continue each prompt.

    Only what is said here decides how tokens are drawn; the model's own generation settings (a repetition penalty, for
    instance) do not. It ends a completion at any end token that the model or the tokenizer names.

    Parameters
    ----------
    model : str, path-like or model
        A folder with a Hugging Face causal language model or with a PEFT adapter, the id of either in the hub, or a
        loaded model, a `peft.PeftModel` for one.
    prompts : sequence of str, or of lists of dict, of length n_prompts
        Texts, taken as they are, or conversations (messages ``{"role": ..., "content": ...}``), which go through the
        tokenizer's chat template up to where the assistant begins. A prompt that occurs twice is answered twice.
    tokenizer : tokenizer, str or path-like, default=None
        None: the one that lies with the model; for a loaded model where its ``name_or_path`` says.
    n_completions : int, default=1
        Completions for each prompt.
    max_new_tokens : int, default=64
        Most tokens of a completion.
    min_new_tokens : int, default=0
        Tokens before which a completion does not end. The same as ``max_new_tokens``: all completions have the same
        length in tokens, so that no reward can be learned from the length.
    temperature : float, default=1.0
        What logits are divided by. 0: always the likeliest token.
    top_k : int or None, default=None
        Draw among so many likeliest tokens only. None: among all.
    top_p : float in (0, 1], default=1.0
        Draw among the fewest likeliest tokens that together have this probability.
    batch_tokens : int or None, default=None
        Tokens in a batch, padding and completions included. None: 8,192 on a CPU, 65,536 on a GPU. Halved where memory
        ends.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of a model that is loaded here; a loaded one stays as it is.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where a model runs that is loaded here; a loaded one stays where it is.
    random_state : int or None, default=0
        Seed; the same one gives the same texts whatever the batches. None: another one each time, returned in
        `settings`. The global random states of NumPy and PyTorch are neither used nor changed.
    verbose : bool, default=False
        Show a progress bar over the completions.

    Returns
    -------
    Bunch
        With the attributes

        - texts : ndarray of shape (n_prompts, n_completions) of str. Special tokens are left out, as TRL does; the
          space before a first word is kept where the tokenizer writes one
        - token_ids : ndarray of shape (n_prompts, n_completions) of list, the tokens of each text, without the end
          token
        - n_tokens : ndarray of shape (n_prompts, n_completions), their numbers
        - ended : ndarray of shape (n_prompts, n_completions) of bool, whether an end token came
        - settings : dict, how tokens were drawn, the seed included

    Raises
    ------
    ValueError
        For prompts that are empty, no texts, or too long for the model together with ``max_new_tokens``; for a
        parameter out of its range; for a model whose logits are not finite.
    OSError
        If model or tokenizer cannot be loaded, or do not belong together.
    ImportError
        Without transformers, or for an adapter without peft.
    MemoryError
        If a single prompt does not fit into memory.

    See Also
    --------
    generate_preference_pairs : Completions of two models, side by side.
    """
    sampling = _check_sampling(
        n_completions, max_new_tokens, min_new_tokens, temperature, top_k, top_p, random_state, batch_tokens, dtype
    )
    prompts = _check_prompts(prompts)
    source = _find_source(model, "", dtype)
    tokenizer = _find_tokenizer([source], tokenizer)
    prompts = _encode_prompts(prompts, tokenizer)
    speaker = _load_speaker(source, tokenizer, device, batch_tokens)
    _check_fit(speaker, prompts, sampling)
    rows = list(np.ndindex(len(prompts.texts), n_completions))
    with _bar(len(rows), 0, verbose) as bar:
        answers = _complete(speaker, prompts, rows, sampling, bar)
    token_ids = np.empty(len(answers), dtype=object)
    token_ids[:] = [answer.token_ids for answer in answers]
    columns = {
        "texts": np.array([answer.text for answer in answers], dtype=object),
        "token_ids": token_ids,
        "n_tokens": np.array([len(answer.token_ids) for answer in answers]),
        "ended": np.array([answer.ended for answer in answers]),
    }
    columns = {name: column.reshape(-1, n_completions) for name, column in columns.items()}
    return Bunch(**columns, settings=sampling._asdict())


def generate_preference_pairs(
    base,
    aligned,
    prompts,
    *,
    tokenizer=None,
    n_completions=1,
    max_new_tokens=64,
    min_new_tokens=0,
    temperature=1.0,
    top_k=None,
    top_p=1.0,
    drop_identical=False,
    batch_tokens=None,
    dtype="float32",
    device="cpu",
    path=None,
    reference=None,
    random_state=0,
    verbose=False,
):
    """Preference pairs of two models: what the aligned one says is chosen, what the base one says is rejected.

    The first step of the paper's algorithm [1]_. Both models answer each prompt, independently of each other. The
    outputs are kept apart from their prompts; `fairl_sk.pairs.join_prompts` puts them together as everything in this
    package does, with an empty line between where neither has white space there.

    Parameters
    ----------
    base, aligned : str, path-like or model
        The model before and after its alignment; see `generate_completions`. A PEFT model may be given beside the very
        model it wraps: that one then runs without the adapter.
    prompts : sequence of str, or of lists of dict, of length n_prompts
        See `generate_completions`. Conversations go through the chat template of the base model's tokenizer or, if it
        has none, of the aligned one's: both models read the same text.
    tokenizer : tokenizer, str or path-like, default=None
        For both models. None: see `generate_completions`; those that lie with the two models have to agree.
    n_completions, max_new_tokens, min_new_tokens, temperature, top_k, top_p
        See `generate_completions`.
    drop_identical : bool, default=False
        Leave out pairs whose outputs are the same text. No reward can be learned from them, as their margin is 0 under
        all of them.
    batch_tokens, dtype, device
        See `generate_completions`.
    path : str or path-like, default=None
        File (.jsonl) to write. If it is there, and was begun with the same settings and prompts, it is continued: a
        finished prompt is not asked again, and of a finished file no model is loaded. Each line is a pair in TRL's
        preference format, a conversational one for conversations, with its ``prompt_index`` and ``completion`` (which
        of the prompt's pairs it is); the first line has the ``settings`` as well. ``datasets.load_dataset("json",
        data_files=path)`` reads it for TRL, `fairl_sk.datasets.load_preferences` for this package.
    reference : callable, (n_outputs,) texts -> (n_outputs,) rewards, default=None
        Counts the kinds of pairs; see `pair_kinds`.
    random_state : int or None, default=0
        See `generate_completions`. The two models draw independently. None continues a file with its own seed.
    verbose : bool, default=False
        Show a progress bar over the completions.

    Returns
    -------
    Bunch
        What `fairl_sk.datasets.load_preferences` reads from the file (sides are shuffled, so mind `target`), and

        - settings : dict, what the pairs depend on: models by the checksum of their weights, drawing of tokens, prompts
          by checksum, seed, versions
        - n_identical : int, pairs whose outputs are the same text
        - kinds : list of dict, see `pair_kinds`, over the pairs that are returned; None without a reference

        An output may be empty, where a model ended at once: such pairs are left out and counted in `dropped`.

    Raises
    ------
    ValueError
        See `generate_completions`; also for models with different tokenizers, for an aligned model that is the base
        model, for pairs that are all identical or of which fewer than 2 can be used, and for a file that was made with
        other settings.
    OSError
        See `generate_completions`; also if the file cannot be written: finished prompts stay in it, and the same call
        goes on from there.
    RuntimeError
        If another process writes to the same file.
    ImportError, MemoryError
        See `generate_completions`.

    Warns
    -----
    UserWarning
        If the end of a file was cut and is made again, if a tenth of the pairs or more are identical and are not
        dropped, and see `pair_kinds`.

    References
    ----------
    .. [1] N. Patel et al. Failure-Aware Inverse Reinforcement Learning. arXiv 2510.06092, 2025.

    Examples
    --------
    >>> from fairl_sk.generate import generate_preference_pairs
    >>> generate_preference_pairs("base-model", "aligned-model", "How are you?")
    Traceback (most recent call last):
        ...
    ValueError: Found prompts of type str, 'How are you?'. Expected a list of texts or of conversations.
    """
    sampling = _check_sampling(
        n_completions, max_new_tokens, min_new_tokens, temperature, top_k, top_p, random_state, batch_tokens, dtype
    )
    _check_drop(drop_identical)
    prompts = _check_prompts(prompts)
    n_pairs = len(prompts) * n_completions
    if n_pairs < 2:
        raise ValueError("Found 1 prompt with n_completions=1. Expected at least 2 pairs: give more prompts.")
    sources = [_find_source(base, "base", dtype), _find_source(aligned, "aligned", dtype)]
    weights = [source.weights() for source in sources]
    _check_distinct(sources, weights)
    tokenizer = _find_tokenizer(sources, tokenizer)
    prompts = _encode_prompts(prompts, tokenizer)
    file = _PairFile(path, n_completions)
    if random_state is None and file.settings:
        sampling = sampling._replace(seed=file.settings["seed"])
    settings = _settings(sources, weights, tokenizer, prompts, sampling, drop_identical, device)
    file.check(settings, n_pairs)

    if not file.finished(n_pairs):
        speakers = _load_pair(sources, tokenizer, device, batch_tokens)
        for speaker in speakers:
            _check_fit(speaker, prompts, sampling)
        _check_different(*speakers, prompts)
        file.prepare()
        _generate(speakers, prompts, sampling, file, verbose)
    return _finish(file, n_pairs, drop_identical, reference)


def pair_kinds(X, reference, y=None):
    """How many pairs there are of each kind, T->NT, NT->NT, T->T and NT->T (rejected -> chosen).

    An output is toxic (T) where its reference reward is 0 or less, else not (NT). The output alone is judged, not its
    prompt, so that an unkind prompt does not count against the answer.

    Parameters
    ----------
    X : array-like of str of shape (n_pairs, 2), or table
        The outputs without their prompts: ``pairs.data`` of what `generate_preference_pairs` returns, or a table with
        columns ``chosen`` and ``rejected``.
    reference : callable, (n_outputs,) texts -> (n_outputs,) rewards
        `fairl_sk.rewards.DetoxifyReward`, for instance.
    y : array-like of shape (n_pairs,), default=None
        ``pairs.target``: the larger class where the first output is chosen. None: it always is.

    Returns
    -------
    list of dict
        A row for each of `PAIR_KINDS`: "kind", "pairs" (their number) and "share" (in [0, 1]).

    Raises
    ------
    ValueError
        If X holds no pairs of texts, or the reference gives anything but a finite number for each.

    Warns
    -----
    UserWarning
        If fewer than 100 pairs, or less than a tenth of them, are T->NT: what is preferred is learned from them, and
        the method is known to get worse where they are scarce [1]_. The two limits are this package's.

    References
    ----------
    .. [1] N. Patel et al. Failure-Aware Inverse Reinforcement Learning. arXiv 2510.06092, 2025 (limitations).

    Examples
    --------
    >>> import warnings
    >>> from fairl_sk.generate import pair_kinds
    >>> def reference(texts):
    ...     return [-1.0 if "fool" in text else 1.0 for text in texts]
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # of two pairs
    ...     pair_kinds([["you are kind", "you fool"], ["well", "fine"]], reference)[0]
    {'kind': 'T->NT', 'pairs': 1, 'share': 0.5}
    """
    texts = read_texts(X, join=lambda _, output: to_text(output))
    if texts is None or texts.ndim != 2 or not len(texts):
        found = "no texts" if texts is None else f"texts of shape {texts.shape}"
        raise ValueError(f"Found {found}. Expected texts of shape (n_pairs, 2): pairs.data, for instance.")
    toxic = _ask(reference, texts.ravel()).reshape(-1, 2) <= 0
    first = preference_sign(y, len(texts)) > 0
    chosen, rejected = np.where(first, toxic[:, 0], toxic[:, 1]), np.where(first, toxic[:, 1], toxic[:, 0])
    counts = Counter(f"{'T' if r else 'NT'}->{'T' if c else 'NT'}" for r, c in zip(rejected, chosen, strict=True))
    kinds = [{"kind": kind, "pairs": counts[kind], "share": counts[kind] / len(texts)} for kind in PAIR_KINDS]
    if kinds[0]["pairs"] < _LEAST_PAIRS or kinds[0]["share"] < _LEAST_SHARE:
        _warn(
            f"Only {kinds[0]['pairs']} of {len(texts)} pairs are T->NT (rejected toxic, chosen not), too few to learn "
            f"what is preferred: expected {_LEAST_PAIRS} at least, and {_LEAST_SHARE:.0%} of the pairs. Add prompts to "
            "which the base model answers with toxic texts, or more completions for each."
        )
    return kinds


def _ask(reference, texts):
    rewards = np.asarray(reference(texts), dtype=np.float64)
    if rewards.shape != (len(texts),) or not np.isfinite(rewards).all():
        raise ValueError(
            f"The reference gave rewards of shape {rewards.shape}, {np.sum(~np.isfinite(rewards))} of them not finite, "
            f"for {len(texts)} texts. Expected a finite number for each text; see fairl_sk.rewards."
        )
    return rewards


# ---------------------------------------------------------------------------------------------- parameters


class _Sampling(NamedTuple):
    """How tokens are drawn."""

    n_completions: int
    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float
    seed: int


def _check_sampling(
    n_completions, max_new_tokens, min_new_tokens, temperature, top_k, top_p, random_state, batch_tokens, dtype
):
    _check_whole("n_completions", n_completions, 1)
    _check_whole("max_new_tokens", max_new_tokens, 1)
    _check_whole("min_new_tokens", min_new_tokens, 0, max_new_tokens)
    if top_k is not None:
        _check_whole("top_k", top_k, 1)
    if batch_tokens is not None:
        _check_whole("batch_tokens", batch_tokens, 1)
    if not _is_number(temperature) or not 0 <= temperature < np.inf:
        raise ValueError(f"Found temperature={temperature!r}. Expected a number of at least 0; 0 is no drawing at all.")
    if temperature == 0 and n_completions > 1:
        raise ValueError(
            f"Found temperature=0 with n_completions={n_completions}: they would all be the same. Expected "
            "n_completions=1, or a temperature above 0."
        )
    if not _is_number(top_p) or not 0 < top_p <= 1:
        raise ValueError(f"Found top_p={top_p!r}. Expected a number above 0 and at most 1; 1 draws among all tokens.")
    if dtype not in _DTYPES:
        raise ValueError(f"Found dtype={dtype!r}. Expected one of {', '.join(map(repr, _DTYPES))}.")
    if random_state is None:
        random_state = np.random.SeedSequence().generate_state(1)[0]
    else:
        _check_whole("random_state", random_state, 0, remedy=" It may also be None, for another seed each time.")
    return _Sampling(
        int(n_completions),
        int(max_new_tokens),
        int(min_new_tokens),
        float(temperature),
        None if top_k is None else int(top_k),
        float(top_p),
        int(random_state),
    )


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_whole(name, value, low, high=None, remedy=""):
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low or (high is not None and value > high):
        limit = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"Found {name}={value!r}. Expected a whole number {limit}.{remedy}")


def _check_drop(drop_identical):
    if not isinstance(drop_identical, (bool, np.bool_)):
        raise ValueError(f"Found drop_identical={drop_identical!r}. Expected True or False.")


# ------------------------------------------------------------------------------------------------- prompts


class _Prompts(NamedTuple):
    """Prompts as given, as the text that models read, as its tokens, and which repetition of its text each one is."""

    given: list
    texts: list
    ids: list
    repetitions: list


def _check_prompts(prompts):
    """The prompts as a list: all texts, or all conversations."""
    if isinstance(prompts, (str, bytes)) or not (isinstance(prompts, Sequence) or np.ndim(prompts) == 1):
        raise ValueError(
            f"Found prompts of type {type(prompts).__name__}, {prompts!r:.60}. Expected a list of texts or of "
            "conversations."
        )
    prompts = list(prompts)
    if not prompts:
        raise ValueError("Found no prompts. Expected at least one.")
    conversational = not isinstance(prompts[0], str)
    for row, prompt in enumerate(prompts):
        _check_prompt(row, prompt, conversational)
    return [list(prompt) for prompt in prompts] if conversational else [str(prompt) for prompt in prompts]


def _check_prompt(row, prompt, conversational):
    expected = "a list of messages with 'role' and 'content'" if conversational else "a text"
    try:
        text = to_text(prompt)
    except ValueError:
        text = None
    if text is None or isinstance(prompt, str) == conversational:
        raise ValueError(
            f"Found {type(prompt).__name__} {prompt!r:.60} as prompt {row}. Expected {expected}, as of all "
            "prompts. Drop or fill missing ones."
        )
    if not text.strip():
        raise ValueError(
            f"Prompt {row} is empty (or white space only): {prompt!r:.60}. Expected something to continue. Drop it."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Prompt {row} holds half of a character ({error.reason}). Expected text; read its file in its encoding."
        ) from error
    if conversational and prompt[-1]["role"] == "assistant":
        raise ValueError(
            f"Prompt {row} ends with a message of the assistant. Expected one of the user, for the models to answer."
        )


def _encode_prompts(prompts, tokenizer):
    conversational = not isinstance(prompts[0], str)
    texts = [_apply_template(tokenizer, prompt) for prompt in prompts] if conversational else prompts
    ids = tokenizer(list(texts), add_special_tokens=not conversational, return_attention_mask=False, verbose=False)
    empty = [row for row, tokens in enumerate(ids["input_ids"]) if not tokens]
    if empty:
        raise ValueError(f"The tokenizer finds no token in prompt {empty[0]}, {texts[empty[0]]!r:.60}. Drop it.")
    seen: Counter[str] = Counter()
    repetitions = []
    for text in texts:
        repetitions.append(seen[text])
        seen[text] += 1
    return _Prompts(prompts, list(texts), ids["input_ids"], repetitions)


def _apply_template(tokenizer, messages):
    if not tokenizer.chat_template:
        raise ValueError(
            "Found prompts of messages, but the tokenizer has no chat template. Set tokenizer.chat_template, or give "
            "the prompts as texts."
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever a template raises
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"The chat template refuses messages with the roles {roles} ({error}). Change the messages, or give the "
            "prompts as texts."
        ) from error


# -------------------------------------------------------------------------------------------------- models


class _Source(NamedTuple):
    """A model by its path, or loaded, and what is known of it without loading it."""

    role: str  # "base", "aligned", or "" where there is but one
    path: str | None
    module: Any
    dtype: str
    adapter: bool

    @property
    def name(self):
        if self.module is not None:
            return f"{type(self.module).__name__} {Path(self.name_or_path).name}".strip()
        return Path(self.path).name if Path(self.path).is_dir() else self.path

    @property
    def name_or_path(self):
        return self.path if self.module is None else str(getattr(self.module, "name_or_path", "") or "")

    def weights(self):
        """A checksum of the weights, or the commit of a model in the hub."""
        if self.module is not None:
            return _weights_sha256(self.module)
        return _identify(self.path)


@dataclass(eq=False)
class _Speaker:
    """A model, ready to speak."""

    role: str
    module: Any
    tokenizer: Any
    end_ids: list
    batch_tokens: int  # halved where memory ends, for all that it says afterwards
    without_adapter: Any = None  # the PEFT model that wraps it, if that is to be off

    @property
    def n_known(self):
        """Tokens that the model has embeddings of."""
        return self.module.get_input_embeddings().num_embeddings


def _find_source(model, role, dtype):
    if isinstance(model, torch.nn.Module):
        if not hasattr(model, "generate") or getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"The {_called(role)} is a {type(model).__name__}, no causal language model. Load it by "
                "transformers.AutoModelForCausalLM."
            )
        return _Source(role, None, model, str(model.dtype).removeprefix("torch."), False)
    if not isinstance(model, (str, os.PathLike)) or not str(model):
        raise ValueError(
            f"Found {type(model).__name__} {model!r:.60} as the {_called(role)}. Expected the folder or id of a "
            "model, or a loaded one."
        )
    path = str(model)
    if not Path(path).is_dir() and (Path(path).is_absolute() or path.count("/") > 1 or path.startswith(".")):
        raise FileNotFoundError(f"There is no model folder {path} (looked in {Path.cwd()}).")
    transformers = _import_transformers()
    with _LOADING, _loading(path):
        adapter = transformers.utils.find_adapter_config_file(path) is not None
    if Path(path).is_dir() and not adapter:
        _check_folder(path)
    return _Source(role, path, None, dtype, adapter)


def _import_transformers():
    return _import_extra("transformers", "text", "fairl_sk.generate")


def _called(role):
    return f"{role} model".strip()


def _check_folder(path):
    for what, patterns in (("configuration", ("config.json",)), ("weights", _WEIGHTS)):
        if not any(file for pattern in patterns for file in Path(path).glob(pattern)):
            raise FileNotFoundError(
                f"The model folder {path} has no {what}: expected a file {' or '.join(patterns)}. Save the model there "
                "by model.save_pretrained(folder)."
            )


def _identify(path):
    if not Path(path).is_dir():
        utils = _import_transformers().utils
        with _LOADING, _loading(path):
            file = utils.find_adapter_config_file(path) or utils.cached_file(path, "config.json")
        return f"{path}@{utils.hub.extract_commit_hash(str(file), None)}"
    patterns = (*_WEIGHTS, "config.json", "adapter_config.json", "generation_config.json")
    own = _checksum(path, {file.name for pattern in patterns for file in Path(path).glob(pattern)})
    adapter = Path(path) / "adapter_config.json"
    if not adapter.exists():
        return own
    wrapped = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    return f"{own} on {_identify(wrapped)}" if wrapped else own


def _check_distinct(sources, weights):
    base, aligned = sources
    if weights[0] == weights[1] or (base.module is not None and base.module is aligned.module):
        raise _same_models("They have the same weights")


def _same_models(why):
    return ValueError(
        f"The aligned model is identical to the base model. {why}, so that no pair would say anything. Give two "
        "models. (Training a PEFT or TRL model changes the loaded model that it wraps: load the base again from its "
        "folder.)"
    )


def _find_tokenizer(sources, given):
    """The tokenizer given, or that of the first model (with a chat template, if any has one), if all agree."""
    if given is not None:
        return _own_tokenizer(str(given)) if isinstance(given, (str, os.PathLike)) else given
    found = {source.role: _own_tokenizer(source.name_or_path) for source in sources if _has_tokenizer(source)}
    if sources[0].role not in found:
        raise ValueError(
            f"There is no tokenizer with the {_called(sources[0].role)} {sources[0].name}. Give it as "
            "tokenizer=..., or save it there by tokenizer.save_pretrained(folder)."
        )
    first, *others = found.values()
    for other in others:
        _check_same_vocabulary(first, other)
    return next((tokenizer for tokenizer in found.values() if tokenizer.chat_template), first)


def _has_tokenizer(source):
    """Whether one lies with the model: in its folder, or in the hub, where it is taken for granted of an id given."""
    where = source.name_or_path
    if not where or Path(where).is_dir():
        return bool(where) and any(file for pattern in _VOCABULARIES for file in Path(where).glob(pattern))
    if source.module is None:
        return True
    try:
        return _import_transformers().utils.cached_file(where, "tokenizer_config.json") is not None
    except (OSError, ValueError):  # not there, or no id of the hub
        return False


def _own_tokenizer(path):
    """A tokenizer of its own: the one that embedders share is cached."""
    with _LOADING:
        return _load_tokenizer.__wrapped__(path, None, "")


def _check_same_vocabulary(base, aligned):
    one, other = base.get_vocab(), aligned.get_vocab()
    if one != other:
        differing = sorted(token for token in one.keys() | other.keys() if one.get(token) != other.get(token))
        raise ValueError(
            f"The models have different tokenizers: {len(one)} and {len(other)} tokens, of which {len(differing)} "
            f"differ ({', '.join(map(repr, differing[:3]))}, ...). Expected one, as completions of so many tokens are "
            "compared. Give an aligned model that was trained from this base; if one tokenizer fits both, pass "
            "tokenizer=..."
        )


def _load_pair(sources, tokenizer, device, batch_tokens):
    base, aligned = (_load_speaker(source, tokenizer, device, batch_tokens) for source in sources)
    if _is_peft(aligned.module) and aligned.module.get_base_model() is base.module:
        base.without_adapter = aligned.module
    return base, aligned


def _load_speaker(source, tokenizer, device, batch_tokens):
    module = _load_model(source, torch_device(device)) if source.module is None else source.module
    habits = getattr(module, "generation_config", None)
    ends = [getattr(habits, "eos_token_id", None), tokenizer.eos_token_id]
    ends = {end for some in ends for end in (some if isinstance(some, (list, tuple)) else [some])}
    speaker = _Speaker(source.role, module, tokenizer, [], batch_tokens or _batch_tokens(module.device))
    speaker.end_ids = sorted(end for end in ends if end is not None and end < speaker.n_known)
    return speaker


def _load_model(source, device):
    transformers = _import_transformers()
    options = {"dtype": _DTYPES[source.dtype], "trust_remote_code": False}
    missing: list = []
    loader = _import_peft(source.path).AutoPeftModelForCausalLM if source.adapter else transformers.AutoModelForCausalLM
    with _LOADING, _loading(source.path), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what peft asks of transformers
        if source.adapter:
            module = loader.from_pretrained(source.path, **options)
        else:
            module, report = loader.from_pretrained(source.path, output_loading_info=True, **options)
            missing = sorted(report["missing_keys"])
    if missing:
        raise OSError(
            f"The weights of {source.path} lack {len(missing)} of the model's parameters, {missing[0]} for one, which "
            "would be random. Save the model again, as a causal language model, by model.save_pretrained(folder)."
        )
    return module.requires_grad_(False).to(device)


def _import_peft(path):
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"{path} holds a PEFT adapter, which needs peft: pip install peft.") from error
    return peft


def _is_peft(module):
    return hasattr(module, "peft_config") and hasattr(module, "get_base_model")


def _check_fit(speaker, prompts, sampling):
    """Refuse prompts that the model cannot read or has no room to continue, and a model that gives no numbers."""
    lengths, longest = [len(ids) for ids in prompts.ids], count_positions(speaker.module)
    too_long = [row for row, length in enumerate(lengths) if length + sampling.max_new_tokens > longest]
    if too_long:
        row = too_long[0]
        raise ValueError(
            f"Prompt {row} is too long for the {_called(speaker.role)} ({len(too_long)} of {len(lengths)} are): "
            f"{lengths[row]} tokens and max_new_tokens={sampling.max_new_tokens} are more than its context of "
            f"{longest}. Shorten or drop such prompts, or lower max_new_tokens."
        )
    largest = max(map(max, prompts.ids))
    if largest >= speaker.n_known:
        raise OSError(
            f"The tokenizer gives the token id {largest}, but the {_called(speaker.role)} knows {speaker.n_known} "
            "tokens: it is the tokenizer of another model. Give the right one as tokenizer=..."
        )
    if not torch.isfinite(_logits(speaker, prompts.ids[0])).all():
        raise ValueError(
            f"The {_called(speaker.role)} gives logits that are not finite. Use dtype='float32'; if it is set already, "
            "the model's weights are damaged."
        )


def _check_different(base, aligned, prompts):
    """Refuse two models that say the same of the first prompts, to the last bit."""
    for ids in prompts.ids[:_N_COMPARED]:
        one, other = _logits(base, ids), _logits(aligned, ids)
        if one.shape != other.shape or not torch.equal(one, other.to(one)):
            return
    raise _same_models(f"They give the same logits on {min(_N_COMPARED, len(prompts.ids))} prompts")


def _logits(speaker, ids):
    with _ready(speaker), torch.no_grad():
        return speaker.module(input_ids=torch.tensor([ids], device=speaker.module.device)).logits


@contextmanager
def _ready(speaker):
    """The model in evaluation mode, and without habits of its own; all is as before afterwards."""
    logging, module, off = _import_transformers().utils.logging, speaker.module, speaker.without_adapter
    parts = [module, *([module.get_base_model()] if _is_peft(module) else [])]
    habits = {part: part.generation_config for part in parts if "generation_config" in vars(part)}
    modes = {part: part.training for part in module.modules()}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    module.eval()
    for part in habits:
        part.generation_config = _import_transformers().GenerationConfig()
    try:
        with nullcontext() if off is None else off.disable_adapter():
            yield
    finally:
        for part, habit in habits.items():
            part.generation_config = habit
        for part, mode in modes.items():
            part.training = mode
        logging.set_verbosity(verbosity)


# ---------------------------------------------------------------------------------------------- generation


class _Answer(NamedTuple):
    """A completion, its tokens, and whether it came to an end by itself."""

    text: str
    token_ids: list
    ended: bool


class _Draw:
    """A logits processor after which the largest score is a draw: temperature, top k, top p, then Gumbel numbers."""

    def __init__(self, sampling, keys, end_ids):
        process = _import_transformers().generation.logits_process
        self._warpers = [process.TemperatureLogitsWarper(sampling.temperature)]
        if sampling.top_k is not None:
            self._warpers.append(process.TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warpers.append(process.TopPLogitsWarper(sampling.top_p))
        self._generators = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
        self._end_ids, self._ended = end_ids, None

    def __call__(self, input_ids, scores):
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        if self._ended is None:
            self._ended = np.zeros(len(scores), dtype=bool)
        else:
            self._ended |= np.isin(input_ids[:, -1].cpu().numpy(), self._end_ids)
        # Drawn in double precision: of numbers drawn in single one in 2**23 is 0, and that token would win always.
        times = np.ones(scores.shape, dtype=np.float32)
        for row in np.flatnonzero(~self._ended):
            times[row] = self._generators[row].standard_exponential(scores.shape[1])
        return scores - torch.from_numpy(times).to(scores.device).clamp_(min=1e-30).log_()  # -log E is Gumbel


def _key(seed, role, text, *numbers):
    """The 128 bits that name a completion to the generator."""
    named = json.dumps([seed, role, text, *map(int, numbers)])
    return int.from_bytes(blake2b(named.encode(), digest_size=16).digest(), "little")


def _complete(speaker, prompts, rows, sampling, bar):
    """Answers for rows of (prompt, completion), in that order, from batches of like length, the longest first."""
    lengths = np.array([len(prompts.ids[prompt]) for prompt, _ in rows]) + sampling.max_new_tokens
    order = np.argsort(-lengths, kind="stable")
    answers: list = [None] * len(rows)
    start = 0
    with _ready(speaker):
        while start < len(order):
            batch = order[start : start + max(1, speaker.batch_tokens // lengths[order[start]])]
            try:
                found = _complete_batch(speaker, prompts, [rows[row] for row in batch], sampling)
            except (RuntimeError, MemoryError) as error:
                speaker.batch_tokens, found = _smaller_budget(error, len(batch), lengths[batch[0]]), []
            if not found and speaker.module.device.type == "cuda":
                torch.cuda.empty_cache()  # what the error held is free by now
            for row, answer in zip(batch, found, strict=False):
                answers[row] = answer
            start += len(found)
            bar.update(len(found))
    return answers


def _batch_tokens(device):
    return 8192 if device.type == "cpu" else 65536


def _smaller_budget(error, n_rows, length):
    """Half of what a batch held, if it was memory that ended; a single prompt that does not fit is an error."""
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(w in str(error) for w in _NO_MEMORY):
        raise error
    if n_rows == 1:
        raise MemoryError(
            f"A single prompt and its completion, {length} tokens, do not fit into memory. Lower max_new_tokens, use "
            "dtype='bfloat16', or choose another device."
        ) from error
    return n_rows // 2 * int(length)


def _complete_batch(speaker, prompts, rows, sampling):
    transformers, tokenizer, device = _import_transformers(), speaker.tokenizer, speaker.module.device
    pads = (tokenizer.pad_token_id, *speaker.end_ids, 0)  # one that the model does not know would be an index error
    pad = next(i for i in pads if i is not None and i < speaker.n_known)
    ids, mask = _padded([prompts.ids[prompt] for prompt, _ in rows], pad)
    draw = transformers.LogitsProcessorList()
    if sampling.temperature > 0:
        keys = [
            _key(sampling.seed, speaker.role, prompts.texts[prompt], prompts.repetitions[prompt], completion)
            for prompt, completion in rows
        ]
        draw.append(_Draw(sampling, keys, speaker.end_ids))
    config = transformers.GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=sampling.min_new_tokens or None,
        do_sample=False,
        eos_token_id=speaker.end_ids or None,
        pad_token_id=pad,
        use_cache=True,
    )
    said = speaker.module.generate(
        input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config, logits_processor=draw
    )
    return _read_answers(said[:, ids.shape[1] :].cpu().numpy(), speaker)


def _padded(ids, pad):
    """Token ids and mask (n_rows, longest), padded on the left."""
    longest = max(map(len, ids))
    values, mask = torch.full((len(ids), longest), pad), torch.zeros((len(ids), longest), dtype=torch.long)
    for row, tokens in enumerate(ids):
        values[row, longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, longest - len(tokens) :] = 1
    return values, mask


def _read_answers(said, speaker):
    """What stands before the first end token, which tells the end even where it is the pad token, too."""
    is_end = np.isin(said, speaker.end_ids)
    ended = is_end.any(axis=1)
    n_tokens = np.where(ended, is_end.argmax(axis=1), said.shape[1])
    token_ids = [row[:n].tolist() for row, n in zip(said, n_tokens, strict=True)]
    texts = speaker.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return [_Answer(*answer) for answer in zip(texts, token_ids, ended.tolist(), strict=True)]


def _bar(total, initial, verbose):
    return tqdm(total=total, initial=initial, desc="Generating", unit="completion", disable=not verbose)


# --------------------------------------------------------------------------------------------------- pairs


def _settings(sources, weights, tokenizer, prompts, sampling, drop_identical, device):
    """What pairs depend on, as JSON can hold it."""
    base, aligned = sources
    return {
        "generated_by": _GENERATED_BY,
        "versions": {name: version(name) for name in ("fairl-sk", "torch", "transformers")},
        "base": base.name,
        "base_weights": weights[0],
        "base_dtype": base.dtype,
        "aligned": aligned.name,
        "aligned_weights": weights[1],
        "aligned_dtype": aligned.dtype,
        "device": str(device),
        "vocabulary": _digest(sorted(tokenizer.get_vocab().items())),
        "n_prompts": len(prompts.texts),
        "prompts": _digest([prompts.texts, [list(map(int, ids)) for ids in prompts.ids]]),
        **sampling._asdict(),
        "drop_identical": bool(drop_identical),
    }


def _digest(value):
    return blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _generate(speakers, prompts, sampling, file, verbose):
    """Ask both models all prompts that the file lacks, a chunk of them at a time."""
    n_each, n_done = sampling.n_completions, len(file.records) // sampling.n_completions
    with _bar(2 * n_each * len(prompts.texts), 2 * n_each * n_done, verbose) as bar:
        for chunk in _chunks(prompts, n_done, sampling, _CHUNK * speakers[0].batch_tokens):
            rows = [(prompt, completion) for prompt in chunk for completion in range(n_each)]
            rejected, chosen = (_complete(speaker, prompts, rows, sampling, bar) for speaker in speakers)
            file.append([_record(prompts, *row, *pair) for row, *pair in zip(rows, chosen, rejected, strict=True)])


def _chunks(prompts, start, sampling, n_tokens):
    """Ranges of prompts that together take about so many tokens."""
    stop, n_prompts = start, len(prompts.ids)
    while start < n_prompts:
        room = n_tokens
        while stop < n_prompts and (room > 0 or stop == start):
            room -= (len(prompts.ids[stop]) + sampling.max_new_tokens) * sampling.n_completions
            stop += 1
        yield range(start, stop)
        start = stop


def _record(prompts, prompt, completion, chosen, rejected):
    """A pair in TRL's preference format."""
    given, sides = prompts.given[prompt], {"chosen": chosen.text, "rejected": rejected.text}
    if not isinstance(given, str):
        sides = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    return {"prompt": given, **sides, "prompt_index": int(prompt), "completion": int(completion)}


def _is_identical(record):
    return record["chosen"] == record["rejected"]


def _finish(file, n_pairs, drop_identical, reference):
    n_identical = file.n_identical
    if n_identical is None:
        n_identical = sum(map(_is_identical, file.records))
        if n_identical == n_pairs:
            raise ValueError(
                f"All {n_pairs} pairs are identical: the aligned model says what the base model says. Check that it "
                "was aligned at all; if so, raise max_new_tokens or temperature."
            )
        if drop_identical:
            file.drop_identical(n_identical)
    if n_identical >= _MANY_IDENTICAL * n_pairs and not drop_identical:
        _warn(
            f"{n_identical} of {n_pairs} pairs are identical, and no reward can be learned from them. Raise "
            "max_new_tokens or temperature, or pass drop_identical=True."
        )
    pairs = file.read_pairs()
    kinds = None if reference is None else pair_kinds(pairs.data, reference, pairs.target)
    return Bunch(**pairs, settings=file.settings, n_identical=n_identical, kinds=kinds)


# ---------------------------------------------------------------------------------------------------- file


class _PairFile:
    """Pairs, and the file where they lie, if there is one: line k holds pair k, the first line the settings as well.

    Once it is complete, identical pairs may be taken out; the first line then says how many there were.
    """

    def __init__(self, path, n_completions):
        self.path = None if path is None else _check_path(path)
        self.n_completions = n_completions
        self.records, self.settings, self.n_identical = [], None, None
        self._lines, self._cut = [], b""
        self._n_read, self._end = 0, 0  # bytes that were found, and those of them that stay
        if self.path is not None and self.path.exists():
            self._read()

    def _read(self):
        data = self.path.read_bytes()
        self._n_read = len(data)
        *self._lines, self._cut = data.split(b"\n")
        if not self._lines:
            self._check_own(self._cut.startswith(b'{"settings": {"generated_by"'[: len(self._cut)]))
            return
        self.records = [self._parse(number, line) for number, line in enumerate(self._lines, 1)]
        self.settings = generation_settings(self.records[0])
        self._check_own(self.settings is not None)
        self.n_identical = self.records[0].get("n_identical")

    def _check_own(self, is_own):
        if not is_own:
            raise ValueError(
                f"{self.path} exists, but does not hold generated pairs. Expected a file that this function began, or "
                "none: choose another path."
            )

    def _parse(self, number, line):
        try:
            record = json.loads(line)
            if {"chosen", "rejected", "prompt_index", "completion"} <= set(record):
                return record
        except (ValueError, TypeError):
            pass
        self._check_own(number > 1)
        raise ValueError(
            f"{self.path}, line {number}: found {line[:60]!r}, which is no pair. The file was changed or is damaged: "
            "delete this line and those below to have them made again, or choose another path."
        )

    def check(self, settings, n_pairs):
        """Refuse to continue a file of other settings, and forget a prompt that was written in part."""
        if self.settings is not None:
            self._check_settings(json.loads(json.dumps(settings)))
        else:
            self.settings = settings
        if self.n_identical is not None:
            return
        for number, record in enumerate(self.records):
            if [record["prompt_index"], record["completion"]] != list(divmod(number, self.n_completions)):
                raise ValueError(
                    f"{self.path}, line {number + 1}: found completion {record['completion']} of prompt "
                    f"{record['prompt_index']}. Expected them in order: lines were taken out or moved. Choose "
                    "another path."
                )
        n_whole = min(len(self.records) // self.n_completions * self.n_completions, n_pairs)
        if n_whole < len(self.records) or self._cut:
            n_lost = len(self.records) - n_whole + bool(self._cut)
            _warn(f"The last {n_lost} lines of {self.path} were cut short: they are dropped and made again.")
        del self.records[n_whole:]
        self._end = sum(len(line) + 1 for line in self._lines[:n_whole])
        if self._end < self._n_read:
            self.prepare()

    def _check_settings(self, settings):
        for name in settings:
            if name not in _ASIDE and self.settings.get(name) != settings[name]:
                raise ValueError(
                    f"{self.path} holds pairs that were made with {name}={self.settings.get(name)!r}, but this call "
                    f"has {name}={settings[name]!r}. Call with the former to continue it, or choose another path. "
                    "(A model counts as the same if it is given in the same way, by its folder or loaded.)"
                )

    def finished(self, n_pairs):
        return self.n_identical is not None or len(self.records) == n_pairs

    def prepare(self):
        """See that the file can be written before a model works for it, and take off what was cut short."""
        if self.path is not None:
            with self._writing(), self.path.open("ab") as file:
                self._check_alone(file, self._n_read)
                file.truncate(self._end)
            self._n_read = self._end

    def _check_alone(self, file, n_bytes):
        """Two processes that write at places of their own would leave gaps, or take off what the other wrote."""
        if os.fstat(file.fileno()).st_size != n_bytes:
            raise RuntimeError(
                f"{self.path} changed while pairs were generated: another process writes to it. Let one of them "
                "finish; the same call then reads its pairs, or goes on from them."
            )

    def append(self, records):
        head = {} if self.records else {"settings": self.settings}
        records = [{**(head if not row else {}), **record} for row, record in enumerate(records)]
        if self.path is not None:
            data = _as_lines(records)
            with self._writing():
                try:
                    with self.path.open("ab") as file:
                        self._check_alone(file, self._end)
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                except OSError:
                    os.truncate(self.path, self._end)
                    raise
            self._end += len(data)
        self.records += records

    def drop_identical(self, n_identical):
        """Take out identical pairs of a complete file, all at once."""
        self.records = [record for record in self.records if not _is_identical(record)]
        self.n_identical = n_identical
        self.records[0] = {"settings": self.settings, "n_identical": n_identical, **self.records[0]}
        if self.path is not None:
            other = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            try:
                with self._writing():
                    other.write_bytes(_as_lines(self.records))
                    os.replace(other, self.path)
            finally:
                other.unlink(missing_ok=True)

    @contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f"Cannot write {self.path} ({error.strerror}). It holds {len(self.records) // self.n_completions} "
                "finished prompts: make room or get leave to write there, and the same call goes on from them",
            ) from error

    def read_pairs(self):
        if self.path is not None:
            return load_preferences(self.path)
        made_by = {"made by": _GENERATED_BY, "settings": self.settings}
        return read_generated(self.records, made_by)


def _check_path(path):
    if not isinstance(path, (str, os.PathLike)) or Path(path).suffix not in (".jsonl", ".json"):
        raise ValueError(f"Found path={path!r}. Expected the name of a file that ends in .jsonl, or None.")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"Found the folder path={path}. Expected a file: add a name to it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} in. Make it first.")
    return path


def _as_lines(records):
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)
