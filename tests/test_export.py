"""The exported reward: the pipeline's numbers in TRL's hands, by a callable and by a folder, and the health check."""

import json
import math
import pickle
import re
import subprocess
import sys
import warnings

import datasets
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import transformers
from sklearn.base import clone
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import VarianceThreshold
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC
from tiny_models import CHAT, WORDS, save_model
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.data_utils import apply_chat_template
from trl.trainer.utils import get_callable_name

from fairl_sk import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL, PairTransformer, TransformerEmbedder
from fairl_sk.export import RewardFunction, check_reward, export_reward_model, load_reward_model
from fairl_sk.pairs import join_prompt
from fairl_sk.serving import RemoteReward
from fairl_sk.serving.app import make_app

# Of 200 random pairs of few words some contradict each other, and some are cut to the same text.
pytestmark = pytest.mark.filterwarnings("ignore:.*contradict another pair", "ignore:.*same features on both sides")
OWN_CODE = {"trust_remote_code": True}


def some_texts(n, seed=0, longest=20):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest))) for _ in range(n)]


def kindness(text):
    words = text.split()
    return sum(map(words.count, ("kind", "thank", "green"))) - sum(map(words.count, ("fool", "awful", "away")))


@pytest.fixture(scope="session")
def pairs():
    sides = np.array(some_texts(240)).reshape(-1, 2)
    return [sorted(pair, key=kindness, reverse=True) for pair in sides.tolist() if len(set(map(kindness, pair))) > 1]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A model of each kind, without special tokens where the kind allows a folder without own code."""
    folder = tmp_path_factory.mktemp("encoders")
    return {
        "bert": save_model(folder / "bert"),
        "gpt2": save_model(folder / "gpt2", "gpt2", pad_token=None),
        "bare": save_model(
            folder / "bare", "gpt2", **dict.fromkeys(("pad_token", "eos_token", "unk_token", "bos_token"))
        ),
        "gpt_neox": save_model(folder / "gpt_neox", "gpt_neox", pad_token="<end>", padding_side="left"),
        "llama": save_model(folder / "llama", "llama", begin=None, padding_side="left"),
        "llama_bos": save_model(folder / "llama_bos", "llama"),
        "chat": save_model(folder / "chat", "gpt_neox", chat_template=CHAT),
    }


def embedding_reward(folder, pairs, *steps, pooling="last", estimator=None, **options):
    embedder = TransformerEmbedder(folder, pooling=pooling, **options)
    lift = PairTransformer(make_pipeline(embedder, *steps)) if steps else embedder
    return make_pipeline(lift, estimator or MaxEntropyIRL(random_state=0)).fit(pairs)


@pytest.fixture(scope="session")
def neox(folders, pairs):
    return embedding_reward(folders["gpt_neox"], pairs, StandardScaler())


@pytest.fixture(scope="session")
def bert(folders, pairs):
    return embedding_reward(folders["bert"], pairs, StandardScaler(), pooling="mean")


@pytest.fixture(scope="session")
def tfidf(pairs):
    features = PairTransformer(make_pipeline(TfidfVectorizer(token_pattern=r"\S+"), TruncatedSVD(8, random_state=0)))
    return make_pipeline(features, FailureAwareIRL(random_state=0)).fit(pairs)


def table(pairs):
    """The pairs with prompts in a column, as TRL has them."""
    return pd.DataFrame(pairs, columns=["chosen", "rejected"]).assign(prompt="you are")


def as_trl_loads(folder):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, **OWN_CODE)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **OWN_CODE)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id  # as TRL does
    return model, tokenizer


def as_trl_scores(model, tokenizer, texts, batch_size, side="right"):
    rewards, options = [], {"padding": True, "padding_side": side, "add_special_tokens": False, "return_tensors": "pt"}
    for start in range(0, len(texts), batch_size):
        with torch.inference_mode():
            rewards.append(model(**tokenizer(text=texts[start : start + batch_size], **options)).logits[:, 0])
    return torch.cat(rewards).numpy()


def rewards_of(pipeline, texts):
    return pipeline.decision_function(np.array(texts, dtype=object))


def assert_equal_rewards(folder, fitted, texts, batch_size=64, **options):
    """Of a folder, as TRL loads it and scores with it, and of its pipeline; the model."""
    model, tokenizer = as_trl_loads(folder)
    found = as_trl_scores(model, tokenizer, texts, batch_size, **options)
    np.testing.assert_allclose(found, rewards_of(fitted, texts), atol=1e-5, rtol=0)
    return model


CASES = [
    ("gpt2", "last", {}, False),
    ("bare", "last", {}, False),  # gets a token to pad with
    ("gpt_neox", "last", {}, False),
    ("gpt_neox", "last", {"layer": 2}, False),
    ("llama", "last", {}, True),  # its last normalization has no bias to put the offset into
    ("llama_bos", "mean", {"normalize": True}, True),
    ("gpt_neox", "max", {"layer": 1}, True),
    ("bert", "cls", {"normalize": True}, True),
    ("bert", "last", {"layer": 0}, True),
]


@pytest.mark.parametrize(("kind", "pooling", "options", "own_code"), CASES)
def test_the_folder_gives_the_rewards_of_the_pipeline(kind, pooling, options, own_code, folders, pairs, tmp_path):
    """Whatever the batch and the side of the padding; texts hold the pad, end and unknown tokens, also at their end."""
    fitted = embedding_reward(folders[kind], pairs, StandardScaler(), PCA(8), pooling=pooling, **options)
    folder = export_reward_model(fitted, tmp_path / "reward", pairs)
    assert (folder / "modeling_reward.py").exists() == own_code
    assert not list(folder.glob("*.index.json")) and len(list(folder.glob("*.safetensors"))) == 1
    texts = some_texts(297, seed=1) + ["you are kind <end>", "<unk> not <pad>", "you"]
    assert np.std(rewards_of(fitted, texts)) > 0.01
    model = assert_equal_rewards(folder, fitted, texts)
    assert model.num_labels == 1 and not model.training
    assert_equal_rewards(folder, fitted, texts, batch_size=1)
    if own_code or kind == "gpt_neox":  # rotary
        assert_equal_rewards(folder, fitted, texts, side="left")


@pytest.mark.parametrize(
    "build",
    [
        lambda e: [PairTransformer(e), PairTransformer(make_pipeline("passthrough", MinMaxScaler())), MaxMarginIRL()],
        lambda e: [e, PairTransformer(PCA(5, whiten=True)), FailureAwareIRL(random_state=0)],
        lambda e: [e, PairTransformer(), PairTransformer(VarianceThreshold()), MaxEntropyIRL()],
        lambda e: [e, MaxEntropyIRL(random_state=0)],
    ],
)
def test_affine_steps_are_folded_in_any_nesting(build, folders, pairs, tmp_path):
    fitted = make_pipeline(*build(TransformerEmbedder(folders["gpt2"], pooling="last"))).fit(pairs)
    assert_equal_rewards(export_reward_model(fitted, tmp_path / "reward", pairs), fitted, some_texts(100, seed=2))


def test_linear_classifiers_of_scikit_learn_and_searches_are_exported(folders, tmp_path):
    texts = some_texts(200)
    y = np.array([kindness(text) > 0 for text in texts])
    embedder = TransformerEmbedder(folders["gpt_neox"], pooling="last")
    pipeline = make_pipeline(embedder, StandardScaler(), RidgeClassifier())
    search = GridSearchCV(pipeline, {"ridgeclassifier": [RidgeClassifier(), LogisticRegression()]})
    search.fit(np.array(texts, dtype=object), y)
    model = assert_equal_rewards(export_reward_model(search, tmp_path / "reward", texts, y), search, texts)
    assert type(model).__name__ == "GPTNeoXForSequenceClassification"


def test_large_means_cost_no_digits_and_scaling_goes_into_the_folder(folders, pairs, tmp_path):
    """Constants of 300 in features that differ by 1: their effect cancels before, not after, the head."""
    model = transformers.AutoModel.from_pretrained(folders["gpt_neox"])
    with torch.no_grad():
        model.final_layer_norm.bias += 300
    for saved in (model, transformers.AutoTokenizer.from_pretrained(folders["gpt_neox"])):
        saved.save_pretrained(tmp_path / "shifted")
    fitted, texts = embedding_reward(tmp_path / "shifted", pairs, StandardScaler()), some_texts(50, seed=3)
    frozen = RewardFunction(fitted, pairs, prompt_template="{output}")
    for custom_code in (False, True):
        options = {"center": frozen.center, "scale": frozen.scale, "custom_code": custom_code}
        folder = export_reward_model(fitted, tmp_path / f"reward{custom_code}", pairs, **options)
        found = as_trl_scores(*as_trl_loads(folder), texts, 64)
        np.testing.assert_allclose(found, frozen(completions=texts), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*longer than 12 tokens")
@pytest.mark.parametrize("side", ["left", "right"])
def test_long_texts_are_cut_as_by_the_pipeline_or_refused(side, folders, pairs, tmp_path):
    long = [" ".join([text] * 9) for text in some_texts(20, seed=6)]
    options = {"max_length": 12, "truncation_side": side}
    for kind, pooling in (("bert", "mean"), ("gpt_neox", "last")):
        fitted = embedding_reward(folders[kind], pairs, StandardScaler(), pooling=pooling, **options)
        assert_equal_rewards(export_reward_model(fitted, tmp_path / kind, long, custom_code=True), fitted, long)
    with pytest.raises(ValueError, match="of 20 texts are longer than 12 tokens.*custom_code=True"):
        export_reward_model(fitted, tmp_path / "reward", long)  # a class of transformers never cuts
    assert not (tmp_path / "reward").exists()


def turns(prompt, output):
    return [{"role": "user", "content": prompt}], [{"role": "assistant", "content": output}]


def test_messages_reach_the_folder_as_they_reach_the_pipeline(folders, pairs, tmp_path):
    """By the encoder's chat template where the pipeline uses one; else joined as this package joins them."""
    rows = [(turns("you are", "")[0], turns("", a)[1], turns("", b)[1]) for a, b in pairs]
    chats = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    by_template = make_pipeline(TransformerEmbedder(folders["chat"]), MaxEntropyIRL(random_state=0)).fit(chats)
    joined = embedding_reward(folders["chat"], chats, StandardScaler())
    for number, fitted in enumerate((by_template, joined)):
        model, tokenizer = as_trl_loads(export_reward_model(fitted, tmp_path / f"reward{number}", chats))
        rows = [turns("you are", text) for text in some_texts(30, seed=8)] + [turns("you ", ""), turns("", "kind")]
        texts = [apply_chat_template({"messages": p + c}, tokenizer)["text"] for p, c in rows]  # as TRL does
        if fitted is joined:
            assert texts == [join_prompt(p, c) for p, c in rows]
        expected = fitted.decision_function(pd.DataFrame(rows, columns=["prompt", "completion"]))
        np.testing.assert_allclose(as_trl_scores(model, tokenizer, texts, 64), expected, atol=1e-5)
        reward = RewardFunction(fitted, chats, center=0.0, scale=1.0)
        assert reward.prompt_template == "join"
        prompts, completions = zip(*rows, strict=True)
        np.testing.assert_allclose(reward(prompts=prompts, completions=completions), expected, atol=1e-5)
        as_strings = reward(prompts=["you are"] * 30, completions=[c[0]["content"] for c in completions[:30]])
        np.testing.assert_allclose(as_strings, expected[:30], atol=1e-5)  # formatted as the training texts were


def test_a_folder_cannot_apply_a_prompt_template(folders, pairs, tmp_path):
    options = {"prompt_template": "user : {prompt} assistant : {output}", "pooling": "last"}
    fitted = make_pipeline(TransformerEmbedder(folders["gpt_neox"], **options), MaxEntropyIRL()).fit(table(pairs))
    with pytest.warns(UserWarning, match="The pipeline read more than prompt . completion, which is what TRL gives"):
        folder = export_reward_model(fitted, tmp_path / "reward", table(pairs))
    assert "`'user : {prompt} assistant : {output}'`" in (folder / "README.md").read_text()
    model, tokenizer = load_reward_model(folder)
    reward = RewardFunction(fitted, table(pairs), center=0.0, scale=1.0)
    expected = rewards_of(fitted, ["user : not assistant : kind"])
    assert reward(prompts=["not"], completions=["kind"]) == pytest.approx(expected)
    np.testing.assert_allclose(as_trl_scores(model, tokenizer, ["user : not assistant : kind"], 1), expected, atol=1e-4)
    with pytest.raises(Exception, match="reads texts that a prompt_template made"):
        tokenizer.apply_chat_template(turns("not", "kind")[0], tokenize=False)
    with pytest.raises(ValueError, match="the pipeline's embedder was fitted with 'user"):
        RewardFunction(fitted, pairs, prompt_template="{output}")
    ended = table(pairs).assign(prompt="you are\n\n")  # what TRL gives is the same text then: no warning
    export_reward_model(embedding_reward(folders["gpt_neox"], ended), tmp_path / "ended", ended)


def test_the_card_says_where_the_reward_comes_from(neox, pairs, tmp_path):
    folder = export_reward_model(neox, tmp_path / "reward", pairs)
    card, config = (folder / "README.md").read_text(), json.loads((folder / "config.json").read_text())
    for part in ("TransformerEmbedder > StandardScaler > MaxEntropyIRL", "encoder pooling: last", "bf16"):
        assert part in card
    assert config["fairl_sk"]["encoder"]["model"] == neox[0].transformer_[0].settings_["model"]
    written = card + (folder / "config.json").read_text() + (folder / "tokenizer_config.json").read_text()
    assert str(tmp_path.parent) not in written


def test_own_code_needs_nothing_of_this_package_and_stays_in_single_precision(bert, pairs, tmp_path):
    """In a process that cannot import fairl_sk; TRL loads reward models in bfloat16 and wraps them in autocast."""
    folder = export_reward_model(bert, tmp_path / "reward", pairs)
    script = (
        "import sys; sys.modules['fairl_sk'] = None\n"
        "import torch; from transformers import AutoModelForSequenceClassification as A, AutoTokenizer as T\n"
        f"m, t = (k.from_pretrained({str(folder)!r}, trust_remote_code=True, dtype='bfloat16') for k in (A, T))\n"
        "with torch.autocast('cpu', torch.bfloat16): print(m(**t('you are kind', return_tensors='pt')).logits.item())"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert float(result.stdout) == pytest.approx(rewards_of(bert, ["you are kind"])[0], abs=1e-5), result.stderr


@pytest.mark.parametrize(("own_code", "head"), [(False, "score.weight"), (True, "head.weight")])
def test_a_head_that_is_missing_is_not_made_up(own_code, head, neox, pairs, tmp_path):
    folder = export_reward_model(neox, tmp_path / "reward", pairs, custom_code=own_code)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights[head]
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match=f"lack 1 of the model's parameters.* {head}. They would be random"):
        load_reward_model(folder)
    if own_code:  # and transformers alone, which makes up what is missing, cannot score with it
        with pytest.raises(RuntimeError, match="head of this reward model was not loaded"):
            as_trl_scores(*as_trl_loads(folder), ["you are kind"], 1)


def test_other_pipelines_are_refused_with_the_alternative(tfidf, folders, pairs, tmp_path):
    texts, embedder = ["you", "a", "so"], TransformerEmbedder(folders["gpt2"])
    for fitted, message in (
        (tfidf, "starts with TfidfVectorizer, which is no transformer model.*RewardFunction"),
        (embedding_reward(folders["gpt2"], pairs, MinMaxScaler(clip=True)), "MinMaxScaler is not affine.*RewardFunc"),
        (embedding_reward(folders["gpt2"], pairs, dtype="bfloat16"), "runs in bfloat16, but .* float32"),
        (make_pipeline(embedder, SVC()).fit(texts, [0, 1, 1]), "SVC is not linear: it has no coef_.*RewardFunction"),
        (make_pipeline(embedder, LogisticRegression()).fit(texts, [0, 1, 2]), r"shape \(3, 16\).*two classes"),
    ):
        with pytest.raises(ValueError, match=message):
            export_reward_model(fitted, tmp_path / "reward")
    for options in ({"scale": 0.0}, {"center": "mean"}):
        with pytest.raises(ValueError, match="Expected a number, and a number above 0"):
            export_reward_model(fitted, tmp_path / "reward", **options)


def test_a_pipeline_that_is_not_fitted_is_refused(folders, tmp_path):
    fresh = make_pipeline(TransformerEmbedder(folders["gpt2"]), MaxEntropyIRL())
    for call in (lambda p: export_reward_model(p, tmp_path / "reward"), RewardFunction):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call(fresh)
        with pytest.raises(TypeError, match="GaussianNB without decision_function"):
            call(GaussianNB().fit([[0], [1]], [0, 1]))
        with pytest.raises(TypeError, match="Found str 'reward'.*Expected a fitted pipeline"):
            call("reward")


def test_features_of_another_encoder_are_refused(folders, pairs, tmp_path):
    wide = save_model(tmp_path / "wide", "gpt_neox", sizes={"hidden_size": 24})
    fitted = embedding_reward(folders["gpt_neox"], pairs)
    swapped = make_pipeline(TransformerEmbedder(wide, pooling="last").fit(), fitted[-1])
    with pytest.raises(ValueError, match="16 weights for 24 features.*another encoder"):
        export_reward_model(swapped, tmp_path / "reward")
    with pytest.raises(ValueError, match="cannot score texts: X has 24 features.*the encoder that it was fitted with"):
        RewardFunction(swapped, pairs, prompt_template="{output}")
    for name, value in {"model": folders["chat"], "pooling": "mean"}.items():  # of the same width
        changed = make_pipeline(clone(fitted[0]).fit().set_params(**{name: value}), fitted[-1])
        with pytest.raises(ValueError, match=f"encoder is not the one .* fitted with: {name} changed"):
            RewardFunction(changed)


def test_a_reward_of_the_wrong_sign_is_refused(neox, pairs, tmp_path):
    turned = [pair[::-1] for pair in pairs]
    with pytest.raises(ValueError, match="prefers the other side: its mean margin on the training data is -"):
        export_reward_model(neox, tmp_path / "reward", turned)
    export_reward_model(neox, tmp_path / "reward", turned, np.zeros(len(turned), dtype=int))
    outputs, y = [side for pair in pairs for side in pair], np.tile([1, 0], len(pairs))
    RewardFunction(neox, outputs, y, prompt_template="{output}")
    for X, labels in ((turned, None), (outputs, 1 - y)):
        with pytest.raises(ValueError, match="prefers the other side"):
            RewardFunction(neox, X, labels, prompt_template="{output}")


def test_folders_that_are_no_place_and_no_export(neox, folders, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    with pytest.raises(ValueError, match="was not written by export_reward_model"):
        load_reward_model(folders["bert"])
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_reward_model(tmp_path)
    with pytest.raises(FileExistsError, match="full is there already.*nothing is overwritten"):
        export_reward_model(neox, tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        export_reward_model(neox, tmp_path / "nowhere" / "reward")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    load_reward_model(export_reward_model(neox, tmp_path / "empty"))


def test_an_interrupt_leaves_no_half_written_folder(neox, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_reward_model(neox, tmp_path / "reward")
    assert not list(tmp_path.iterdir())


def test_rewards_that_are_not_the_pipelines_are_not_written(folders, pairs, tmp_path):
    fitted = embedding_reward(folders["gpt_neox"], pairs, StandardScaler(), store_dtype="float16")
    fitted[-1].coef_ *= 1000
    with pytest.raises(RuntimeError, match="differ from the pipeline's by up to .*store_dtype='float16'"):
        export_reward_model(fitted, tmp_path / "reward", pairs)
    assert not list(tmp_path.iterdir())


def test_the_callable_gives_frozen_and_bounded_rewards_of_the_pipeline(tfidf, pairs):
    reward = RewardFunction(tfidf, pairs, prompt_template="{output}")
    outputs = [side for pair in pairs for side in pair]
    raw = rewards_of(tfidf, outputs)
    assert (reward.center, reward.scale) == pytest.approx((raw.mean(), raw.std()))
    found = reward(["you"] * 3, outputs[:3])
    assert found == pytest.approx((raw[:3] - raw.mean()) / raw.std())
    assert all(type(value) is float for value in found)
    assert reward(prompts=["you"], completions=outputs[:1]) == pytest.approx(found[:1])  # whatever the batch
    assert reward(completions=[]) == []
    for clip, expected in ((1.5, np.clip(raw / 0.1, -1.5, 1.5)), ("tanh", np.tanh(raw / 0.1)), (None, raw / 0.1)):
        reward = RewardFunction(tfidf, prompt_template="{output}", center=0.0, scale=0.1, clip=clip)
        assert reward(completions=outputs) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("template", "text"),
    [("join", "you are\n\nkind"), ("{output}", "kind"), ("{output} : {prompt}", "kind : you are")],
)
def test_prompts_stand_before_completions_as_in_training(template, text, tfidf, folders, pairs):
    """Texts and messages alike, also where no training text went through the encoder's chat template."""
    direct = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(some_texts(50), np.arange(50) % 2)
    embedded, chatty = embedding_reward(folders["gpt_neox"], pairs), embedding_reward(folders["chat"], pairs)
    prompt, completion = turns("you are", "kind")
    for fitted, X in ((tfidf, None), (direct, None), (embedded, None), (chatty, pairs), (embedded, pairs)):
        reward = RewardFunction(fitted, X, prompt_template=template, center=0.0, scale=1.0)
        expected = pytest.approx(rewards_of(fitted, [text]), abs=1e-5)
        assert reward(prompts=["you are"], completions=["kind"]) == expected
        assert reward(prompts=[prompt], completions=[completion]) == expected


def test_a_format_that_is_not_known_or_not_the_fitted_one_is_refused(tfidf, pairs):
    frozen, alone = {"center": 0.0, "scale": 1.0}, {"prompt_template": "{output}"}
    for X in (None, pairs, table(pairs).drop(columns="prompt")):
        with pytest.raises(ValueError, match="Nothing says whether the training texts had prompts"):
            RewardFunction(tfidf, X, **frozen)
    answers = pd.DataFrame([[turns("", a)[1], turns("", b)[1]] for a, b in pairs], columns=["chosen", "rejected"])
    assert RewardFunction(tfidf, answers).prompt_template == "{output}"
    features = make_pipeline(StandardScaler(), LogisticRegression()).fit([[0.0], [1.0]], [0, 1])
    for fitted, X, options, message in (
        (tfidf, table(pairs), alone, "prompt_template='{output}', but X has prompts"),
        (tfidf, pairs, {"prompt_template": "{prompt}"}, "Expected the field {output}"),
        (tfidf, answers, {"prompt_template": "join"}, "prompt_template='join', but X has no prompts"),
        (tfidf, None, alone, "center='mean', scale='std' without training outputs"),
        (tfidf, np.zeros((3, 2)), alone, "X holds no texts"),
        (tfidf, np.empty((0, 2), dtype=object).astype(str), alone, "X holds 0 rows"),
        (features, None, {**alone, **frozen}, "cannot score texts: .*Expected a pipeline from texts to rewards"),
    ):
        with pytest.raises(ValueError, match=message):
            RewardFunction(fitted, X, **options)


def test_whole_conversations_carry_their_prompts(tfidf, pairs):
    """The chosen and rejected side as TRL's conversations with an implicit prompt, also said twice; and prompts."""
    rows = [[sum(turns("you are", side), []) for side in pair] for pair in pairs]
    chats = pd.DataFrame(rows, columns=["chosen", "rejected"])
    raw = rewards_of(tfidf, [join_prompt("you are", side) for pair in pairs for side in pair])
    for X in (table(pairs), chats, chats.assign(prompt="you are"), datasets.Dataset.from_pandas(chats)):
        reward = RewardFunction(tfidf, X)
        assert (reward.prompt_template, reward.center) == ("join", pytest.approx(raw.mean()))


def test_parts_of_messages_have_the_rewards_of_their_texts(tfidf, pairs):
    """As models that see pictures get them; what is no text is skipped."""
    reward = RewardFunction(tfidf, table(pairs), name="kind")
    said = [{"role": "assistant", "content": [{"type": "text", "text": "thank you"}]}]
    asked = {"type": "text", "text": "you are"}
    plain = reward(prompts=["you are"], completions=["thank you"])
    for parts in ([asked], [{"type": "image", "image": object()}, asked], [asked, {"type": "audio", "audio": b""}]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = reward(prompts=[[{"role": "user", "content": parts}]], completions=[said])
        assert found == plain


def test_bad_input_of_the_callable_is_named(tfidf, pairs):
    for options, message in (
        ({"center": "median"}, "center='median'. Expected 'mean' or a finite number"),
        ({"scale": 0}, "scale=0. Expected 'std' or a number above 0"),
        ({"clip": "sigmoid"}, "clip='sigmoid'. Expected None, 'tanh'"),
        ({"name": "my reward"}, "name='my reward'. Expected letters"),
        ({"on_error": None}, "on_error=None. Expected 'raise' or 'none'"),
    ):
        with pytest.raises(ValueError, match=message):
            RewardFunction(tfidf, pairs, **{"prompt_template": "{output}", **options})
    reward = RewardFunction(tfidf, table(pairs))
    for prompts, completions, message in (
        (["you"], ["kind", "fool"], "Found 1 prompts and 2 completions"),
        (None, ["kind"], "Found no prompts"),
        (["you"], None, "Expected a list of texts"),
        (["you"] * 2, ["kind", turns("kind", "")[0]], "Completion 1 cannot be scored: .*roles user. Expected a turn"),
        (["you"] * 2, ["kind", []], "roles none"),
        (["you"] * 2, ["kind", None], "Completion 1 cannot be scored: .*found NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            reward(prompts, completions)


def test_malformed_completions_can_be_left_out(tfidf, pairs):
    reward = RewardFunction(tfidf, table(pairs), on_error="none")
    completions = [turns("kind", "")[0], "kind", None, [{"role": "assistant", "content": 3}], "fool"]
    with pytest.warns(UserWarning, match="3 completions are malformed and are left out, the first in row 0: .*user"):
        found = reward(["you"] * 5, completions)
    assert found == [None, *reward(["you"], ["kind"]), None, None, *reward(["you"], ["fool"])]
    with pytest.raises(ValueError, match="Found 1 prompts and 2 completions"):
        reward(["you"], ["kind", "fool"])


def test_a_completion_that_repeats_its_prompt_is_scored_as_it_was_written(tfidf, pairs):
    """A trainer says where the prompt ends."""
    reward, prompt = RewardFunction(tfidf, pairs, prompt_template="{output}"), "you are kind and so on"
    said, alone = reward([prompt] * 2, [f"{prompt} fool", " fool"])
    assert said > alone


def test_a_text_without_a_reward_is_left_out_alone(tfidf, pairs, monkeypatch):
    """An empty one, one where the pipeline fails, as a tokenizer does that finds no token, or one of no number."""
    broken, options = pickle.loads(pickle.dumps(tfidf)), {"prompt_template": "{output}", "center": 0.0, "scale": 1.0}
    reward, behind = RewardFunction(broken, **options), RewardFunction(tfidf, table(pairs))
    assert reward(prompts=["you"] * 3, completions=["", " \n", turns("", "")[1]]) == [None] * 3
    assert behind(prompts=["you", ""], completions=["", ""]) == [behind(prompts=[""], completions=["you"])[0], None]
    decide, expected = type(broken).decision_function, rewards_of(tfidf, ["kind", "fool"])

    def refuse(self, X):
        if "???" in list(X):
            raise ValueError("no token")
        return decide(self, X)

    message = "1 completions have no finite reward and are left out, the first in row 1"
    monkeypatch.setattr(type(broken), "decision_function", refuse)
    with pytest.warns(UserWarning, match=message):
        found = reward(completions=["kind", "???", "fool"])
    assert found[1] is None and found[::2] == pytest.approx(expected)
    broken[-1].coef_[:] = np.nan
    with pytest.warns(UserWarning, match=message):
        assert reward(prompts=["you"] * 2, completions=["", "kind"]) == [None, None]
    with pytest.raises(ValueError, match="gave 1 rewards that are not finite, of 1"):
        RewardFunction(broken, **options)
    broken[-1].coef_[:] = 0
    with pytest.raises(ValueError, match="is the same, .* for all 2 training outputs"):
        RewardFunction(broken, ["you", "kind"], prompt_template="{output}")


def test_a_pickled_callable_gives_the_same_rewards(bert, pairs):
    reward = RewardFunction(bert, pairs, prompt_template="{output}", name="kindness", clip="tanh")
    data = pickle.dumps(reward)
    assert len(data) < 30_000
    image = [{"role": "user", "content": "kind", "image": object()}]  # JSON has no word for it
    call = {"prompts": ["a", image], "completions": ["kind", "kind"], "completion_ids": [[1]] * 2}
    found = reward(**call)
    assert pickle.loads(data)(**call) == pytest.approx(found, abs=1e-6) and found[0] == found[1]
    assert reward.__name__ == get_callable_name(reward) == "kindness"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # TRL 1.16
@pytest.mark.parametrize(("trainer", "config"), [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)])
def test_trl_is_given_the_rewards_of_the_pipeline(
    trainer, config, neox, bert, tfidf, folders, pairs, tmp_path, running
):
    """By callables, a server and two folders at once, one of them with own code; in two steps of the smallest run."""
    native, own = (
        str(export_reward_model(fitted, tmp_path / name, pairs)) for fitted, name in ((neox, "native"), (bert, "own"))
    )
    alone = RewardFunction(tfidf, pairs, prompt_template="{output}", name="alone")
    behind = RewardFunction(neox, table(pairs), name="behind", clip=1.0)
    settings = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none"}
    settings |= {"save_strategy": "no", "max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4}
    settings |= {"num_generations": 4, "max_completion_length": 6, "disable_tqdm": True, "trust_remote_code": True}
    encoder_config = transformers.AutoConfig.from_pretrained(folders["gpt_neox"])
    # RLOO reads its reference model from the policy's folder
    transformers.AutoModelForCausalLM.from_config(encoder_config).save_pretrained(tmp_path / "policy")
    with running(make_app(alone)) as url:
        run = trainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy"),
            processing_class=transformers.AutoTokenizer.from_pretrained(folders["gpt_neox"]),
            reward_funcs=[alone, behind, native, own, RemoteReward(url, name="remote")],
            args=config(output_dir=str(tmp_path / "run"), **settings),
            train_dataset=datasets.Dataset.from_dict({"prompt": ["you are", "not a", "thank"], "column": [1, 2, 3]}),
        )
        run.train()
    rewards, prompts, completions = run._logs["rewards"], list(run._logs["prompt"]), list(run._logs["completion"])
    assert len(completions) >= 4 and len(set(completions)) > 1
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    expected = alone(prompts=prompts, completions=completions)
    np.testing.assert_allclose(rewards["native"], rewards_of(neox, texts), atol=1e-4)
    np.testing.assert_allclose(rewards["own"], rewards_of(bert, texts), atol=1e-4)
    np.testing.assert_allclose(rewards["behind"], behind(prompts=prompts, completions=completions), atol=1e-5)
    np.testing.assert_allclose(rewards["remote"], rewards["alone"], atol=1e-6)
    np.testing.assert_allclose(rewards["alone"], [math.nan if r is None else r for r in expected], atol=1e-5)
    assert {"rewards/alone/mean", "rewards/own/std"} <= set(run.state.log_history[0])


def groups_of(n_groups=12, size=8, seed=0):
    rng = np.random.default_rng(seed)
    completions = [" ".join(rng.choice(WORDS, size=rng.integers(8, 20))) for _ in range(n_groups * size)]
    return [f"prompt {row // size}" for row in range(len(completions))], completions


def healthy(prompts, completions, **_):
    """A number between -2 and 2 that looks random, but depends on the text alone."""
    return [np.sin(sum(map(ord, text)) * 0.731 + len(text) ** 2) * 2 for text in completions]


def each(change):
    """A reward function: a change of the healthy reward of each completion."""
    return lambda prompts, completions: list(map(change, healthy(prompts, completions), completions, prompts))


def standardized(prompts, completions, **_):
    values = np.array(healthy(prompts, completions))
    return list((values - values.mean()) / (values.std() + 1e-4))


def measures(result):
    return {row["measure"]: row["value"] for row in result.table}


def test_values_of_the_measures():
    result = check_reward(healthy, *groups_of())
    assert result.warnings == [] and all(row["ok"] for row in result.table)
    assert measures(result)["nats per spread"] == pytest.approx(measures(result)["spread"] / 0.05)
    rewards = {"x": 1.0, "y y": 1.0, "z": 3.0, "u": 2.0, "v": 2.0}
    with pytest.warns(UserWarning):
        result = check_reward(
            lambda completions, **_: list(map(rewards.get, completions)), [*"aaaabb"], ["x", *rewards]
        )
    # x and y y tie, u and v too; x with itself does not count
    expected = {"flat groups": 0.5, "ties": 5 / 6, "spread": math.sqrt(0.75 / 2), "batch": 0, "missing": 0}
    assert {name: measures(result)[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reward", "named", "message"),
    [
        (each(lambda r, text, prompt: len(prompt)), "spread,flat groups,ties,saturation,nats per spread", "one reward"),
        (each(lambda r, *_: (r > 0) + (r > 1.9)), "ties,saturation", "reward of another text of their"),
        (each(lambda r, *_: r if r > -1.8 else None), "missing", "of the completions have no reward"),
        (each(lambda r, *_: math.nan if r < -1.9 else r), "not finite", r"\d+ rewards are NaN or infinite"),
        (each(lambda r, *_: max(-0.5, min(0.5, r))), "ties,saturation", "lie at an end of their range"),
        (each(lambda r, text, _: len(text.split()) + 0.1 * r), "length", "rank correlation (0.9|1.0)"),
        (standardized, "batch", "changes by .* standard deviations when it is computed alone"),
        (each(lambda r, *_: r * 0.001), "nats per spread", "buys 0.0.* nats of KL in RLOO"),
        (each(lambda r, *_: r * 100), "nats per spread", "buys 2.*e.03 nats of KL in RLOO"),
    ],
)
def test_each_fault_is_warned_of(reward, named, message):
    with pytest.warns(UserWarning) as caught:
        result = check_reward(reward, *groups_of())
    assert {row["measure"] for row in result.table if not row["ok"]} == set(named.split(","))
    assert [str(warning.message) for warning in caught] == result.warnings
    assert all(warning.filename == __file__ for warning in caught)
    assert any(re.search(message, text) for text in result.warnings)


def test_columns_and_exported_folders_are_checked(neox, pairs, tmp_path):
    prompts, completions = groups_of(n_groups=4)
    check_reward(lambda prompts, completions, bonus: healthy(prompts, completions), *groups_of(), bonus=[1] * 96)
    folder = export_reward_model(neox, tmp_path / "reward", pairs)
    prompts = [f"you {prompt} " for prompt in prompts]
    chats = zip(*(turns(p, c) for p, c in zip(prompts, completions, strict=True)), strict=True)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")  # whatever it finds
        found, talked = measures(check_reward(folder, prompts, completions)), measures(check_reward(folder, *chats))
    rewards = rewards_of(neox, [p + c for p, c in zip(prompts, completions, strict=True)])
    assert found["spread"] == pytest.approx(np.sqrt(rewards.reshape(4, 8).var(axis=1).mean()), rel=1e-3)
    assert talked["spread"] == pytest.approx(found["spread"], rel=1e-3)  # prompts end in a space
    assert max(found["batch"], talked["batch"]) < 1e-3


def test_bad_input_of_the_check_is_named():
    prompts, completions = groups_of()
    for arguments, options, message in (
        ((healthy, prompts, completions[1:]), {}, "Found 96 prompts, 95 completions"),
        ((healthy, completions, completions), {}, "no two of them equal"),
        ((lambda **_: [None] * 96, prompts, completions), {}, "None of 96 rewards is a finite number"),
        ((lambda **_: [1.0], prompts, completions), {}, "gave 1 rewards for 96 completions"),
        ((healthy, prompts, completions), {"beta": 0}, "beta=0. Expected a number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check_reward(*arguments, **options)
