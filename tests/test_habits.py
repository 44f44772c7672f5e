"""What models bring of their own: padding that counts, modules of sentence-transformers, dates, decoders."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from sklearn.pipeline import make_pipeline
from tiny_models import make_tokenizer, save_model

from fairl_sk import MaxEntropyIRL, TransformerEmbedder
from fairl_sk.export import export_reward_model

TEXTS = ["thank you", "go away you fool", "kind", "green bench is not so very kind thank you for asking"]
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def save(folder, model, **tokenizer):
    model.save_pretrained(folder)
    make_tokenizer(begin="<s>", end="<end>", **tokenizer).save_pretrained(folder)
    return folder


def new(model_class, config_class, **settings):
    torch.manual_seed(0)
    return getattr(transformers, model_class)(getattr(transformers, config_class)(vocab_size=40, **settings)).eval()


ENCODERS = {
    "bert": (
        "BertModel",
        "BertConfig",
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    ),
    "fnet": ("FNetModel", "FNetConfig", {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}),
    "t5": ("T5Model", "T5Config", T5),
    "t5 encoder": ("T5EncoderModel", "T5Config", T5),
    "mt5": ("MT5Model", "MT5Config", T5),
    "nystromformer": (
        "NystromformerModel",
        "NystromformerConfig",
        {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "num_landmarks": 4,
            "segment_means_seq_len": 4,
        },
    ),
}


@pytest.mark.parametrize("pooling", ["mean", "last", "cls", "max"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_embedding_does_not_depend_on_the_batch(tmp_path, kind, pooling):
    model_class, config_class, settings = ENCODERS[kind]
    embedder = TransformerEmbedder(save(tmp_path, new(model_class, config_class, **settings)), pooling=pooling).fit()
    alone = np.vstack([embedder.transform([text]) for text in TEXTS])
    assert alone.shape == (4, 16)
    np.testing.assert_allclose(embedder.transform(TEXTS), alone, atol=2e-5)


def test_a_t5_gives_the_states_of_its_encoder(tmp_path):
    model = new("T5Model", "T5Config", **T5)
    embedder = TransformerEmbedder(save(tmp_path, model)).fit()
    ids = make_tokenizer(begin="<s>", end="<end>")(TEXTS[:1], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        states = model.encoder(ids).last_hidden_state
    np.testing.assert_allclose(embedder.transform(TEXTS[:1]), states.mean(1), atol=1e-6)


def test_another_model_with_a_decoder_is_refused(tmp_path):
    settings = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    settings |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    save(tmp_path, new("BartModel", "BartConfig", **settings))
    with pytest.raises(ValueError, match="an encoder with a decoder. Expected one of both, or a T5"):
        TransformerEmbedder(tmp_path).fit()


def sentence_model(folder, *dense, prompts=None):
    """A model of sentence-transformers with these dense modules, saved; and the model itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer
        from sentence_transformers import models as parts

        modules = [parts.Transformer(str(save_model(folder / "bert"))), parts.Pooling(16, "mean")]
        modules += [parts.Dense(*size, activation_function=activation) for size, activation in dense]
        model = SentenceTransformer(modules=modules, device="cpu", **(prompts or {}))
        model.save(str(folder / "whole"))
    return model, folder / "whole"


@pytest.mark.parametrize(
    "dense",
    [
        [],
        [((16, 8), torch.nn.Tanh())],
        [((16, 8), torch.nn.Identity())],
        [((16, 24), torch.nn.ReLU()), ((24, 4), torch.nn.Tanh())],
    ],
)
def test_dense_modules_are_applied(tmp_path, dense):
    model, folder = sentence_model(tmp_path, *dense)
    embedder = TransformerEmbedder(folder).fit()
    np.testing.assert_allclose(embedder.transform(TEXTS), model.encode(TEXTS), atol=1e-5)
    assert len(embedder.get_feature_names_out()) == (dense[-1][0][1] if dense else 16)
    assert TransformerEmbedder(folder, layer=0).fit_transform(TEXTS).shape == (
        4,
        16,
    )  # dense layers are for the last one


def test_the_default_prompt_is_applied(tmp_path):
    model, folder = sentence_model(
        tmp_path, prompts={"prompts": {"query": "thank you "}, "default_prompt_name": "query"}
    )
    found = TransformerEmbedder(folder).fit_transform(TEXTS)
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=1e-5)
    assert np.abs(found - TransformerEmbedder(tmp_path / "bert").fit_transform(TEXTS)).max() > 1e-3


def edit_json(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("sentence_bert_config.json", {"max_seq_length": 4}),
        ("config_sentence_transformers.json", {"truncate_dim": 5}),
    ],
)
def test_what_sentence_transformers_writes_into_its_files_is_done(tmp_path, file, values):
    from sentence_transformers import SentenceTransformer

    _, folder = sentence_model(tmp_path)
    before = TransformerEmbedder(folder).fit()
    edit_json(folder / file, **values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # long texts are cut
        expected = SentenceTransformer(str(folder), device="cpu").encode([text.title() for text in TEXTS])
        embedder = TransformerEmbedder(folder, truncation_side="right").fit()
        found = embedder.transform([text.title() for text in TEXTS])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert len(embedder.get_feature_names_out()) == found.shape[1]
        with pytest.raises(ValueError, match="Found the model .* with which this was fitted"):
            before.transform(TEXTS)


def test_a_prompt_that_is_not_pooled_is_refused(tmp_path):
    _, folder = sentence_model(tmp_path, prompts={"prompts": {"query": "thank you "}, "default_prompt_name": "query"})
    edit_json(folder / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(ValueError, match="leaves its prompt 'thank you ' out of the pooling"):
        TransformerEmbedder(folder).fit()


@pytest.mark.parametrize(
    ("model_class", "config_class", "settings"),
    [
        ("ViTModel", "ViTConfig", {"image_size": 32, "patch_size": 16}),
        ("CLIPModel", "CLIPConfig", {"vision_config": {"num_hidden_layers": 1}, "text_config": {"vocab_size": 40}}),
    ],
)
def test_a_model_that_reads_images_is_refused(tmp_path, model_class, config_class, settings):
    getattr(transformers, config_class)(num_hidden_layers=1, **settings).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"is a {model_class}. Expected a model of texts"):
        TransformerEmbedder(tmp_path).fit()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "needs code of its own"),
        ("adapter_config.json", {"peft_type": "LORA"}, "holds an adapter: merge it"),
        ("0_Transformer/config.json", {"model_type": "bert"}, "An old version of sentence-transformers"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_what_it_is(tmp_path, file, content, message):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(OSError, match=message):
        TransformerEmbedder(tmp_path).fit()


def test_what_is_not_known_here_is_refused(tmp_path):
    _, folder = sentence_model(tmp_path, ((16, 8), torch.nn.Tanh()))
    pairs = np.array([TEXTS[:2], TEXTS[2:]], dtype=object)
    fitted = make_pipeline(TransformerEmbedder(folder), MaxEntropyIRL(random_state=0)).fit(pairs)
    with pytest.raises(ValueError, match="has a dense layer, a prompt, .* by sentence-transformers"):
        export_reward_model(fitted, tmp_path / "out", pairs)
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = "sentence_transformers.models.LSTM"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config.json").touch()
    with pytest.raises(ValueError, match="modules of sentence-transformers that are not known here: .'LSTM'"):
        TransformerEmbedder(folder).fit()


def test_a_chat_template_that_writes_the_date_writes_a_fixed_one(tmp_path):
    template = "{{ strftime_now('%Y') }} {% for message in messages %}{{ message.content }} {% endfor %}"
    model_class, config_class, settings = ENCODERS["bert"]
    folder = save(tmp_path, new(model_class, config_class, **settings), chat_template=template, words=["2024", "kind"])
    embedder = TransformerEmbedder(folder).fit()
    assert embedder.settings_["chat_date"] == "2024-07-26"
    table = pd.DataFrame({"completion": [[{"role": "assistant", "content": "kind"}]]})
    template = template.replace("{{ strftime_now('%Y') }}", "2024")
    other = save(
        tmp_path / "other", new(model_class, config_class, **settings), chat_template=template, words=["2024", "kind"]
    )
    np.testing.assert_array_equal(embedder.transform(table), TransformerEmbedder(other).fit().transform(table))
    assert "chat_date" not in TransformerEmbedder(other).fit().settings_
