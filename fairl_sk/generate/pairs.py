"""Pairs of two language models, kept in a file that an interrupted call goes on from, and counts of their kinds."""

import json
import os
from collections import Counter
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.utils import Bunch

from ..datasets.readers import generation_settings, load_preferences
from ..messages import to_text
from ..pairs import preference_sign, read_texts
from ..warn import warn_user as warn
from .completions import Prompts, check_settings, progress_bar
from .models import LanguageModel

PAIR_KINDS = ("T->NT", "NT->NT", "T->T", "NT->T")  # rejected -> chosen, T for toxic
_LEAST_PAIRS, _LEAST_SHARE = 100, 0.1  # of T->NT, below which `pair_kinds` warns
_MANY_IDENTICAL = 0.1  # share of pairs from which on identical completions are warned about
_N_COMPARED = 4  # prompts on which the two models are compared before they generate
_PLACE = ("prompt_index", "completion")
_MAY_DIFFER = ("base", "aligned", "versions", "device", "batch_size")  # between two calls that share a file


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
    base_outputs=None,
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
    n_completions, max_new_tokens, batch_size, dtype, device, verbose, **generation
        See `generate_completions`.
    path : str or path-like, default=None
        JSON Lines file to write: a pair a line in TRL's preference format, the settings in the first. A file of the
        same settings is continued from its finished prompts.
    base_outputs : str or path-like, default=None
        Such a file of another aligned model, with the same base, prompts and settings: the base model's outputs are
        read from it, and not made again.
    reference : callable, (n_outputs,) texts -> (n_outputs,) rewards, default=None
        Counts the kinds of pairs; see `pair_kinds`.
    random_state : int or None, default=0
        See `generate_completions`. The two models draw independently. None continues a file with its own seed.

    Returns
    -------
    Bunch
        What `fairl_sk.datasets.load_preferences` reads from the file (sides are shuffled: see ``target``; pairs with an
        empty output are left out), and

        - settings : dict, what the pairs depend on
        - n_identical : int, pairs whose outputs are the same text
        - kinds : list of dict, see `pair_kinds`; None without a reference

    Raises
    ------
    ValueError, OSError, ImportError
        See `generate_completions`; also for models that are equal, have different tokenizers or say the same, and for a
        file of other settings.
    RuntimeError
        If another process writes to the same file.

    Warns
    -----
    UserWarning
        If the end of a file was cut, if a tenth of the pairs or more are identical, and see `pair_kinds`.

    References
    ----------
    .. [1] N. Patel et al. Failure-Aware Inverse Reinforcement Learning. arXiv 2510.06092, 2025.
    """
    seed, generation = check_settings(random_state, batch_size, n_completions, max_new_tokens, generation)
    roles = {"base": base, "aligned": aligned}
    models = [LanguageModel(model, role, dtype, device) for role, model in roles.items()]
    prompts = Prompts.of(prompts, models, tokenizer)
    with TemporaryDirectory() as folder:
        file = _PairFile(Path(folder) / "pairs.jsonl" if path is None else path, n_completions)
        if random_state is None and file.records:
            seed = file.records[0]["settings"]["seed"]
        settings = _settings(models, prompts, seed, generation, batch_size)
        file.continue_with(settings)
        known = [] if base_outputs is None else _base_outputs(base_outputs, n_completions, settings)
        if file.n_prompts < len(prompts.ids):
            _generate(models, prompts, file, known, batch_size, verbose)
        n_identical = _check_identical(file.records)
        pairs = load_preferences(file.path)
    kinds = None if reference is None else pair_kinds(pairs.data, reference, pairs.target)
    return Bunch(**pairs, settings=file.settings, n_identical=n_identical, kinds=kinds)


def _check_identical(records):
    """The number of pairs whose outputs are the same text."""
    n_identical = sum(record["chosen"] == record["rejected"] for record in records)
    if n_identical == len(records):
        found = f"All {n_identical} pairs are identical: the aligned model says what the base model says"
        raise ValueError(f"{found}. Check that it was aligned at all; if so, raise max_new_tokens or temperature.")
    if n_identical >= _MANY_IDENTICAL * len(records):
        found = f"{n_identical} of {len(records)} pairs are identical, and no reward can be learned from them"
        warn(f"{found}. Raise max_new_tokens or temperature.")
    return n_identical


def _settings(models, prompts, seed, generation, batch_size):
    """What pairs depend on, as JSON can hold it."""
    settings = {
        "generated_by": "fairl_sk.generate.generate_preference_pairs",
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


def _base_outputs(path, n_completions, settings):
    """What the base model said in another file of the same settings, but for the aligned model."""
    file = _PairFile(path, n_completions)
    if file.settings is None:
        raise FileNotFoundError(f"There are no pairs in base_outputs={str(path)!r}. Expected a file of pairs, or None.")
    file.check_settings({name: value for name, value in settings.items() if not name.startswith("aligned")})
    return [to_text(record["rejected"]) for record in file.records]


def _generate(models, prompts, file, known, batch_size, verbose):
    """Ask both models all prompts that the file lacks, a batch at a time; not the base model what is ``known``."""
    seed, generation, n_prompts = file.settings["seed"], file.settings["generation"], len(prompts.ids)
    for model in models:
        model.load(prompts.tokenizer, prompts.ids, generation["max_new_tokens"])
    _check_different(*models, prompts.ids)
    file.append([])  # an error now, and not after the models have worked
    n_each = 2 * file.n_completions
    with progress_bar(n_each * n_prompts, n_each * file.n_prompts, verbose) as bar:
        for first in range(file.n_prompts, n_prompts, batch_size):
            ids = prompts.ids[first : first + batch_size]
            rejected = known[first * file.n_completions :][: len(ids) * file.n_completions]
            asked = models if len(rejected) < len(ids) * file.n_completions else models[1:]
            *said, chosen = (model.decode(model.answer(ids, first, generation, seed)) for model in asked)
            rejected = said[0] if said else rejected
            places = [(first + row, n) for row in range(len(ids)) for n in range(file.n_completions)]
            file.append([_record(prompts, *each) for each in zip(places, chosen, rejected, strict=True)])
            bar.update(n_each * len(ids))


def _check_different(base, aligned, prompt_ids):
    for ids in prompt_ids[:_N_COMPARED]:
        one, other = base.logits(ids), aligned.logits(ids)
        if one.shape != other.shape or not torch.equal(one, other.to(one)):
            return
    found = f"they give the same logits on {min(_N_COMPARED, len(prompt_ids))} prompts"
    advice = "(Training changes the loaded model that PEFT or TRL wraps: load the base again from its folder.)"
    raise ValueError(f"The aligned model is identical to the base model: {found}. Give two models. {advice}")


def _record(prompts, place, chosen, rejected):
    """A pair in TRL's preference format."""
    prompt, sides = prompts.given[place[0]], {"chosen": chosen, "rejected": rejected}
    if not isinstance(prompt, str):
        sides = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    return {"prompt": prompt, **sides, **dict(zip(_PLACE, place, strict=True))}


class _PairFile:
    """Pairs and the file where they lie: line k holds pair k, the first line the settings as well."""

    def __init__(self, path, n_completions):
        self.path, self.n_completions = _check_path(path), n_completions
        self.records = []
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        for number, line in enumerate(lines):
            if number and not line.endswith(b"\n"):
                break
            self.records.append(self._read(number, line))
        del self.records[self.n_prompts * n_completions :]
        self._size = sum(map(len, lines[: len(self.records)]))  # bytes that are read or written
        self.settings = self.records[0]["settings"] if self.records else None

    @property
    def n_prompts(self):
        """Prompts that are finished."""
        return len(self.records) // self.n_completions

    def _read(self, number, line):
        place = dict(zip(_PLACE, divmod(number, self.n_completions), strict=True))
        try:
            record = json.loads(line)
            if record.items() >= place.items() and (number or generation_settings(record)):
                return record
        except (ValueError, AttributeError):
            pass
        found = f"{self.path}, line {number + 1}: found {line[:60]!r}. Expected a generated pair ({place})"
        raise ValueError(f"{found}. Choose another path, or delete this line of a damaged file and those below.")

    def continue_with(self, settings):
        """Refuse a file of other settings; take off what was cut short."""
        if self.settings is None:
            self.settings = settings
        self.check_settings(settings)
        if self.path.exists() and self.path.stat().st_size > self._size:
            warn(f"The last lines of {self.path} were cut short: they are dropped and made again.")
            os.truncate(self.path, self._size)

    def check_settings(self, settings):
        """Refuse other settings than those of the file."""
        for name in settings:
            if name not in _MAY_DIFFER and self.settings.get(name) != settings[name]:
                found = f"{self.path} holds pairs that were made with {name}={self.settings.get(name)!r}"
                advice = (
                    "Call with the former, give the models in the same way (folder or loaded), or choose another path"
                )
                raise ValueError(f"{found}, but this call has {name}={settings[name]!r}. {advice}.")

    def append(self, records):
        """Write pairs behind those of the file."""
        if records and not self.records:
            records[0] = {"settings": self.settings, **records[0]}
        data = b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)
        try:
            with self.path.open("ab") as file:
                if file.tell() != self._size:
                    found = f"{self.path} changed while pairs were generated: another process writes to it"
                    raise RuntimeError(f"{found}. Let one of them finish, and call again to go on from its pairs.")
                file.write(data)
        except OSError as error:
            error.add_note(f"{self.path} holds {self.n_prompts} finished prompts; the same call goes on from them.")
            raise
        self._size += len(data)
        self.records += records


def _check_path(path):
    if not isinstance(path, (str, os.PathLike)) or Path(path).suffix not in (".jsonl", ".json"):
        raise ValueError(f"Found path={path!r}. Expected the name of a file that ends in .jsonl, or None.")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} in. Make it first.")
    return path


def pair_kinds(X, reference, y=None):
    """Count pairs by kind, rejected -> chosen: an output is toxic (T) if its reference reward is 0 or less, else NT.

    Parameters
    ----------
    X : array-like of str of shape (n_pairs, 2), or table
        The outputs. Prompts are not judged.
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
        If fewer than 100 pairs, or less than a tenth, are T->NT: the method gets worse where they are scarce (paper,
        limitations).

    Examples
    --------
    >>> from fairl_sk.generate import pair_kinds
    >>> def reference(texts):
    ...     return [-1.0 if "fool" in text else 1.0 for text in texts]
    >>> pair_kinds([["you are kind", "you fool"], ["well", "fine"]] * 100, reference)[0]
    {'kind': 'T->NT', 'pairs': 100, 'share': 0.5}
    """
    texts = read_texts(X, join=lambda _, output: to_text(output))
    if texts is None or texts.ndim != 2 or not len(texts):
        found = "no texts" if texts is None else f"texts of shape {texts.shape}"
        raise ValueError(f"Found {found}. Expected texts of shape (n_pairs, 2): pairs.data, for instance.")
    rewards = np.asarray(reference(texts.ravel()), dtype=np.float64)
    if rewards.shape != (texts.size,) or not np.isfinite(rewards).all():
        found = f"rewards of shape {rewards.shape}, {np.sum(~np.isfinite(rewards))} of them not finite"
        raise ValueError(f"The reference gave {found}, for {texts.size} texts. Expected a finite number for each text.")
    toxic = rewards.reshape(-1, 2) <= 0
    toxic = np.where(preference_sign(y, len(texts))[:, None] > 0, toxic, toxic[:, ::-1])  # the chosen output first
    counts = Counter(f"{'T' if rejected else 'NT'}->{'T' if chosen else 'NT'}" for chosen, rejected in toxic)
    kinds = [{"kind": kind, "pairs": counts[kind], "share": counts[kind] / len(texts)} for kind in PAIR_KINDS]
    if kinds[0]["pairs"] < _LEAST_PAIRS or kinds[0]["share"] < _LEAST_SHARE:
        found = f"Only {kinds[0]['pairs']} of {len(texts)} pairs are T->NT (rejected toxic, chosen not)"
        expected = f"{_LEAST_PAIRS} at least, and {_LEAST_SHARE:.0%} of the pairs"
        warn(f"{found}. Expected {expected}. Add prompts that the base model answers with toxic texts.")
    return kinds
