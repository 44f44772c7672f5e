"""Generated pairs: draws that are exact and do not depend on the batch, files that survive, clear words for bad input.

The models are tiny, random and saved in a temporary folder, with weights so large that they disagree.
"""

import errno
import json
import os
import random
import resource
import sys
import warnings
from contextlib import contextmanager

import datasets
import huggingface_hub.constants
import numpy as np
import pandas as pd
import peft
import pytest
import tokenizers
import torch
import transformers
from scipy.stats import chisquare

from fairl_sk import generate
from fairl_sk.datasets import load_preferences, make_detox_preferences
from fairl_sk.generate import PAIR_KINDS, generate_completions, generate_preference_pairs, pair_kinds

VOCABULARY = 300
KINDS = {
    "gpt2": transformers.GPT2Config,
    "gpt_neox": transformers.GPTNeoXConfig,
    "llama": transformers.LlamaConfig,
}
PROMPTS = [
    "How are you?",
    "The bench by the mill is green, and so",
    "Well",
    "What do you think of the quiet bakery at the harbour?",
    "Well",
    "Is it far?",
]
CHATS = [[{"role": "user", "content": "How are you?"}], [{"role": "user", "content": "Is it far to the old mill?"}]]
CHAT = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('No system.') }}{% endif %}"
    "{{ message.role + ': ' + message.content + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
SHORT = {"max_new_tokens": 6, "n_completions": 2}


# -------------------------------------------------------------------------------------------- tiny models


def make_tokenizer(size=VOCABULARY, **options):
    """Byte-level pairs, with the end token as id 0 and no pad token."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(make_detox_preferences(100, random_state=0).data.ravel(), trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", **options)


def make_model(kind="gpt_neox", seed=0, **options):
    """2 layers of 16."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = KINDS[kind](
        vocab_size=VOCABULARY, **sizes, **special, max_position_embeddings=64, initializer_range=0.4, **options
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def save(model, folder, tokenizer=None):
    """The folder of a saved model, and of its tokenizer if it has one."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bars:
        transformers.utils.logging.enable_progress_bar()
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def folders(tokenizer, tmp_path_factory):
    """Of a base and an aligned model."""
    folder = tmp_path_factory.mktemp("speakers")
    return tuple(save(make_model(seed=seed), folder / role, tokenizer) for seed, role in enumerate(("base", "aligned")))


@pytest.fixture
def models(tokenizer):
    """A base and an aligned model, loaded."""
    return make_model(seed=0), make_model(seed=1)


@pytest.fixture
def pairs(models, tokenizer):
    """`generate_preference_pairs` of small models and few tokens."""

    def generate_pairs(prompts=PROMPTS, **options):
        return generate_preference_pairs(*models, prompts, **{"tokenizer": tokenizer, **SHORT, **options})

    return generate_pairs


@contextmanager
def counted(*models):
    """Shapes of the prompts that reach the models, one for each batch, and for each check of a single prompt."""
    shapes = []

    def see(_, arguments, keywords):
        if keywords["input_ids"].shape[1] > 1:
            shapes.append(tuple(keywords["input_ids"].shape))

    hooks = [model.register_forward_pre_hook(see, with_kwargs=True) for model in models]
    try:
        yield shapes
    finally:
        for hook in hooks:
            hook.remove()


def numpy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002


def assert_same(one, other):
    """All that `load_preferences` returns is equal, but for where it came from."""
    for name in ("data", "target", "prompt", "groups", "source_index"):
        np.testing.assert_array_equal(one[name], other[name])
    assert (one.dropped, one.format) == (other.dropped, other.format)


# ------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("kind", KINDS)
def test_texts_do_not_depend_on_the_batch(kind, tokenizer):
    model = make_model(kind)
    options = {"tokenizer": tokenizer, "max_new_tokens": 8, "n_completions": 2}
    whole = generate_completions(model, PROMPTS, **options)
    for batch_tokens in (1, 60, 200):
        other = generate_completions(model, PROMPTS, batch_tokens=batch_tokens, **options)
        np.testing.assert_array_equal(other.texts, whole.texts)
        np.testing.assert_array_equal(other.n_tokens, whole.n_tokens)
    distinct = [0, 1, 2, 3, 5]
    other = generate_completions(model, [PROMPTS[row] for row in distinct[::-1]], **options)
    np.testing.assert_array_equal(other.texts[::-1], whole.texts[distinct])
    assert len({*whole.texts.ravel()}) == 12  # also of the prompt that occurs twice


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_texts_are_those_of_transformers(kind, tokenizer):
    """Each prompt on its own and without padding, there; all in a batch, padded on the left, here."""
    model = make_model(kind)
    found = generate_completions(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=10, temperature=0).texts
    for prompt, (text,) in zip(PROMPTS, found, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        said = model.generate(**ids, max_new_tokens=10, do_sample=False, pad_token_id=0)[0, ids["input_ids"].shape[1] :]
        assert text == tokenizer.decode(said, skip_special_tokens=True)


def test_the_seed_decides(models, tokenizer):
    def texts(**options):
        return generate_completions(models[0], PROMPTS, tokenizer=tokenizer, **SHORT, **options)

    assert (texts().texts == texts(random_state=0).texts).all()
    assert (texts().texts != texts(random_state=1).texts).mean() > 0.9
    free = texts(random_state=None)
    assert (free.texts != texts(random_state=None).texts).mean() > 0.9
    assert (free.texts == texts(random_state=free.settings["seed"]).texts).all()


def test_more_completions_begin_with_the_fewer(models, tokenizer):
    few, more = (
        generate_completions(models[0], PROMPTS, tokenizer=tokenizer, max_new_tokens=4, n_completions=n).texts
        for n in (1, 3)
    )
    np.testing.assert_array_equal(few[:, 0], more[:, 0])


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.6}, {"top_k": 6}, {"top_p": 0.5}, {"temperature": 1.5, "top_k": 20, "top_p": 0.8}]
)
def test_first_tokens_are_drawn_from_the_models_distribution(models, tokenizer, options):
    """The frequencies of 4,000 first tokens against softmax, by a chi-square test; nothing outside top k and top p."""
    prompt, n_draws = PROMPTS[3], 4000
    logits = models[0](**tokenizer(prompt, return_tensors="pt")).logits[:, -1].detach() / options.get("temperature", 1)
    logits = logits[0].numpy().astype(float)
    if "top_k" in options:
        logits[logits < np.sort(logits)[-options["top_k"]]] = -np.inf
    chance = np.exp(logits - logits.max())
    chance /= chance.sum()
    if "top_p" in options:
        order = np.argsort(-chance)
        chance[order[np.cumsum(chance[order]) - chance[order] >= options["top_p"]]] = 0
        chance /= chance.sum()
    expected = (
        pd.Series(chance * n_draws).groupby([tokenizer.decode([v]) if v else "" for v in range(VOCABULARY)]).sum()
    )
    found = generate_completions(
        models[0], [prompt], tokenizer=tokenizer, n_completions=n_draws, max_new_tokens=1, batch_tokens=10**6, **options
    ).texts.ravel()
    counts = pd.Series(found).value_counts().reindex(expected.index, fill_value=0)
    assert counts[expected == 0].sum() == 0 and counts.sum() == n_draws
    rare = expected < 5
    groups = np.where(rare, "rare", expected.index)
    observed, wanted = counts.groupby(groups).sum(), expected.groupby(groups).sum()
    kept = wanted > 0
    assert kept.sum() > 2
    assert chisquare(observed[kept], wanted[kept]).pvalue > 1e-3


def test_completions_are_independent_of_each_other(models, tokenizer):
    """Base and aligned models draw apart: the same model in both roles says other things."""
    pair = generate._load_pair(
        [generate._find_source(models[0], role, "float32") for role in ("base", "aligned")], tokenizer, "cpu", None
    )
    prompts = generate._encode_prompts(PROMPTS, tokenizer)
    sampling = generate._check_sampling(1, 6, 0, 1.0, None, 1.0, 0, None, "float32")
    with generate._bar(12, 0, False) as bar:
        rows = [(row, 0) for row in range(6)]
        one, other = (generate._complete(s, prompts, rows, sampling, bar) for s in pair)
    assert all(a.text != b.text for a, b in zip(one, other, strict=True))


def test_random_states_and_the_model_are_left_alone(models, tokenizer):
    model = models[0].train()
    model.gpt_neox.layers[0].eval()
    habits, modes = model.generation_config, [part.training for part in model.modules()]
    verbosity = transformers.utils.logging.get_verbosity()
    before = random.getstate(), numpy_state(), torch.get_rng_state()
    generate_completions(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=4)
    assert random.getstate() == before[0] and numpy_state() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert model.generation_config is habits and [part.training for part in model.modules()] == modes
    assert transformers.utils.logging.get_verbosity() == verbosity


def test_loading_leaves_random_states_alone(folders):
    before = torch.get_rng_state()
    generate_completions(folders[0], PROMPTS, max_new_tokens=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_models_own_habits_do_not_count(models, tokenizer):
    def texts(**options):
        return generate_completions(models[0], PROMPTS, tokenizer=tokenizer, max_new_tokens=8, **options).texts

    plain, greedy = texts(), texts(temperature=0)
    habits = {"repetition_penalty": 9.0, "do_sample": True, "temperature": 0.1, "suppress_tokens": list(range(1, 200))}
    models[0].generation_config.update(**habits, max_length=3, no_repeat_ngram_size=1)
    np.testing.assert_array_equal(texts(), plain)
    np.testing.assert_array_equal(texts(temperature=0), greedy)


def test_dropout_is_off(tokenizer):
    noisy = make_model(hidden_dropout=0.9, attention_dropout=0.9)
    found = generate_completions(noisy.train(), PROMPTS, tokenizer=tokenizer, max_new_tokens=5).texts
    np.testing.assert_array_equal(
        found, generate_completions(make_model(), PROMPTS, tokenizer=tokenizer, max_new_tokens=5).texts
    )


# ----------------------------------------------------------------------------------------- ends and lengths


@pytest.fixture(params=["no pad token", "pad is end", "pad is its own", "pad is unknown to the model"])
def padding(request, tokenizer):
    pads = {
        "no pad token": {},
        "pad is end": {"pad_token": "<end>"},
        "pad is its own": {"pad_token": "\u0100"},
        "pad is unknown to the model": {"pad_token": "<pad>"},  # added to a tokenizer, but to no embeddings
    }
    return make_tokenizer(padding_side="right", **pads[request.param])


def test_a_completion_ends_at_the_first_of_several_end_tokens(models, tokenizer, padding):
    """Whatever the pad token is; the end token is no part of the text."""
    model = models[0]
    ends = list(range(0, VOCABULARY, 4))
    model.generation_config.eos_token_id = ends
    options = {"max_new_tokens": 10, "n_completions": 4}
    found = generate_completions(model, PROMPTS, tokenizer=padding, **options)
    model.generation_config.eos_token_id = None
    tokenizer_alone = make_tokenizer()
    tokenizer_alone.eos_token = None
    endless = generate_completions(model, PROMPTS, tokenizer=tokenizer_alone, **options)
    assert not endless.ended.any() and (endless.n_tokens == 10).all()
    assert found.ended.any() and not found.ended.all() and 0 < found.n_tokens.mean() < 9
    assert (found.n_tokens[~found.ended] == 10).all() and (found.n_tokens[found.ended] < 10).all()
    for text, whole in zip(found.texts.ravel(), endless.texts.ravel(), strict=True):
        assert whole.startswith(text.rstrip("\N{REPLACEMENT CHARACTER}"))


def test_the_end_token_of_the_tokenizer_ends_too(models, tokenizer):
    models[0].generation_config.eos_token_id = None
    likeliest = models[0](**tokenizer(PROMPTS[0], return_tensors="pt")).logits[0, -1].argmax()
    own = make_tokenizer()
    own.eos_token = own.convert_ids_to_tokens(int(likeliest))
    found = generate_completions(models[0], PROMPTS[:1], tokenizer=own, max_new_tokens=9, temperature=0)
    assert (found.texts[0, 0], found.n_tokens[0, 0], found.ended[0, 0]) == ("", 0, True)


def test_all_completions_can_have_the_same_length(models, tokenizer):
    models[0].generation_config.eos_token_id = list(range(0, VOCABULARY, 2))
    options = {"tokenizer": tokenizer, "max_new_tokens": 7}
    found = generate_completions(models[0], PROMPTS, min_new_tokens=7, **options)
    assert (found.n_tokens == 7).all() and not found.ended.any()
    decoded = tokenizer.batch_decode(found.token_ids.ravel().tolist(), skip_special_tokens=True)
    assert decoded == found.texts.ravel().tolist()
    found = generate_completions(models[0], PROMPTS, min_new_tokens=3, **options)
    assert (found.n_tokens >= 3).all() and found.ended.any()


# --------------------------------------------------------------------------------------------------- pairs


def test_pairs_hold_what_each_model_says(models, tokenizer, pairs):
    found = pairs()
    assert found.data.shape == (12, 2) and found.n_identical == 0 and found.kinds is None
    sides = [np.where(found.target[:, None] == side, found.data, found.data[:, ::-1])[:, 0] for side in (1, 0)]
    for model, side in zip(models[::-1], sides, strict=True):
        assert all(isinstance(text, str) for text in side)
        greedy = generate_completions(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=6, temperature=0)
        assert len(side) == 2 * len(greedy.texts)
    greedy = pairs(temperature=0, n_completions=1)
    chosen = np.where(greedy.target == 1, greedy.data[:, 0], greedy.data[:, 1])
    for model, column in ((models[1], chosen), (models[0], greedy.data[np.arange(6), greedy.target])):
        expected = generate_completions(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=6, temperature=0).texts
        np.testing.assert_array_equal(column, expected[:, 0])
    assert list(found.prompt) == [prompt for prompt in PROMPTS for _ in range(2)]
    assert len(set(found.groups)) == 5


@pytest.mark.parametrize("batch_tokens", [1, 50, None])
def test_pairs_do_not_depend_on_the_batch(pairs, batch_tokens):
    assert_same(pairs(batch_tokens=batch_tokens), pairs(batch_tokens=100))


def test_settings_say_what_pairs_depend_on(pairs, folders, tokenizer):
    settings = pairs(top_k=50, temperature=0.9, random_state=3).settings
    assert json.loads(json.dumps(settings)) == settings
    expected = {"top_k": 50, "temperature": 0.9, "seed": 3, "n_completions": 2, "max_new_tokens": 6, "n_prompts": 6}
    assert settings.items() >= {**expected, "top_p": 1.0, "min_new_tokens": 0, "base_dtype": "float32"}.items()
    assert set(settings["versions"]) == {"fairl-sk", "torch", "transformers"}
    from_folders = generate_preference_pairs(*folders, PROMPTS, **SHORT)
    assert (from_folders.settings["base"], from_folders.settings["aligned"]) == ("base", "aligned")
    assert os.sep not in json.dumps(from_folders.settings)
    assert_same(from_folders, pairs())  # loaded, or by its folder: the same model


def test_identical_completions_are_counted_and_dropped_on_request(models, pairs, tmp_path):
    for model in models:
        model.generation_config.eos_token_id = list(range(0, VOCABULARY, 3))
    options = {"prompts": PROMPTS * 4, "max_new_tokens": 1, "top_k": 4, "min_new_tokens": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = pairs(**options, path=tmp_path / "kept.jsonl")
    same = kept.data[:, 0] == kept.data[:, 1]
    assert 0 < kept.n_identical < 48 and same.sum() == kept.n_identical and len(kept.data) == 48
    assert [str(warning.message) for warning in caught] == [
        f"{kept.n_identical} of 48 pairs are identical, and no reward can be learned from them. Raise max_new_tokens "
        "or temperature, or pass drop_identical=True."
    ]
    dropped = pairs(**options, drop_identical=True, path=tmp_path / "dropped.jsonl")
    assert dropped.n_identical == kept.n_identical and len(dropped.data) == 48 - kept.n_identical
    assert (dropped.data[:, 0] != dropped.data[:, 1]).all()
    assert_same(dropped, pairs(**options, drop_identical=True))
    assert_same(dropped, load_preferences(tmp_path / "dropped.jsonl"))
    with counted(*models) as calls:
        assert_same(pairs(**options, drop_identical=True, path=tmp_path / "dropped.jsonl"), dropped)
    assert not calls and sorted(os.listdir(tmp_path)) == ["dropped.jsonl", "kept.jsonl"]


def test_empty_completions_are_left_out_and_counted(models, pairs):
    models[0].generation_config.eos_token_id = list(range(0, VOCABULARY, 2))
    found = pairs(PROMPTS * 2)
    assert found.dropped["empty text"] > 0 and len(found.data) == 24 - found.dropped["empty text"]


def test_pairs_that_are_all_identical_are_said_to_be(models, pairs):
    """Models that differ, and yet say the same."""
    models[1].load_state_dict(models[0].state_dict())
    with torch.no_grad():
        models[1].lm_head.weight.mul_(1.5)
    with pytest.raises(ValueError, match="All 6 pairs are identical: the aligned model says .* raise max_new_tokens"):
        pairs(temperature=0, n_completions=1)


def test_conversations_go_through_the_chat_template(models, tmp_path):
    chatty = make_tokenizer()
    chatty.chat_template = CHAT
    options = {"tokenizer": chatty, **SHORT}
    texts = ["user: How are you?<end>assistant:", "user: Is it far to the old mill?<end>assistant:"]
    plain = generate_completions(models[0], texts, **options)
    np.testing.assert_array_equal(generate_completions(models[0], CHATS, **options).texts, plain.texts)
    found = generate_preference_pairs(*models, CHATS, path=tmp_path / "pairs.jsonl", **options)
    assert list(found.prompt) == ["How are you?"] * 2 + ["Is it far to the old mill?"] * 2
    assert_same(found, load_preferences(tmp_path / "pairs.jsonl"))
    assert_same(found, generate_preference_pairs(*models, CHATS, **options))
    row = datasets.load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), cache_dir=tmp_path)["train"][0]
    assert row["prompt"] == CHATS[0] and row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"
    with pytest.raises(ValueError, match=r"roles system \(No system.\). Change the messages"):
        generate_completions(models[0], [[{"role": "system", "content": "Be kind."}]], **options)


def test_the_chat_template_may_be_the_aligned_ones(tmp_path, tokenizer):
    chatty = make_tokenizer()
    chatty.chat_template = CHAT
    base, aligned = (
        save(make_model(seed=seed), tmp_path / name, own)
        for seed, (name, own) in enumerate((("base", tokenizer), ("aligned", chatty)))
    )
    found = generate_preference_pairs(base, aligned, CHATS, **SHORT)
    assert_same(found, generate_preference_pairs(base, aligned, CHATS, tokenizer=chatty, **SHORT))


def test_prompts_come_in_any_sequence(pairs):
    expected = pairs()
    for prompts in (tuple(PROMPTS), np.array(PROMPTS), pd.Series(PROMPTS, index=range(6, 0, -1))):
        assert_same(pairs(prompts), expected)
    assert_same(pairs(datasets.Dataset.from_dict({"prompt": PROMPTS})["prompt"]), expected)


def test_progress_is_shown_on_request(pairs, capfd):
    pairs()
    assert capfd.readouterr().err == ""
    pairs(verbose=True)
    assert "24/24" in capfd.readouterr().err


def test_out_of_memory_halves_the_batch(models, tokenizer, monkeypatch):
    expected = generate_completions(models[0], PROMPTS, tokenizer=tokenizer, **SHORT).texts
    sizes, real = [], generate._complete_batch

    def limited(speaker, prompts, rows, *others):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return real(speaker, prompts, rows, *others)

    monkeypatch.setattr(generate, "_complete_batch", limited)
    found = generate_completions(models[0], PROMPTS, tokenizer=tokenizer, **SHORT).texts
    np.testing.assert_array_equal(found, expected)
    assert sizes[:3] == [12, 6, 3]

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(generate, "_complete_batch", full)
    with pytest.raises(MemoryError, match="A single prompt and its completion, .* tokens, do not fit"):
        generate_completions(models[0], PROMPTS, tokenizer=tokenizer, **SHORT)

    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(generate, "_complete_batch", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        generate_completions(models[0], PROMPTS, tokenizer=tokenizer, **SHORT)


def test_each_model_runs_out_of_memory_once(models, pairs, monkeypatch):
    """And not again with each chunk of prompts."""
    failed, real = [], generate._complete_batch

    def limited(speaker, prompts, rows, sampling):
        if len(rows) * (max(len(prompts.ids[prompt]) for prompt, _ in rows) + sampling.max_new_tokens) > 100:
            failed.append(speaker.role)
            raise torch.OutOfMemoryError("out of memory")
        return real(speaker, prompts, rows, sampling)

    monkeypatch.setattr(generate, "_complete_batch", limited)
    monkeypatch.setattr(generate, "_CHUNK", 1)
    assert len(pairs(PROMPTS * 4, batch_tokens=150).data) == 48
    assert sorted(failed) == ["aligned", "base"]


# ---------------------------------------------------------------------------------------------------- PEFT


def adapted(model, std=0.5):
    """A model with an adapter that changes what it says."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "down_proj"])
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft asks transformers for it
        torch.manual_seed(0)
        wrapped = peft.get_peft_model(model, config)
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=std)
    return wrapped.eval()


def test_adapters_as_folder_as_object_and_around_the_base(tmp_path, tokenizer):
    base = save(make_model("llama"), tmp_path / "base", tokenizer)

    def load():
        return transformers.AutoModelForCausalLM.from_pretrained(base)

    wrapped = adapted(load())
    adapter = save(wrapped, tmp_path / "adapter")
    options = {"prompts": PROMPTS, **SHORT}
    from_folder = generate_preference_pairs(base, adapter, path=tmp_path / "pairs.jsonl", **options)
    assert " on " in from_folder.settings["aligned_weights"]
    assert_same(generate_preference_pairs(load(), wrapped, tokenizer=tokenizer, **options), from_folder)
    habits = dict(vars(wrapped)), wrapped.generation_config
    around = generate_preference_pairs(wrapped.get_base_model(), wrapped, tokenizer=tokenizer, **options)
    assert_same(around, from_folder)
    assert habits[0].keys() == vars(wrapped).keys() and wrapped.generation_config is habits[1]
    alone = generate_completions(base, PROMPTS, **SHORT).texts
    rejected = from_folder.data[np.arange(12), from_folder.target]
    assert len(rejected) == alone.size
    wrapped = generate_completions(adapter, PROMPTS, tokenizer=base, **SHORT).texts
    assert (alone != wrapped).mean() > 0.5


def test_an_adapter_that_does_nothing_is_the_base(tokenizer):
    wrapped = adapted(make_model("llama"), std=0)
    with pytest.raises(ValueError, match="aligned model is identical .* same logits on 4 prompts"):
        generate_preference_pairs(make_model("llama"), wrapped, PROMPTS, tokenizer=tokenizer, **SHORT)


def test_without_peft_an_adapter_names_it(tmp_path, tokenizer, monkeypatch):
    base = save(make_model("llama"), tmp_path / "base", tokenizer)
    adapter = save(adapted(transformers.AutoModelForCausalLM.from_pretrained(base)), tmp_path / "adapter")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="adapter holds a PEFT adapter, which needs peft: pip install peft"):
        generate_completions(adapter, PROMPTS, tokenizer=tokenizer, **SHORT)


# ---------------------------------------------------------------------------------------------------- file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pairs.jsonl"


@pytest.fixture
def short_chunks(monkeypatch):
    """A write after each prompt."""
    monkeypatch.setattr(generate, "_CHUNK", 0)


def test_the_file_is_read_back_as_it_was_returned(pairs, path):
    found = pairs(path=path)
    again = load_preferences(path)
    assert_same(found, again)
    assert_same(found, pairs())
    assert again.provenance == found.provenance and again.provenance["settings"] == found.settings
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 12 and list(lines[0]) == [
        "settings", "prompt", "chosen", "rejected", "prompt_index", "completion",
    ]  # fmt: skip
    assert [(line["prompt_index"], line["completion"]) for line in lines] == [
        (i, c) for i in range(6) for c in range(2)
    ]


def test_the_file_is_a_preference_dataset(pairs, path, tmp_path):
    found = pairs(path=path)
    table = datasets.load_dataset("json", data_files=str(path), cache_dir=str(tmp_path / "cache"), chunksize=500)
    rows = table["train"]
    assert rows["prompt"] == list(found.prompt) and rows[0]["settings"]["seed"] == 0 and rows[11]["settings"] is None
    chosen = np.where(found.target == 1, found.data[:, 0], found.data[:, 1])
    assert rows["chosen"] == list(chosen)


def test_an_interrupt_loses_no_finished_prompt(models, pairs, path, short_chunks, monkeypatch):
    whole = pairs()
    real, n_calls = generate._complete, []

    def interrupted(*arguments):
        n_calls.append(1)
        if len(n_calls) == 6:  # the aligned model's answers to the third prompt
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(generate, "_complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pairs(path=path)
    assert len(path.read_text().splitlines()) == 4
    monkeypatch.setattr(generate, "_complete", real)
    with counted(*models) as calls:
        assert_same(pairs(path=path), whole)
    assert sum(shape[0] == 2 for shape in calls) == 8  # two models, four prompts; single rows are the checks
    with counted(*models) as calls:
        assert_same(pairs(path=path), whole)
    assert not calls


def test_of_a_finished_file_no_model_is_loaded(folders, path, monkeypatch):
    found = generate_preference_pairs(*folders, PROMPTS, path=path, **SHORT)
    monkeypatch.setattr(generate, "_load_model", None)
    assert_same(generate_preference_pairs(*folders, PROMPTS, path=path, **SHORT), found)


@pytest.mark.parametrize("keep", [5, 300, 0.4, 0.8, -1])
def test_a_file_that_was_cut_is_mended(pairs, path, keep):
    """In the first line, later, or just before the last line break."""
    found = pairs(path=path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if 0 < keep < 1 else keep])
    with pytest.warns(UserWarning, match=r"The last [123] lines of .*pairs.jsonl were cut short"):
        assert_same(pairs(path=path), found)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.5}, "made with temperature=1.0, but this call has temperature=0.5. Call with the former"),
        ({"random_state": 1}, "seed=0, but this call has seed=1"),
        ({"max_new_tokens": 5}, "max_new_tokens=6, but"),
        ({"drop_identical": True}, "drop_identical=False, but"),
        ({"prompts": [*PROMPTS[:-1], "Else?"]}, "prompts='"),
        ({"prompts": PROMPTS[:-1]}, "n_prompts=6, but this call has n_prompts=5"),
    ],
)
def test_a_file_of_other_settings_is_not_continued(pairs, path, options, message):
    pairs(path=path)
    data = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        pairs(path=path, **options)
    assert path.read_bytes() == data


def test_a_file_of_other_models_is_not_continued(models, tokenizer, pairs, path):
    pairs(path=path)
    with pytest.raises(ValueError, match="aligned_weights='.* counts as the same if it is given in the same way"):
        generate_preference_pairs(models[0], make_model(seed=2), PROMPTS, tokenizer=tokenizer, path=path, **SHORT)


def test_batches_and_a_free_seed_do_continue_a_file(pairs, path):
    found = pairs(path=path, random_state=None)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    assert_same(pairs(path=path, random_state=None, batch_tokens=20), found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "exists, but does not hold generated pairs"),
        ('{"settings": 3}\n', "exists, but does not hold generated pairs"),
        ("some notes\n", "exists, but does not hold generated pairs"),
        ("some notes", "exists, but does not hold generated pairs"),
    ],
)
def test_a_foreign_file_is_left_alone(pairs, path, text, message):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        pairs(path=path)
    assert path.read_text() == text


def test_a_damaged_file_names_the_line(pairs, path):
    pairs(path=path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "{}\n", *lines[4:]]))
    with pytest.raises(ValueError, match=r"pairs.jsonl, line 4: found b'\{\}', which is no pair. .* delete this line"):
        pairs(path=path)
    path.write_text("".join([*lines[:3], *lines[4:]]))
    with pytest.raises(ValueError, match="line 4: found completion 0 of prompt 2. Expected them in order"):
        pairs(path=path)


def test_a_full_disk_keeps_what_is_finished(pairs, path, short_chunks):
    """A limit on the size of files ends the writing half-way through a line, as a full disk does."""
    whole = pairs(path=path)
    data = path.read_bytes()
    path.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(0.7 * len(data)), hard))
    try:
        with pytest.raises(OSError, match=r"Cannot write .*pairs.jsonl \(File too large\). It holds [1-5] finished"):
            pairs(path=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert data.startswith(path.read_bytes()) and path.read_bytes().endswith(b"\n")
    assert_same(pairs(path=path), whole)
    assert path.read_bytes() == data


def test_a_full_disk_while_identical_pairs_are_taken_out(pairs, path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(generate.os, "replace", full)
        pairs(path=path, drop_identical=True)
    assert os.listdir(path.parent) == ["pairs.jsonl"]
    assert len(pairs(path=path, drop_identical=True).data) == 12


@pytest.mark.parametrize("n_kept", [0, 2, 6])
def test_two_processes_do_not_write_to_one_file(n_kept, pairs, path, short_chunks, monkeypatch):
    """The other one is behind, ahead or has begun anew; whatever it wrote stays, and is no mixture."""
    whole = pairs(path=path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    real, n_calls = generate._complete, []

    def beside_another(*arguments):
        n_calls.append(1)
        if len(n_calls) == 5:  # two prompts are written
            path.write_bytes(b"".join(lines[:n_kept]))
        return real(*arguments)

    monkeypatch.setattr(generate, "_complete", beside_another)
    with pytest.raises(RuntimeError, match=r"pairs.jsonl changed while .*: another process writes to it. Let one"):
        pairs(path=path)
    assert path.read_bytes() == b"".join(lines[:n_kept])
    assert_same(pairs(path=path), whole)


def test_a_cut_line_behind_a_finished_file_is_taken_off(pairs, path):
    found = pairs(path=path)
    data = path.read_bytes()
    path.write_bytes(data + b'{"prompt": "Wel')
    with pytest.warns(UserWarning, match="The last 1 lines of .* were cut short"):
        assert_same(pairs(path=path), found)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none/pairs.jsonl", FileNotFoundError, "There is no folder .*none to write pairs.jsonl in. Make it first"),
        ("pairs.csv", ValueError, "Expected the name of a file that ends in .jsonl"),
        ("folder.json", ValueError, "Found the folder path=.* Expected a file"),
    ],
)
def test_a_path_that_cannot_be_written(pairs, tmp_path, name, error, message):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(error, match=message):
        pairs(path=tmp_path / name)
    with pytest.raises(ValueError, match="Found path=3"):
        pairs(path=3)


def test_what_cannot_be_opened_is_said_before_a_model_speaks(pairs, models, path, monkeypatch):
    real = type(path).open

    def refuse(file, *arguments, **options):
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(file, *arguments, **options)

    monkeypatch.setattr(type(path), "open", refuse)
    with counted(*models) as calls, pytest.raises(OSError, match=r"Cannot write .* \(Permission denied\)"):
        pairs(path=path)
    assert not [shape for shape in calls if shape[0] > 1]


# -------------------------------------------------------------------------------------------------- kinds


def known(texts):
    return [-1.0 if "fool" in text else 1.0 for text in texts]


def many(n_toxic_rejected, n_others):
    return [["you are kind", "you fool"]] * n_toxic_rejected + [["well", "fine"]] * n_others


def test_kinds_are_counted_from_rejected_to_chosen():
    X = many(200, 100) + [["a fool", "no fool"]] * 60 + [["you fool", "you are kind"]] * 40
    kinds = pair_kinds(X, known)
    assert [row["kind"] for row in kinds] == list(PAIR_KINDS) == ["T->NT", "NT->NT", "T->T", "NT->T"]
    assert [row["pairs"] for row in kinds] == [200, 100, 60, 40]
    assert [row["share"] for row in kinds] == [0.5, 0.25, 0.15, 0.1]
    swapped = pair_kinds([row[::-1] for row in X], known, y=np.zeros(400))
    assert swapped == kinds
    table = pd.DataFrame(X, columns=["chosen", "rejected"]).assign(prompt="What a fool?")
    assert pair_kinds(table, known) == kinds  # the prompt is not judged
    with pytest.warns(UserWarning, match="Only 0 of 200"):  # a reward of 0 is not above 0
        zero = pair_kinds(many(200, 0), lambda texts: np.minimum(known(texts), 0))
    assert zero[2]["pairs"] == 200


def test_kinds_of_the_corpus_are_those_it_was_made_with():
    corpus = make_detox_preferences(300, random_state=0)
    truth = dict(zip(corpus.data.ravel(), corpus.reference_reward.ravel(), strict=True))
    kinds = pair_kinds(corpus.data, lambda texts: [truth[text] for text in texts], corpus.target)
    assert [row["pairs"] for row in kinds] == [(corpus.kinds == kind).sum() for kind in PAIR_KINDS]


@pytest.mark.parametrize(("n_toxic", "n_others"), [(99, 0), (100, 901), (0, 500)])
def test_too_few_pairs_to_learn_from_are_warned_about(n_toxic, n_others):
    with pytest.warns(UserWarning, match=rf"Only {n_toxic} of {n_toxic + n_others} pairs are T->NT .* Add prompts"):
        pair_kinds(many(n_toxic, n_others), known)


def test_enough_pairs_to_learn_from():
    pair_kinds(many(100, 900), known)


@pytest.mark.parametrize(
    ("X", "reference", "message"),
    [
        (["a", "b"], known, r"Found texts of shape \(2,\). Expected texts of shape \(n_pairs, 2\)"),
        (np.zeros((3, 2, 4)), known, "Found no texts"),
        (many(1, 1), lambda texts: [0.0], r"rewards of shape \(1,\), 0 of them not finite, for 4 texts"),
        (many(1, 1), lambda texts: [np.nan] * 4, "4 of them not finite"),
    ],
)
def test_kinds_of_something_else(X, reference, message):
    with pytest.raises(ValueError, match=message):
        pair_kinds(X, reference)


def test_generated_pairs_come_with_their_kinds(pairs):
    with pytest.warns(UserWarning, match="Only .* of 12 pairs are T->NT"):
        found = pairs(reference=lambda texts: [len(text) - 8.5 for text in texts])
    assert sum(row["pairs"] for row in found.kinds) == 12


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("How are you?", "Found prompts of type str, 'How are you.'. Expected a list of texts"),
        (None, "Found prompts of type NoneType"),
        (3, "Found prompts of type int"),
        ({"prompt": ["a"]}, "Found prompts of type dict"),
        (pd.DataFrame({"prompt": ["a"]}), "Found prompts of type DataFrame"),
        ([], "Found no prompts. Expected at least one"),
        (["Well", ""], "Prompt 1 is empty"),
        (["Well", " \n\t"], "Prompt 1 is empty .or white space only.: ' .n.t'"),
        ([None, "Well"], "Found NoneType None as prompt 0. Expected a list of messages"),
        (["Well", None], "Found NoneType None as prompt 1. Expected a text"),
        (["Well", np.nan], "Found float nan as prompt 1"),
        (["Well", CHATS[0]], "Found list .* as prompt 1. Expected a text"),
        ([CHATS[0], "Well"], "Found str 'Well' as prompt 1. Expected a list of messages"),
        ([[]], "Prompt 0 is empty"),
        (["Well", "\ud800"], "Prompt 1 holds half of a character"),
        ([[*CHATS[0], {"role": "assistant", "content": "Well."}]], "Prompt 0 ends with a message of the assistant"),
        (CHATS, "the tokenizer has no chat template. Set tokenizer.chat_template"),
        (
            ["Well " * 60, "Well"],
            r"Prompt 0 is too long for the .*model \(1 of 2 are\): \d+ tokens and max_new_tokens=6 are",
        ),
    ],
)
def test_bad_prompts(models, tokenizer, pairs, prompts, message):
    with pytest.raises(ValueError, match=message):
        pairs(prompts)
    with pytest.raises(ValueError, match=message):
        generate_completions(models[0], prompts, tokenizer=tokenizer, **SHORT)


def test_the_longest_prompt_that_fits_is_answered(models, tokenizer):
    n_tokens = len(tokenizer(PROMPTS[3])["input_ids"])
    fits = {"tokenizer": tokenizer, "max_new_tokens": 64 - n_tokens, "temperature": 0}
    assert generate_completions(models[0], [PROMPTS[3]], **fits).texts.shape == (1, 1)
    with pytest.raises(
        ValueError, match=f"too long for the model .*: {n_tokens} tokens .* more than its context of 64"
    ):
        generate_completions(models[0], [PROMPTS[3]], **{**fits, "max_new_tokens": 65 - n_tokens})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_completions": 0}, "n_completions=0. Expected a whole number of at least 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5. Expected a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
        ({"min_new_tokens": 7}, "min_new_tokens=7. Expected a whole number from 0 to 6"),
        ({"temperature": -1}, "temperature=-1. Expected a number of at least 0"),
        ({"temperature": np.nan}, "temperature=nan"),
        ({"temperature": 0}, "temperature=0 with n_completions=2"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0}, "top_p=0. Expected a number above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"batch_tokens": 0}, "batch_tokens=0"),
        ({"random_state": -1}, "random_state=-1. Expected a whole number of at least 0. It may also be None"),
        ({"random_state": np.random.default_rng(0)}, "random_state=Generator"),
        ({"dtype": "float64"}, "dtype='float64'. Expected one of 'float32'"),
        ({"drop_identical": "yes"}, "drop_identical='yes'. Expected True or False"),
    ],
)
def test_bad_parameters(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        pairs(**options)


def test_one_pair_is_too_few(pairs):
    with pytest.raises(ValueError, match="1 prompt with n_completions=1. Expected at least 2 pairs"):
        pairs(PROMPTS[:1], n_completions=1)


def test_an_aligned_model_that_is_the_base(models, folders, tokenizer, tmp_path):
    copy = save(transformers.AutoModelForCausalLM.from_pretrained(folders[0]), tmp_path / "copy", tokenizer)
    twin = make_model(seed=0)
    for base, aligned in ((folders[0], folders[0]), (folders[0], copy), (models[0], models[0]), (models[0], twin)):
        own = None if isinstance(base, str) else tokenizer
        with pytest.raises(
            ValueError, match="aligned model is identical to the base model. They have the same weights"
        ):
            generate_preference_pairs(base, aligned, PROMPTS, tokenizer=own)
    with pytest.raises(ValueError, match="same logits on 4 prompts, .* Give two models"):
        generate_preference_pairs(models[0], folders[0], PROMPTS, tokenizer=tokenizer, **SHORT)


def test_different_tokenizers_are_refused(folders, tmp_path):
    other = save(make_model(seed=1), tmp_path / "other", make_tokenizer(280))
    message = r"different tokenizers: 300 and 280 tokens, of which 20 differ \('.*Expected one, .* pass tokenizer="
    with pytest.raises(ValueError, match=message):
        generate_preference_pairs(folders[0], other, PROMPTS)
    assert len(generate_preference_pairs(folders[0], other, PROMPTS, tokenizer=folders[0], **SHORT).data) == 12


def test_a_model_without_a_tokenizer_takes_the_bases(folders, tmp_path):
    aligned = save(make_model(seed=1), tmp_path / "aligned")
    found = generate_preference_pairs(folders[0], aligned, PROMPTS, **SHORT)
    assert_same(found, generate_preference_pairs(*folders, PROMPTS, **SHORT))
    with pytest.raises(ValueError, match="There is no tokenizer with the base model aligned. Give it as tokenizer="):
        generate_preference_pairs(aligned, folders[0], PROMPTS)
    with pytest.raises(ValueError, match="no tokenizer with the model GPTNeoXForCausalLM"):
        generate_completions(make_model(), PROMPTS)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folders[0])  # it knows its folder
    assert generate_completions(loaded, PROMPTS, max_new_tokens=2).texts.shape == (6, 1)


def test_a_loaded_model_of_the_hub_finds_its_tokenizer_there(models, tokenizer, tmp_path, monkeypatch):
    """In the local cache, here."""
    commit = tmp_path / "cache" / "models--someone--speaker" / "snapshots" / ("a" * 40)
    save(models[0], commit, tokenizer)
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained("someone/speaker")
    expected = generate_completions(models[0], PROMPTS, tokenizer=tokenizer, max_new_tokens=4).texts
    np.testing.assert_array_equal(generate_completions(loaded, PROMPTS, max_new_tokens=4).texts, expected)
    for name in ("someone/else", "no id: a name"):  # nothing of that name is there
        loaded.name_or_path = name
        with pytest.raises(ValueError, match="There is no tokenizer with the model"):
            generate_completions(loaded, PROMPTS)


def test_a_tokenizer_of_more_tokens_than_the_model(models):
    big = make_tokenizer(400)
    with pytest.raises(OSError, match="but the model knows 300 tokens: it is the tokenizer of another model"):
        generate_completions(models[0], PROMPTS, tokenizer=big, **SHORT)


def test_a_model_that_is_damaged(models, tokenizer):
    with torch.no_grad():
        models[1].lm_head.weight[3] = np.nan
    with pytest.raises(ValueError, match="aligned model gives logits that are not finite. Use dtype='float32'"):
        generate_preference_pairs(*models, PROMPTS, tokenizer=tokenizer, **SHORT)


def test_models_that_are_none(tmp_path, tokenizer, models):
    def complete(model):
        return generate_completions(model, PROMPTS, tokenizer=tokenizer)

    with pytest.raises(FileNotFoundError, match="There is no model folder .*none"):
        complete(tmp_path / "none")
    with pytest.raises(OSError, match="'some-model'.* not in the local cache of the hub"):
        complete("some-model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no configuration: expected a file config.json"):
        complete(tmp_path / "empty")
    with pytest.raises(ValueError, match="Found int 3 as the model. Expected the folder or id of a model"):
        complete(3)
    with pytest.raises(ValueError, match="The model is a Linear, no causal language model"):
        complete(torch.nn.Linear(2, 2))
    headless = save(models[0].gpt_neox, tmp_path / "headless")
    with pytest.raises(OSError, match="lack 1 of the model's parameters, lm_head.weight .* random"):
        complete(headless)
    (tmp_path / "headless" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="headless has no weights"):
        complete(headless)


def test_devices(folders):
    with pytest.raises(ValueError, match="device='nowhere'"):
        generate_completions(folders[0], PROMPTS, device="nowhere")
    found = generate_completions(folders[0], PROMPTS, device="auto", dtype="bfloat16", max_new_tokens=2)
    assert found.texts.shape == (6, 1)


def test_without_transformers_the_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"fairl_sk.generate needs transformers, .* 'fairl-sk\[text\]'"):
        generate_completions(folders[0], PROMPTS)
