"""What one language model says: `generate_completions`, by the ``generate`` of transformers under a seed."""

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.utils import Bunch
from tqdm.auto import tqdm

from ..features.language import apply_chat_template, find_tokenizer
from ..features.loading import import_transformers
from ..messages import to_text
from .models import LanguageModel


def generate_completions(
    model,
    prompts,
    *,
    tokenizer=None,
    n_completions=1,
    max_new_tokens=64,
    batch_size=64,
    dtype="float32",
    device="cpu",
    random_state=0,
    verbose=False,
    **generation,
):
    """Let a causal language model continue each prompt.

    Tokens are drawn from the model's distribution; its own generation settings, such as a repetition penalty, do not
    count. A completion ends at any end token of the model or of the tokenizer.

    Parameters
    ----------
    model : str, path-like or model
        Folder or hub id of a Hugging Face causal language model or of a PEFT adapter, or a loaded model.
    prompts : sequence of str, or of lists of dict, of length n_prompts
        Texts, or conversations of messages, which go through the tokenizer's chat template.
    tokenizer : tokenizer, str or path-like, default=None
        None: the model's own; for a loaded model, the one at its ``name_or_path``.
    n_completions, max_new_tokens : int, default=1, 64
        Completions for each prompt, and the most tokens of one.
    batch_size : int, default=64
        Prompts in a batch, each with all its completions. Lower it where memory ends.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of a model that is loaded here.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where a model runs that is loaded here.
    random_state : int or None, default=0
        Seed: the same seed, prompts and batch size give the same texts. None: another seed each time.
    verbose : bool, default=False
        Show a progress bar over the completions.
    **generation
        Settings of transformers' ``GenerationConfig``, such as ``temperature``, ``top_p`` or ``min_new_tokens``.

    Returns
    -------
    Bunch
        ``texts`` (without special tokens) and ``token_ids`` (lists without the end token), ndarrays of shape
        (n_prompts, n_completions), and ``settings``, a dict that says how tokens were drawn, with the seed.

    Raises
    ------
    ValueError
        For prompts that are empty, no texts, or too long; for bad parameters; for logits that are not finite.
    OSError
        If model or tokenizer cannot be loaded, or do not belong together.
    ImportError
        Without transformers, or for an adapter without peft.
    """
    seed, settings = check_settings(random_state, batch_size, n_completions, max_new_tokens, generation)
    speaker = LanguageModel(model, "", dtype, device)
    prompts = Prompts.of(prompts, [speaker], tokenizer)
    speaker.load(prompts.tokenizer, prompts.ids, max_new_tokens)
    token_ids: list = []
    with progress_bar(len(prompts.ids) * n_completions, 0, verbose) as bar:
        for first in range(0, len(prompts.ids), batch_size):
            token_ids += speaker.answer(prompts.ids[first : first + batch_size], first, settings, seed)
            bar.update(len(token_ids) - bar.n)
    columns = {"texts": speaker.decode(token_ids), "token_ids": token_ids}
    columns = {k: np.fromiter(column, dtype=object).reshape(-1, n_completions) for k, column in columns.items()}
    return Bunch(**columns, settings={"seed": seed, **settings})


def progress_bar(total, initial, verbose):
    """A bar over completions."""
    return tqdm(total=total, initial=initial, desc="Generating", unit="completion", disable=not verbose)


def check_settings(random_state, batch_size, n_completions, max_new_tokens, generation):
    """The seed, and settings of transformers' GenerationConfig; ValueError for what is out of range or unknown."""
    if random_state is None:
        random_state = int(np.random.SeedSequence().generate_state(1)[0])
    numbers = {"batch_size": batch_size, "n_completions": n_completions, "max_new_tokens": max_new_tokens}
    for name, value in (numbers | {"random_state": random_state}).items():
        low = 0 if name == "random_state" else 1
        if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
            raise ValueError(f"Found {name}={value!r}. Expected a whole number of at least {low}.")
    transformers = import_transformers()
    unknown = sorted(name for name in generation if not hasattr(transformers.GenerationConfig(), name))
    if unknown:
        raise ValueError(f"Found {', '.join(unknown)}. Expected settings of transformers.GenerationConfig.")
    drawn = {"do_sample": True, "top_k": 0} if generation.get("do_sample", True) else {}
    sizes = {"max_new_tokens": int(max_new_tokens), "num_return_sequences": int(n_completions)}
    return int(random_state), drawn | sizes | generation


class Prompts(NamedTuple):
    """Prompts as given, as texts that models read, as the tokens of these, and the tokenizer that made them."""

    given: list
    texts: list
    ids: list
    tokenizer: object

    @classmethod
    def of(cls, prompts, models, tokenizer):
        """Prompts, checked, and encoded by the tokenizer of these models, or the one that is given."""
        prompts = _check_prompts(prompts)
        conversational, tokenizer = not isinstance(prompts[0], str), find_tokenizer(models, tokenizer)
        texts = [apply_chat_template(tokenizer, prompt) for prompt in prompts] if conversational else prompts
        ids = tokenizer(texts, add_special_tokens=not conversational, verbose=False)["input_ids"]
        for text, tokens in zip(texts, ids, strict=True):
            if not tokens:
                raise ValueError(f"The tokenizer finds no token in the prompt {text!r:.60}. Drop it.")
        return cls(prompts, texts, ids, tokenizer)


def _check_prompts(prompts):
    """The prompts as a list: all texts, or all conversations."""
    if isinstance(prompts, (str, bytes)) or not (isinstance(prompts, Sequence) or np.ndim(prompts) == 1):
        found = f"prompts of type {type(prompts).__name__}, {prompts!r:.60}"
        raise ValueError(f"Found {found}. Expected a list of texts or of conversations.")
    prompts = [str(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    if not prompts:
        raise ValueError("Found no prompts. Expected at least one.")
    for row, prompt in enumerate(prompts):
        text = to_text(prompt, where=f"prompt {row}")
        if isinstance(prompt, str) != isinstance(prompts[0], str):
            raise ValueError(f"Prompt 0 and prompt {row} are a text and a conversation. Expected all of one kind.")
        if not text.strip() or any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"Prompt {row} is empty or holds half a character: {prompt!r:.60}. Drop or repair it.")
        if not isinstance(prompt, str) and prompt[-1]["role"] == "assistant":
            raise ValueError(f"Prompt {row} ends with a message of the assistant. Expected one of the user, to answer.")
    return prompts
