"""Language models in, data for the audit out: pairs of their outputs, with what the models give these."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.utils import Bunch

from ..generate import generate_preference_pairs
from ..implicit import ImplicitReward
from ..implicit.models import aligned_models, base_model, common_tokenizer
from ..messages import TextTable

_STEP = re.compile(r"(?:checkpoint|step)-(\d+)")
N_TOKEN_OUTPUTS = 1000  # of the base model, whose tokens are scored one by one
_FILES = ("config.json", "adapter_config.json")  # one of them makes a folder a model


def find_checkpoints(folder):
    """The models that a folder holds: itself, or its subfolders ``checkpoint-N`` or ``step-N``.

    Parameters
    ----------
    folder : str or path-like
        A folder. A name that is no folder is taken for a model of the hub.

    Returns
    -------
    models : list of str
        In the order of N; the folder alone where it is a model or has no such subfolders.
    """
    path = Path(folder)
    if not path.is_dir() or any((path / name).exists() for name in _FILES):
        return [str(folder)]
    found = [each for each in path.iterdir() if each.is_dir() and _STEP.fullmatch(each.name)]
    return [str(each) for each in sorted(found, key=step_number)] or [str(folder)]


def step_number(name):
    """N of a folder ``checkpoint-N`` or ``step-N``, or None.

    Parameters
    ----------
    name : str or path-like

    Returns
    -------
    number : int or None
    """
    found = _STEP.fullmatch(Path(name).name)
    return int(found[1]) if found else None


def model_pairs(
    base,
    aligned,
    prompts,
    *,
    folder=None,
    n_completions=1,
    max_new_tokens=64,
    n_draws=5,
    device="cpu",
    store=None,
    random_state=0,
    verbose=False,
    **generation,
):
    """Let a base model and aligned models answer prompts, and score the outputs by both: data for `audit`.

    The pairs are those of the last aligned model. Earlier ones, such as checkpoints of one training, show how the
    reward came about. The end token of outputs counts if at least half of them end before nine tenths of
    ``max_new_tokens``.

    Parameters
    ----------
    base : str, path-like or model
        The model before alignment. See `generate_preference_pairs`.
    aligned : str, path-like, model, or list of them
        The model after alignment. Several: in the order of training. A folder without a model of its own stands for
        its subfolders ``checkpoint-N`` or ``step-N``.
    prompts : sequence of str, or of lists of dict
        See `fairl_sk.datasets.load_prompts`.
    folder : str or path-like, default=None
        Where the pairs are kept, in files ``pairs*.jsonl``: an interrupted call goes on from them. None: nowhere.
    n_completions, max_new_tokens : int, default=1, 64
        Outputs of each model for a prompt, and the most tokens of one.
    n_draws : int >= 5, default=5
        Draws of the null. See `ImplicitReward.null`.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where the models run.
    store : str, path-like or None, default=None
        Folder of the store for log-probabilities. None: they are kept for this call only.
    random_state : int, default=0
        Seed of the outputs and of the null.
    verbose : bool, default=False
        Show progress bars.
    **generation
        See `generate_preference_pairs`. ``min_new_tokens`` belongs to a training in which no output could end earlier.

    Returns
    -------
    Bunch
        What `load_preferences` returns, with ``implicit_rewards`` by the last model, and ``models``, a Bunch of

        - names : list of str, of the aligned models
        - implicit_rewards : ndarray of shape (n_models, n_pairs, 2)
        - null_rewards : ndarray of shape (n_draws, n_models, n_pairs), of the base model's outputs
        - kl : ndarray of shape (n_models, 2), the divergence of each aligned model from its base, in nats an output,
          and its standard error
        - base_kl : ndarray of shape (n_models, 2), the same of the base model from each aligned one
        - outputs : list of ndarray, the texts of each aligned model
        - tokens : Bunch, of a sample of the base model's outputs: ``tokens`` (n_tokens,), ``rows`` (their pairs), and
          their ``shares`` in the rewards by the last model and in its ``nulls``, (n_tokens,) and (n_draws, n_tokens)
        - prompts : ndarray of shape (n_pairs,), equal numbers for equal prompts
        - end_token : bool, whether the end token counted

    Raises
    ------
    ValueError, OSError, ImportError
        See `generate_preference_pairs` and `ImplicitReward.decision_function`.
    """
    if n_draws < 5:
        raise ValueError(f"Found n_draws={n_draws}. Expected 5 at least: fewer say little about the null.")
    models = aligned if isinstance(aligned, (list, tuple)) else [aligned]
    models = [each for one in models for each in (find_checkpoints(one) if isinstance(one, (str, Path)) else [one])]
    names = _names(models)
    scored = aligned_models(models, "float32", device)
    tokenizer = common_tokenizer([base_model(scored, base, "float32", device), *scored], None)
    with TemporaryDirectory() as temporary:
        folder, store = Path(temporary if folder is None else folder), temporary if store is None else store
        made, tables, first = [], [], None
        for name, model in zip(names, models, strict=True):
            path = folder / ("pairs.jsonl" if len(models) == 1 else f"pairs-{name}.jsonl")
            options = {"n_completions": n_completions, "max_new_tokens": max_new_tokens, "random_state": random_state}
            options |= {"path": path, "device": device, "verbose": verbose, **generation}
            options["base_outputs"], first = first, first or path
            try:
                made.append(generate_preference_pairs(base, model, prompts, **options))
            except ValueError as error:
                if len(models) == 1:
                    raise
                raise ValueError(f"Of base and {name}: {error}") from error
            tables.append(_as_table(path, made[-1].source_index))
        end_token = _mostly_ended(tokenizer, tables, generation.get("min_new_tokens", 0), max_new_tokens)
        options = {"end_token": end_token, "device": device, "store": store, "verbose": verbose}
        reward, table = ImplicitReward(models, base, **options), tables[-1]
        rewards = reward.model_rewards(table)
        outputs = TextTable(prompt=table["prompt"], completion=table["rejected"])
        null_rewards = reward.null(outputs, n_draws, random_state).null_rewards
        tokens = _token_shares(ImplicitReward(models[-1], base, **options), outputs, n_draws, random_state)
        kl = [ImplicitReward(one, base, **options).kl(own) for one, own in zip(models, tables, strict=True)]
    pairs = made[-1]
    rewards = np.where(pairs.target[:, None] == 1, rewards, rewards[..., ::-1])  # in the order of the shuffled sides
    found = Bunch(
        names=names,
        implicit_rewards=rewards,
        null_rewards=null_rewards,
        kl=np.array([[each.aligned[0], each.aligned_error[0]] for each in kl]),
        base_kl=np.array([[each.base[0], each.base_error[0]] for each in kl]),
        tokens=tokens,
        outputs=[own.data[np.arange(len(own.data)), 1 - own.target] for own in made],
        prompts=np.unique([json.dumps(prompt) for prompt in table["prompt"]], return_inverse=True)[1],
        end_token=end_token,
    )
    return Bunch(**{**pairs, "implicit_rewards": rewards[-1]}, models=found)


def _token_shares(reward, outputs, n_draws, random_state):
    """The tokens of a sample of outputs, and their shares in rewards and nulls."""
    n_outputs = len(outputs["prompt"])
    rows = np.sort(np.random.default_rng(random_state).permutation(n_outputs)[:N_TOKEN_OUTPUTS])
    sample = TextTable({name: [outputs[name][row] for row in rows] for name in outputs.columns})
    found, nulls = reward.token_rewards(sample), reward.null_token_rewards(sample, n_draws, random_state)
    tokens, shares = zip(*(each for output in found for each in output), strict=True)
    return Bunch(
        tokens=np.array(tokens, dtype=object),
        rows=np.repeat(rows, list(map(len, found))),
        shares=np.array(shares),
        nulls=np.concatenate(nulls, axis=-1)[:, 0],
    )


def _names(models):
    """A name for each model that no other has, of characters that a file's name can hold."""
    names = [Path(model).name if isinstance(model, (str, Path)) else "model" for model in models]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names, 1)]
    return [re.sub(r"[^\w.-]", "-", name) for name in names]


def _as_table(path, source_index):
    """Records of a file of pairs as a table, the outputs of messages as messages."""
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    return TextTable({name: [records[row][name] for row in source_index] for name in ("prompt", "chosen", "rejected")})


def _mostly_ended(tokenizer, tables, min_new_tokens, max_new_tokens):
    """Whether at least half of the outputs are clearly shorter than the most that a model may say."""
    texts = [text for table in tables for side in ("chosen", "rejected") for text in table[side]]
    if not isinstance(texts[0], str):
        return True  # the chat template writes the end
    if min_new_tokens >= max_new_tokens:
        return False
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return bool(np.mean([len(tokens) < 0.9 * max_new_tokens for tokens in ids]) >= 0.5)
