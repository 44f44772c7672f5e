"""Generated pairs: draws from the models' distributions, files that survive, clear words for bad input."""

import json
import os
import random
import re
import sys
import warnings
from contextlib import nullcontext

import datasets
import numpy as np
import pandas as pd
import peft
import pytest
import torch
import transformers
from scipy.special import softmax
from scipy.stats import chisquare
from tiny_models import CHAT, SPECIAL, WORDS, make_model, make_tokenizer, save_model

from fairl_sk.datasets import load_preferences
from fairl_sk.generate import PAIR_KINDS, generate_completions, generate_preference_pairs, pair_kinds

VOCABULARY = len(SPECIAL + WORDS)
PROMPTS = ["you are", "the green bench is so very", "thank", "go away you awful fool", "thank", "is a fool kind"]
CHATS = [[{"role": "user", "content": text}] for text in ("you are", "go away you")]
SHORT = {"max_new_tokens": 6, "n_completions": 2}


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Of a base and an aligned model."""
    folder = tmp_path_factory.mktemp("speakers")
    kinds = enumerate(("base", "aligned"))
    return tuple(str(save_model(folder / role, "gpt_neox", seed, causal=True)) for seed, role in kinds)


@pytest.fixture
def models():
    """A base and an aligned model, loaded."""
    return make_model(seed=0), make_model(seed=1)


@pytest.fixture
def pairs(models, tokenizer):
    """`generate_preference_pairs` of small models and few tokens."""

    def generate_pairs(prompts=PROMPTS, **options):
        return generate_preference_pairs(*models, prompts, **{"tokenizer": tokenizer, **SHORT, **options})

    return generate_pairs


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pairs.jsonl"


def assert_same(one, other):
    """All that `load_preferences` returns is equal, but for where it came from."""
    for name in ("data", "target", "prompt", "groups", "source_index", "dropped", "format"):
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_padding_and_batches_do_not_change_what_is_likeliest(kind, tokenizer):
    """Each prompt on its own and without padding, there; all in a batch, padded on the left, here."""
    model, greedy = make_model(kind), {"max_new_tokens": 10, "do_sample": False}
    found = generate_completions(model, PROMPTS, tokenizer=tokenizer, batch_size=4, **greedy)
    for prompt, (text,) in zip(PROMPTS, found.texts, strict=True):
        ids = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        said = model.generate(**ids, **greedy)[0, ids["input_ids"].shape[1] :]
        assert text == tokenizer.decode(said, skip_special_tokens=True)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "top_k": 12, "top_p": 0.8}])
def test_first_tokens_are_drawn_from_the_models_distribution(models, tokenizer, options):
    """The frequencies of 4,000 first tokens against softmax, by a chi-square test; nothing outside top k and top p."""
    prompt, n_draws = PROMPTS[3], 4000
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    logits = models[0](ids).logits[0, -1].detach().numpy().astype(float) / options.get("temperature", 1)
    if options:
        logits[logits < np.sort(logits)[-options["top_k"]]] = -np.inf
    chance = softmax(logits)
    if options:
        order = np.argsort(-chance)
        chance[order[np.cumsum(chance[order]) - chance[order] >= options["top_p"]]] = 0
        chance /= chance.sum()
    options = {"n_completions": n_draws, "max_new_tokens": 1, **options}
    found = generate_completions(models[0], [prompt], tokenizer=tokenizer, **options)
    counts = np.bincount([(*ids, 2)[0] for ids in found.token_ids[0]], minlength=VOCABULARY)  # 2 ends a completion
    assert counts[chance == 0].sum() == 0 and counts.sum() == n_draws
    often = chance * n_draws >= 5
    observed, expected = (np.append(values[often], values[~often].sum()) for values in (counts, chance * n_draws))
    kept = expected > 0
    assert kept.sum() > 2 and chisquare(observed[kept], expected[kept]).pvalue > 1e-3


def test_the_seed_decides_and_global_states_are_left_alone(models, tokenizer):
    def found(**options):
        return generate_completions(models[0].train(), PROMPTS, tokenizer=tokenizer, **SHORT, **options)

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    habits, texts = models[0].generation_config, found().texts
    assert (texts == found(random_state=0).texts).all() and (texts != found(random_state=1).texts).any()
    assert (texts[2] != texts[4]).any()  # the prompt that occurs twice
    free = found(random_state=None)
    assert (free.texts != found(random_state=None).texts).any()
    assert (free.texts == found(random_state=free.settings["seed"]).texts).all()
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == before and models[0].generation_config is habits and models[0].training


def test_a_models_own_settings_and_dropout_do_not_count(models, tokenizer):
    def texts(model):
        return generate_completions(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=8).texts

    plain = texts(models[0])
    habits = {"repetition_penalty": 9.0, "do_sample": True, "temperature": 0.1, "suppress_tokens": list(range(5, 20))}
    models[0].generation_config.update(**habits, max_length=3, no_repeat_ngram_size=1)
    np.testing.assert_array_equal(texts(models[0]), plain)
    np.testing.assert_array_equal(texts(make_model(hidden_dropout=0.9, attention_dropout=0.9).train()), plain)


@pytest.mark.parametrize("pad", ["<pad>", "<end>", None])
def test_a_completion_ends_at_the_first_of_several_end_tokens(pad, models):
    """Whatever the pad token is; the end token is no part of the text."""
    model, own = models[0], make_tokenizer(pad_token=pad)
    model.generation_config.eos_token_id = list(range(4, VOCABULARY, 4))
    found = generate_completions(model, PROMPTS, tokenizer=own, max_new_tokens=10, n_completions=4)
    ids = found.token_ids.ravel().tolist()
    assert 0 < np.mean([len(tokens) < 10 for tokens in ids]) < 1
    assert not {2, *range(4, VOCABULARY, 4)} & set(sum(ids, []))
    assert own.batch_decode(ids, skip_special_tokens=True) == found.texts.ravel().tolist()


def test_pairs_hold_what_each_model_says(models, tokenizer, pairs):
    found = pairs(do_sample=False, n_completions=1)
    chosen = np.where(found.target == 1, found.data[:, 0], found.data[:, 1])
    rejected = found.data[np.arange(len(found.data)), found.target]
    for model, column in ((models[1], chosen), (models[0], rejected)):
        said = generate_completions(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=6, do_sample=False).texts[:, 0]
        np.testing.assert_array_equal(column, said[found.source_index])
    assert found.n_identical == 0 and found.kinds is None
    with pytest.warns(UserWarning, match="Only .* of .* pairs are T->NT"):
        kinds = pairs(reference=lambda texts: [len(text) - 20.5 for text in texts]).kinds
    assert [row["kind"] for row in kinds] == list(PAIR_KINDS)
    drawn = pairs(min_new_tokens=6)
    assert list(drawn.prompt) == [prompt for prompt in PROMPTS for _ in range(2)] and len(set(drawn.groups)) == 5


def test_settings_say_what_pairs_depend_on(pairs, folders, path, monkeypatch):
    settings = pairs(temperature=0.9, random_state=3).settings
    assert settings.items() >= {"seed": 3, "n_prompts": 6, "base_dtype": "float32"}.items()
    assert settings["generation"].items() >= {"temperature": 0.9, "max_new_tokens": 6, "top_k": 0}.items()
    assert set(settings["versions"]) == {"fairl-sk", "torch", "transformers"}
    from_folders = generate_preference_pairs(*folders, PROMPTS, path=path, **SHORT)
    assert (from_folders.settings["base"], from_folders.settings["aligned"]) == ("base", "aligned")
    assert os.sep not in json.dumps(from_folders.settings)
    assert_same(from_folders, pairs())  # loaded, or by its folder: the same model
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    assert_same(generate_preference_pairs(*folders, PROMPTS, path=path, **SHORT), from_folders)  # no model is loaded


def test_identical_pairs_are_counted_and_warned_of(models, pairs):
    with pytest.warns(UserWarning, match="pairs are identical, and no reward can be learned from them"):
        found = pairs(PROMPTS * 4, max_new_tokens=1, min_new_tokens=1, temperature=9.0, top_k=3)
    same = found.data[:, 0] == found.data[:, 1]
    assert 0 < found.n_identical < 48 and same.sum() <= found.n_identical
    models[1].load_state_dict(models[0].state_dict())
    with torch.no_grad():
        models[1].lm_head.weight.mul_(1.5)  # they differ and yet say the same
    with pytest.raises(ValueError, match="All 6 pairs are identical: the aligned model says .* raise max_new_tokens"):
        pairs(do_sample=False, n_completions=1)


def test_conversations_go_through_the_chat_template(models, tmp_path, path):
    options = {"tokenizer": make_tokenizer(chat_template=CHAT), **SHORT, "min_new_tokens": 6}
    texts = [f"<s> user : {text} <end> assistant :" for text in ("you are", "go away you")]
    plain = generate_completions(models[0], texts, **options)
    np.testing.assert_array_equal(generate_completions(models[0], CHATS, **options).texts, plain.texts)
    found = generate_preference_pairs(*models, CHATS, path=path, **options)
    assert list(found.prompt) == ["you are"] * 2 + ["go away you"] * 2
    assert_same(found, load_preferences(path))
    row = datasets.load_dataset("json", data_files=str(path), cache_dir=str(tmp_path))["train"][0]
    assert row["prompt"] == CHATS[0] and row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"
    with pytest.raises(ValueError, match="refuses messages with the roles system: No system."):
        generate_completions(models[0], [[{"role": "system", "content": "thank"}]], **options)
    base, aligned = (
        save_model(tmp_path / f"{seed}", "gpt_neox", seed, causal=True, chat_template=template)
        for seed, template in enumerate((None, CHAT))
    )
    assert_same(generate_preference_pairs(base, aligned, CHATS, **{**options, "tokenizer": None}), found)


def test_prompts_come_in_any_sequence_and_progress_is_shown_on_request(pairs, capfd):
    column = datasets.Dataset.from_dict({"prompt": PROMPTS})["prompt"]
    for prompts in (np.array(PROMPTS), pd.Series(PROMPTS, index=range(6, 0, -1)), column):
        assert_same(pairs(prompts), pairs())
    assert capfd.readouterr().err == ""
    pairs(verbose=True)
    assert "24/24" in capfd.readouterr().err


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


def test_adapters_by_their_folder_and_loaded(tmp_path, monkeypatch):
    base = str(save_model(tmp_path / "base", "llama", causal=True))
    wrapped = adapted(transformers.AutoModelForCausalLM.from_pretrained(base))
    wrapped.save_pretrained(tmp_path / "adapter")
    options = {"prompts": PROMPTS, "tokenizer": base, **SHORT}
    found = generate_preference_pairs(base, tmp_path / "adapter", **options)
    habits = dict(vars(wrapped)), wrapped.generation_config
    assert_same(generate_preference_pairs(base, wrapped, **options), found)
    assert habits[0].keys() == vars(wrapped).keys() and wrapped.generation_config is habits[1]
    nothing = adapted(make_model("llama"), std=0)
    for same in (nothing, nothing.get_base_model()):
        with pytest.raises(ValueError, match=r"same logits on 4 prompts.*load the base again from its folder"):
            generate_preference_pairs(same, nothing, **options)
    monkeypatch.setattr(transformers.utils, "is_peft_available", lambda: False)
    with pytest.raises(ImportError, match="adapter holds a PEFT adapter, which needs peft: pip install peft"):
        generate_completions(tmp_path / "adapter", PROMPTS, tokenizer=base)


def test_the_file_is_read_back_as_it_was_returned(models, pairs, path, tmp_path):
    models[0].generation_config.eos_token_id = list(range(4, VOCABULARY, 2))
    found, again = pairs(path=path), load_preferences(path)
    assert_same(found, again)
    assert_same(found, pairs())
    assert found.dropped["empty text"] > 0 and len(found.data) == 12 - found.dropped["empty text"]
    assert again.provenance == found.provenance and again.provenance["settings"] == found.settings
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["prompt_index"], line["completion"]) for line in lines] == list(np.ndindex(6, 2))
    rows = datasets.load_dataset("json", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows["prompt"] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert rows[0]["settings"]["seed"] == 0 and rows[11]["settings"] is None


@pytest.mark.parametrize(
    ("error", "n_calls", "notes"),
    [
        (KeyboardInterrupt(), 2, []),
        (torch.OutOfMemoryError("memory"), 3, ["Lower batch_size; a file that was given as path is continued"]),
    ],
)
def test_an_interrupt_loses_no_finished_batch(error, n_calls, notes, models, pairs, path, monkeypatch):
    """Batches of two prompts; each model is asked three times."""
    whole = pairs(batch_size=2)
    real, calls = type(models[0]).generate, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == n_calls + 1:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(type(models[0]), "generate", interrupted)
    with pytest.raises(type(error)) as raised:
        pairs(path=path, batch_size=2)
    found = getattr(raised.value, "__notes__", [])
    assert len(found) == len(notes) and all(map(re.search, notes, found))
    assert len(path.read_text().splitlines()) == 4
    assert_same(pairs(path=path, batch_size=2, random_state=None), whole)  # a free seed is that of the file
    assert len(calls) == n_calls + 1 + 4


@pytest.mark.parametrize("keep", [0, 0.6, -1])
def test_a_file_that_was_cut_is_mended(pairs, path, keep):
    """Before its first line, later, or just before the last line break; and behind its end."""
    found = pairs(path=path, batch_size=1)
    data = path.read_bytes()
    for cut in (data[: int(keep * len(data)) if 0 < keep < 1 else keep], data + b'{"prompt": "thank'):
        path.write_bytes(cut)
        with pytest.warns(UserWarning, match=r"The last lines of .*pairs.jsonl were cut") if cut else nullcontext():
            assert_same(pairs(path=path, batch_size=1), found)
        assert path.read_bytes() == data


def test_a_file_of_other_settings_is_not_continued(models, tokenizer, pairs, path):
    pairs(path=path)
    data = path.read_bytes()
    for options, message in (
        ({"temperature": 0.5}, "made with generation=.* but this call has generation=.*Call with the former"),
        ({"random_state": 1}, "seed=0, but this call has seed=1"),
        ({"prompts": [*PROMPTS[:-1], "bench"]}, "prompts='"),
        ({"aligned": make_model(seed=2)}, "aligned_weights='.* give the models in the same way"),
    ):
        given = {"base": models[0], "aligned": models[1], "prompts": PROMPTS, "tokenizer": tokenizer, "path": path}
        with pytest.raises(ValueError, match=message):
            generate_preference_pairs(**{**given, **SHORT, **options})
        assert path.read_bytes() == data


@pytest.mark.parametrize("chat", [False, True])
def test_what_the_base_model_said_is_not_made_again(models, pairs, path, tmp_path, monkeypatch, chat):
    """Of three batches, the other file holds two."""
    options = {"prompts": CHATS * 3, "tokenizer": make_tokenizer(chat_template=CHAT)} if chat else {}
    whole, other = pairs(batch_size=2, path=path, **options), make_model(seed=2)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:8]))
    given = {"prompts": PROMPTS, "tokenizer": make_tokenizer(), **SHORT, **options, "batch_size": 2}
    expected, asked = generate_preference_pairs(models[0], other, **given), []
    for model in (models[0], other):
        real = model.generate
        monkeypatch.setattr(
            model, "generate", lambda *a, real=real, model=model, **k: asked.append(model) or real(*a, **k)
        )
    found = generate_preference_pairs(models[0], other, **given, base_outputs=path, path=tmp_path / "other.jsonl")
    assert_same(found, expected)
    assert asked == [other, other, models[0], other] and not np.array_equal(found.data, whole.data)
    with pytest.raises(ValueError, match="seed=0, but this call has seed=1"):
        generate_preference_pairs(models[0], other, **given, base_outputs=path, random_state=1)
    with pytest.raises(FileNotFoundError, match="no pairs in base_outputs=.*none.jsonl"):
        generate_preference_pairs(models[0], other, **given, base_outputs=tmp_path / "none.jsonl")


def test_a_foreign_or_damaged_file_is_left_alone(pairs, path):
    for text in ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', '{"settings": 3}\n', "3\n", "notes"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"pairs.jsonl, line 1: found .*Expected a generated pair.*Choose another"):
            pairs(path=path)
        assert path.read_text() == text
    path.unlink()
    pairs(path=path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], *lines[4:]]))
    with pytest.raises(ValueError, match=r"pairs.jsonl, line 4: found .*completion.: 1.*delete this line"):
        pairs(path=path)


def test_files_that_cannot_be_written(models, pairs, path, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="There is no folder .*none to write pairs.jsonl in. Make it first"):
        pairs(path=tmp_path / "none" / "pairs.jsonl")
    with pytest.raises(ValueError, match="Expected the name of a file that ends in .jsonl"):
        pairs(path=tmp_path / "pairs.csv")
    opened = type(path).open
    full = type(path)("/dev/full")
    monkeypatch.setattr(type(path), "open", lambda self, *a, **k: opened(full if self == path else self, *a, **k))
    with pytest.raises(OSError, match="No space left") as raised:
        pairs(path=path)
    assert re.search("pairs.jsonl holds 0 finished prompts; the same call goes on", raised.value.__notes__[0])
    monkeypatch.undo()
    real = type(models[0]).generate

    def beside_another(*arguments, **options):
        path.write_text("a line of another process")
        return real(*arguments, **options)

    monkeypatch.setattr(type(models[0]), "generate", beside_another)
    with pytest.raises(RuntimeError, match=r"pairs.jsonl changed while .*: another process writes to it. Let one"):
        pairs(path=path)
    assert path.read_text() == "a line of another process"


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
    assert pair_kinds([row[::-1] for row in X], known, y=np.zeros(400)) == kinds
    table = pd.DataFrame(X, columns=["chosen", "rejected"]).assign(prompt="What a fool?")
    assert pair_kinds(table, known) == kinds  # the prompt is not judged
    for n_toxic, n_others in [(99, 0), (100, 901)]:
        with pytest.warns(UserWarning, match=rf"Only {n_toxic} of {n_toxic + n_others} pairs are T->NT .* Add prompts"):
            pair_kinds(many(n_toxic, n_others), known)
    with pytest.warns(UserWarning, match="Only 0 of 200"):  # a reward of 0 is not above 0
        pair_kinds(many(200, 0), lambda texts: np.minimum(known(texts), 0))


def test_kinds_of_something_else():
    for X, reference, message in (
        (["a", "b"], known, r"Found texts of shape \(2,\). Expected texts of shape \(n_pairs, 2\)"),
        (np.zeros((3, 2, 4)), known, "Found no texts"),
        (many(1, 1), lambda texts: [0.0], r"rewards of shape \(1,\), 0 of them not finite, for 4 texts"),
        (many(1, 1), lambda texts: [np.nan] * 4, "4 of them not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            pair_kinds(X, reference)


def test_bad_prompts(pairs):
    for prompts, message in (
        ("you are", "Found prompts of type str, 'you are'. Expected a list of texts"),
        ([], "Found no prompts. Expected at least one"),
        (["thank", "\ud800"], "Prompt 1 is empty or holds half a character"),
        (["thank", None], "Expected text at prompt 1, but found NoneType"),
        (["thank", CHATS[0]], "Prompt 0 and prompt 1 are a text and a conversation"),
        ([[*CHATS[0], {"role": "assistant", "content": "kind"}]], "Prompt 0 ends with a message of the assistant"),
        (CHATS, "The tokenizer has no chat template .* Set tokenizer.chat_template"),
        (["kind " * 27, "thank"], r"Prompt 0 is too long for the .*model \(1 of 2 are\): 27 tokens and max_new_to"),
    ):
        with pytest.raises(ValueError, match=message):
            pairs(prompts)


def test_bad_parameters(folders):
    for options, message in (
        ({"n_completions": 0}, "n_completions=0. Expected a whole number of at least 1"),
        ({"random_state": -1}, "random_state=-1. Expected a whole number of at least 0"),
        ({"temprature": 1}, "Found temprature. Expected settings of transformers.GenerationConfig"),
        ({"dtype": "float64"}, "dtype='float64'. Expected one of 'float32'"),
        ({"device": "nowhere"}, "device='nowhere'"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_preference_pairs(*folders, PROMPTS, **{**SHORT, **options})


def test_tokenizers(models, folders, tmp_path):
    other = save_model(tmp_path / "other", "gpt_neox", 1, causal=True, words=WORDS[:-3])
    with pytest.raises(ValueError, match=r"different tokenizers: 25 and 22 tokens, of which 3 differ \('.*tokenizer="):
        generate_preference_pairs(folders[0], other, PROMPTS)
    expected = generate_preference_pairs(*folders, PROMPTS, **SHORT)
    assert_same(generate_preference_pairs(folders[0], other, PROMPTS, tokenizer=folders[0], **SHORT), expected)
    models[1].save_pretrained(tmp_path / "bare")
    assert_same(generate_preference_pairs(folders[0], tmp_path / "bare", PROMPTS, **SHORT), expected)
    with pytest.raises(ValueError, match="There is no tokenizer with the base model bare. Give it as tokenizer="):
        generate_preference_pairs(tmp_path / "bare", folders[0], PROMPTS)
    big = make_tokenizer([f"{word}{n}" for word in WORDS for n in (1, 2)])
    with pytest.raises(OSError, match="but the model knows 25 tokens: it is the tokenizer of another model"):
        generate_completions(models[0], ["thank1 :2"], tokenizer=big, max_new_tokens=2)


def test_models_that_are_none_damaged_or_equal(tmp_path, tokenizer, models, folders, monkeypatch):
    def complete(model, **options):
        return generate_completions(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=2, **options)

    for missing in (tmp_path, "some-model"):
        with pytest.raises(OSError, match="Cannot load the model"):
            complete(missing)
    with pytest.raises(ValueError, match="Found int 3 as the model. Expected the folder or hub id of a model"):
        complete(3)
    with pytest.raises(ValueError, match="The model is a Linear, not a causal language model"):
        complete(torch.nn.Linear(2, 2))
    assert complete(folders[0], device="auto", dtype="bfloat16").texts.shape == (6, 1)
    for base, aligned in ((folders[0], folders[0]), (models[0], make_model(seed=0)), (models[0], folders[0])):
        with pytest.raises(ValueError, match=r"aligned model is identical .* same logits on 4 prompts.* two models"):
            generate_preference_pairs(base, aligned, PROMPTS, tokenizer=tokenizer, **SHORT)
    with torch.no_grad():
        models[1].lm_head.weight[3] = np.nan
    with pytest.raises(ValueError, match="aligned model gives logits that are not finite. Use dtype='float32'"):
        generate_preference_pairs(*models, PROMPTS, tokenizer=tokenizer, **SHORT)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="fairl-sk.text"):
        complete(folders[0])
