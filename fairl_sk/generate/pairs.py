"""Pairs of two language models, kept in a file that an interrupted call goes on from, and counts of their kinds."""

import json
import os
from collections import Counter
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sklearn.utils import Bunch

from ..datasets.readers import generation_settings, load_preferences, read_generated
from ..messages import to_text
from ..pairs import preference_sign, read_texts
from ..warn import warn_user as warn
from .completions import Prompts, check_settings, progress_bar
from .models import LanguageModel

PAIR_KINDS = ("T->NT", "NT->NT", "T->T", "NT->T")  # rejected -> chosen, T for toxic
_LEAST_PAIRS, _LEAST_SHARE = 100, 0.1  # of T->NT, below which `pair_kinds` warns
_MANY_IDENTICAL = 0.1  # share of pairs from which on identical completions are warned about
_N_COMPARED = 4  # prompts on which the two models are compared before they generate
_MAY_DIFFER = ("base", "aligned", "versions", "device", "batch_size")  # between two calls that share a file
_GENERATED_BY = "fairl_sk.generate.generate_preference_pairs"


def generate_preference_pairs(
    base,
    aligned,
    prompts,
    *,
    tokenizer=None,
    n_completions=1,
    max_new_tokens=64,
    batch_size=64,
    dtype="float32",
    device="cpu",
    path=None,
    reference=None,
    random_state=0,
    verbose=False,
    **generation,
):
    """Preference pairs of two models: the aligned one's answer is chosen, the base one's is rejected.

    The first step of the paper's algorithm [1]_. Outputs are kept apart from their prompts;
    `fairl_sk.pairs.join_prompts` puts them together.

    Parameters
    ----------
    base, aligned : str, path-like or model
        The model before and after its alignment; see `generate_completions`.
    prompts : sequence of str, or of lists of dict, of length n_prompts
        See `generate_completions`. Both models read the same text: conversations go through the base model's chat
        template or, if it has none, the aligned model's.
    tokenizer : tokenizer, str or path-like, default=None
        For both models. None: the one that lies with the base model; one with the aligned model has to agree.
    n_completions, max_new_tokens, batch_size, dtype, device, **generation
        See `generate_completions`.
    path : str or path-like, default=None
        JSON Lines file to write: a pair a line in TRL's preference format, the settings in the first line. A file of
        the same settings is continued: finished prompts are not asked again, and a finished file loads no model.
    reference : callable, (n_outputs,) texts -> (n_outputs,) rewards, default=None
        Counts the kinds of pairs; see `pair_kinds`.
    random_state : int or None, default=0
        See `generate_completions`. The two models draw independently. None continues a file with its own seed.
    verbose : bool, default=False
        Show a progress bar over the completions.

    Returns
    -------
    Bunch
        What `fairl_sk.datasets.load_preferences` reads from the file (sides are shuffled: see ``target``; pairs with an
        empty output are left out), and

        - settings : dict, what the pairs depend on: models, prompts, drawing of tokens, seed, versions
        - n_identical : int, pairs whose outputs are the same text
        - kinds : list of dict, see `pair_kinds`; None without a reference

    Raises
    ------
    ValueError
        See `generate_completions`; also for models with different tokenizers, for an aligned model that is the base
        model, for pairs that are all identical, and for a file that was made with other settings.
    OSError
        See `generate_completions`; also if the file cannot be written. The same call then goes on from it.
    RuntimeError
        If another process writes to the same file.
    ImportError, MemoryError
        See `generate_completions`.

    Warns
    -----
    UserWarning
        If the end of a file was cut, if a tenth of the pairs or more are identical, and see `pair_kinds`.

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
    seed, generation = check_settings(random_state, batch_size, n_completions, max_new_tokens, generation)
    models = [
        LanguageModel(model, role, dtype, device, batch_size) for model, role in ((base, "base"), (aligned, "aligned"))
    ]
    prompts = Prompts.of(prompts, models, tokenizer)
    file = _PairFile(path, n_completions)
    if random_state is None and file.records:
        seed = file.records[0]["settings"]["seed"]
    file.continue_with(_settings(models, prompts, seed, generation, batch_size))
    if file.n_prompts < len(prompts.ids):
        _generate(models, prompts, file, batch_size, verbose)
    n_pairs, n_identical = len(file.records), sum(record["chosen"] == record["rejected"] for record in file.records)
    if n_identical == n_pairs:
        raise ValueError(
            f"All {n_pairs} pairs are identical: the aligned model says what the base model says. Check that it was "
            "aligned at all; if so, raise max_new_tokens or temperature."
        )
    if n_identical >= _MANY_IDENTICAL * n_pairs:
        warn(
            f"{n_identical} of {n_pairs} pairs are identical, and no reward can be learned from them. Raise "
            "max_new_tokens or temperature."
        )
    pairs = file.read_pairs()
    kinds = None if reference is None else pair_kinds(pairs.data, reference, pairs.target)
    return Bunch(**pairs, settings=file.settings, n_identical=n_identical, kinds=kinds)


def _settings(models, prompts, seed, generation, batch_size):
    """What pairs depend on, as JSON can hold it."""
    settings = {
        "generated_by": _GENERATED_BY,
        "versions": {name: version(name) for name in ("fairl-sk", "torch", "transformers")},
        "n_prompts": len(prompts.texts),
        "prompts": blake2b(json.dumps([prompts.texts, prompts.ids]).encode(), digest_size=16).hexdigest(),
        "batch_size": batch_size,
        "seed": seed,
        "generation": generation,
    }
    for model in models:
        settings[model.role] = model.name
        settings[f"{model.role}_weights"], settings[f"{model.role}_dtype"] = model.fingerprint(), model.dtype
    return json.loads(json.dumps(settings))


def _generate(models, prompts, file, batch_size, verbose):
    """Ask both models all prompts that the file lacks, a batch at a time."""
    seed, generation, n_prompts = file.settings["seed"], file.settings["generation"], len(prompts.ids)
    for model in models:
        model.load(prompts.tokenizer, prompts.ids, generation["max_new_tokens"])
    _check_different(*models, prompts.ids)
    file.append([])  # an error now, and not after the models have worked
    n_each = 2 * file.n_completions
    with progress_bar(n_each * n_prompts, n_each * file.n_prompts, verbose) as bar:
        for first in range(file.n_prompts, n_prompts, batch_size):
            ids = prompts.ids[first : first + batch_size]
            rejected, chosen = (model.answer(ids, first, generation, seed) for model in models)
            file.append(
                [
                    _record(prompts.given[first + row], first + row, n, chosen[row][n].text, rejected[row][n].text)
                    for row in range(len(ids))
                    for n in range(file.n_completions)
                ]
            )
            bar.update(n_each * len(ids))


def _check_different(base, aligned, prompt_ids):
    for ids in prompt_ids[:_N_COMPARED]:
        one, other = base.logits(ids), aligned.logits(ids)
        if one.shape != other.shape or not torch.equal(one, other.to(one)):
            return
    raise ValueError(
        "The aligned model is identical to the base model: they give the same logits on "
        f"{min(_N_COMPARED, len(prompt_ids))} prompts, so that no pair would say anything. Give two models. (Training "
        "a PEFT or TRL model changes the loaded model that it wraps: load the base again from its folder.)"
    )


def _record(prompt, index, n, chosen, rejected):
    """A pair in TRL's preference format."""
    sides = {"chosen": chosen, "rejected": rejected}
    if not isinstance(prompt, str):
        sides = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    return {"prompt": prompt, **sides, "prompt_index": index, "completion": n}


# ---------------------------------------------------------------------------------------------------- file


class _PairFile:
    """Pairs, and the file where they lie, if there is one: line k holds pair k, the first line the settings as well."""

    def __init__(self, path, n_completions):
        self.path, self.n_completions = None if path is None else _check_path(path), n_completions
        self.records, self.settings = [], None
        self._size = 0  # bytes that are read or written
        if self.path is None or not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines):
            if number and not line.endswith(b"\n"):
                break
            self.records.append(self._read(number, line))
        del self.records[self.n_prompts * n_completions :]
        self._size = sum(map(len, lines[: len(self.records)]))
        self.settings = self.records[0]["settings"] if self.records else None

    @property
    def n_prompts(self):
        """Prompts that are finished."""
        return len(self.records) // self.n_completions

    def _read(self, number, line):
        place = dict(zip(("prompt_index", "completion"), divmod(number, self.n_completions), strict=True))
        try:
            record = json.loads(line)
            if record.items() >= place.items() and (number or generation_settings(record)):
                return record
        except (ValueError, AttributeError):
            pass
        raise ValueError(
            f"{self.path}, line {number + 1}: found {line[:60]!r}. Expected a generated pair ({place}). Choose another "
            "path; or, if this is a file of pairs that was damaged, delete this line and those below."
        )

    def continue_with(self, settings):
        """Refuse a file of other settings; take off what was cut short."""
        if self.settings is None:
            self.settings = settings
        for name in settings:
            if name not in _MAY_DIFFER and self.settings.get(name) != settings[name]:
                raise ValueError(
                    f"{self.path} holds pairs that were made with {name}={self.settings.get(name)!r}, but this call "
                    f"has {name}={settings[name]!r}. Call with the former to continue it, or choose another path. "
                    "(A model counts as the same if it is given in the same way, by its folder or loaded.)"
                )
        if self.path is not None and self.path.exists() and self.path.stat().st_size > self._size:
            warn(f"The last lines of {self.path} were cut short: they are dropped and made again.")
            os.truncate(self.path, self._size)

    def append(self, records):
        """Keep pairs, and write them if there is a file."""
        if records and not self.records:
            records[0] = {"settings": self.settings, **records[0]}
        if self.path is not None:
            self._write(b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records))
        self.records += records

    def _write(self, data):
        try:
            with self.path.open("ab") as file:
                if file.tell() != self._size:
                    raise RuntimeError(
                        f"{self.path} changed while pairs were generated: another process writes to it. Let one of "
                        "them finish; the same call then reads its pairs, or goes on from them."
                    )
                file.write(data)
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, self._size)
            raise OSError(
                error.errno,
                f"Cannot write {self.path} ({error.strerror}). It holds {self.n_prompts} finished prompts: make room "
                "or get leave to write there, and the same call goes on from them",
            ) from error
        self._size += len(data)

    def read_pairs(self):
        """What `load_preferences` makes of the pairs."""
        if self.path is not None:
            return load_preferences(self.path)
        return read_generated(self.records, {"made by": _GENERATED_BY, "settings": self.settings})


def _check_path(path):
    if not isinstance(path, (str, os.PathLike)) or Path(path).suffix not in (".jsonl", ".json"):
        raise ValueError(f"Found path={path!r}. Expected the name of a file that ends in .jsonl, or None.")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"Found the folder path={path}. Expected a file: add a name to it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} in. Make it first.")
    return path


# --------------------------------------------------------------------------------------------------- kinds


def pair_kinds(X, reference, y=None):
    """How many pairs there are of each kind, T->NT, NT->NT, T->T and NT->T (rejected -> chosen).

    An output is toxic (T) where its reference reward is 0 or less, else not (NT). The output is judged without its
    prompt.

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
        If fewer than 100 pairs, or less than a tenth of them, are T->NT. The method is known to get worse where they
        are scarce [1]_; the two limits are this package's.

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
    rewards = np.asarray(reference(texts.ravel()), dtype=np.float64)
    if rewards.shape != (texts.size,) or not np.isfinite(rewards).all():
        raise ValueError(
            f"The reference gave rewards of shape {rewards.shape}, {np.sum(~np.isfinite(rewards))} of them not finite, "
            f"for {texts.size} texts. Expected a finite number for each text; see fairl_sk.rewards."
        )
    toxic = rewards.reshape(-1, 2) <= 0
    toxic = np.where(preference_sign(y, len(texts))[:, None] > 0, toxic, toxic[:, ::-1])  # the chosen output first
    counts = Counter(f"{'T' if rejected else 'NT'}->{'T' if chosen else 'NT'}" for chosen, rejected in toxic)
    kinds = [{"kind": kind, "pairs": counts[kind], "share": counts[kind] / len(texts)} for kind in PAIR_KINDS]
    if kinds[0]["pairs"] < _LEAST_PAIRS or kinds[0]["share"] < _LEAST_SHARE:
        warn(
            f"Only {kinds[0]['pairs']} of {len(texts)} pairs are T->NT (rejected toxic, chosen not), too few to learn "
            f"what is preferred: expected {_LEAST_PAIRS} at least, and {_LEAST_SHARE:.0%} of the pairs. Add prompts to "
            "which the base model answers with toxic texts, or more completions for each."
        )
    return kinds
