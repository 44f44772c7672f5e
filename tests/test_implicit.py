"""Implicit rewards: TRL's numbers, each text scored once by each model, nulls, own states, clear errors.

The models are tiny and random, with large weights, so that rewards differ.
"""

import copy
import json
import pickle

import datasets
import numpy as np
import pandas as pd
import peft
import pytest
import torch
import transformers
import trl
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from tiny_models import CHAT, SPECIAL, WORDS, make_model, make_tokenizer, save_model

from fairl_sk import MaxEntropyIRL, PairTransformer
from fairl_sk.features import EmbeddingStore
from fairl_sk.generate import generate_preference_pairs
from fairl_sk.implicit import OwnStates
from fairl_sk.metrics import make_starc_scorer, output_auc_scorer
from fairl_sk.rewards import ImplicitReward

PROMPTS = ["you are", "the green bench is so very", "thank", "go away you awful fool"]
CHOSEN = [" kind", " green", " you for asking the fool", " thank you"]
REJECTED = [" awful fool", " very very awful you fool you are a fool", " a", " go away"]
TABLE = pd.DataFrame({"prompt": PROMPTS, "chosen": CHOSEN, "rejected": REJECTED})
TEXTS = ["you are kind", "go away you awful fool", "thank you", "the bench is so very green", "thank you"]


def as_messages(table):
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    cells = {name: [[{"role": role, "content": text.strip()}] for text in table[name]] for name, role in roles.items()}
    return pd.DataFrame(cells)


def pair(kind="gpt_neox", dtype=torch.float32, **options):
    """A base model and one that was moved from it."""
    base, other = make_model(kind, 0, **options), make_model(kind, 1, **options)
    aligned = copy.deepcopy(base)
    with torch.no_grad():
        for part, move in zip(aligned.parameters(), other.parameters(), strict=True):
            part += 0.2 * move
    return base.to(dtype), aligned.to(dtype)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def reward(tokenizer):
    base, aligned = pair()
    return ImplicitReward(aligned, base, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of a base and an aligned model."""
    folder = tmp_path_factory.mktemp("pair")
    base, aligned = pair()
    transformers.utils.logging.disable_progress_bar()
    for name, model in (("base", base), ("aligned", aligned)):
        model.save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    transformers.utils.logging.enable_progress_bar()
    return str(folder / "base"), str(folder / "aligned")


def adapter_over(base, seed=0):
    """A LoRA adapter over a copy of the model, with random weights."""
    config = peft.LoraConfig(r=2, target_modules=["query_key_value", "dense_4h_to_h"], init_lora_weights=False)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return peft.get_peft_model(copy.deepcopy(base), config).eval()


# -------------------------------------------------------------------------------------------------- values


def trl_rewards(base, aligned, tokenizer, table, tmp_path):
    """Rewards of chosen and rejected over beta, by pair and on average, as TRL's DPO trainer has them."""
    config = trl.DPOConfig(
        output_dir=str(tmp_path), beta=0.3, per_device_eval_batch_size=len(table), report_to="none", use_cpu=True,
        bf16=False, gradient_checkpointing=False, disable_tqdm=True, max_length=None,
    )  # fmt: skip
    rows = datasets.Dataset.from_pandas(table)
    base, aligned = copy.deepcopy(base), copy.deepcopy(aligned)
    trainer = trl.DPOTrainer(
        aligned, base, config, train_dataset=rows, eval_dataset=rows, processing_class=copy.deepcopy(tokenizer)
    )
    inputs = trainer.data_collator(list(trainer.eval_dataset))
    found = [torch.stack(trainer.compute_ref_log_probs(model, inputs), 1) for model in (trainer.model, base)]
    shown = trainer.evaluate()
    means = [shown[f"eval_rewards/{side}"] / config.beta for side in ("chosen", "rejected")]
    return (found[0] - found[1]).detach().numpy(), means


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")  # trl
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize(("kind", "chat"), [("gpt_neox", False), ("gpt_neox", True), ("gpt2", False), ("llama", True)])
def test_rewards_are_those_of_trls_dpo_trainer(kind, chat, padding_side, tmp_path):
    begin = "<s>" if kind == "llama" and not chat else None
    tokenizer = make_tokenizer(chat_template=CHAT, padding_side=padding_side, begin=begin)
    table = as_messages(TABLE) if chat else TABLE
    base, aligned = pair(kind, max_position_embeddings=64)
    expected, means = trl_rewards(base, aligned, tokenizer, table, tmp_path)
    assert np.ptp(expected) > 1
    for batch_size in (None, 1, 3):
        reward = ImplicitReward(aligned, base, tokenizer=tokenizer, batch_size=batch_size)
        found = reward.output_rewards(table)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(found.mean(axis=0), means, atol=1e-4)


def test_the_forms_of_rows_agree(reward):
    pairs = reward.output_rewards(TABLE)
    assert pairs.shape == (4, 2)
    np.testing.assert_array_equal(reward.decision_function(TABLE), pairs[:, 0] - pairs[:, 1])
    np.testing.assert_array_equal(reward.transform(TABLE), pairs[..., None])
    for side, name in enumerate(["chosen", "rejected"]):
        outputs = pd.DataFrame({"prompt": PROMPTS, "completion": TABLE[name]})
        np.testing.assert_allclose(reward.decision_function(outputs), pairs[:, side], atol=1e-5)
        assert reward.transform(outputs).shape == (4, 1)
        given = datasets.Dataset.from_pandas(outputs)
        np.testing.assert_allclose(reward.decision_function(given), pairs[:, side], atol=1e-5)
        called = reward(prompts=PROMPTS, completions=list(TABLE[name]), completion_ids=None)
        np.testing.assert_allclose(called, pairs[:, side], atol=1e-5)
    renamed = TABLE.rename(columns={"prompt": "question"})
    other = clone(reward).set_params(prompt_column="question")
    np.testing.assert_array_equal(other.output_rewards(renamed), pairs)
    alone = reward.output_rewards(TABLE[["chosen", "rejected"]])
    assert not np.allclose(alone, pairs, atol=0.1)
    np.testing.assert_array_equal(reward.output_rewards(TABLE[["chosen", "rejected"]].to_numpy()), alone)
    np.testing.assert_array_equal(clone(reward).set_params(prompt_column=None).output_rewards(TABLE), alone)


def test_messages_say_the_same_in_each_form():
    tokenizer, table = make_tokenizer(chat_template=CHAT), as_messages(TABLE)
    base, aligned = pair(max_position_embeddings=64)
    reward = ImplicitReward(aligned, base, tokenizer=tokenizer)
    pairs = reward.output_rewards(table)
    whole = table.assign(**{side: table["prompt"] + table[side] for side in ("chosen", "rejected")})
    np.testing.assert_array_equal(reward.output_rewards(whole), pairs)
    np.testing.assert_array_equal(reward.output_rewards(whole.drop(columns="prompt")), pairs)
    mixed = table.assign(chosen=TABLE["chosen"].str.strip())
    np.testing.assert_array_equal(reward.output_rewards(mixed), pairs)
    called = reward(prompts=list(table["prompt"]), completions=list(table["chosen"]))
    np.testing.assert_allclose(called, pairs[:, 0], atol=1e-5)


def test_a_text_alone_follows_the_token_that_begins_texts(reward):
    """By hand: the log-softmax of both models, without batches."""
    ids = torch.tensor([[1, *reward.tokenizer(TEXTS[0])["input_ids"], 2]])
    by_hand = []
    for model in (reward.aligned, reward.base):
        log_probs = model(ids).logits[0, :-1].log_softmax(1)
        by_hand.append(log_probs.gather(1, ids[0, 1:, None])[:, 0].detach().numpy())
    shares = by_hand[0] - by_hand[1]
    tokens, found = zip(*reward.token_rewards(TEXTS)[0], strict=True)
    assert tokens == ("you", "are", "kind", "<end>")
    np.testing.assert_allclose(found, shares, atol=1e-5)
    np.testing.assert_allclose(reward.decision_function(TEXTS)[0], shares.sum(), atol=1e-5)
    open_ended = clone(reward).set_params(end_token=False)
    np.testing.assert_allclose(open_ended.decision_function(TEXTS)[0], shares[:-1].sum(), atol=1e-5)
    mean = clone(reward).set_params(reduction="mean", beta=2.0)
    np.testing.assert_allclose(mean.decision_function(TEXTS)[0], 2 * shares.mean(), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"reduction": "mean"}, {"beta": 0.1, "end_token": False}])
@pytest.mark.parametrize("n_models", [1, 3])
def test_shares_of_tokens_sum_to_the_reward(reward, options, n_models):
    aligned = [reward.aligned, *(make_model(seed=seed) for seed in (5, 6))][:n_models]
    reward = clone(reward).set_params(**options, aligned=aligned).fit(TABLE)
    sums = [sum(share for _, share in row) for row in reward.token_rewards(TABLE)]
    np.testing.assert_allclose(sums, reward.output_rewards(TABLE).ravel(), atol=1e-5)
    nulls = reward.null_token_rewards(TABLE, 2, random_state=3)
    assert [each.shape[2] for each in nulls] == list(map(len, reward.token_rewards(TABLE)))
    sums = np.stack([each.sum(axis=2) for each in nulls], axis=2).reshape(2, n_models, 4, 2)
    np.testing.assert_allclose(sums, reward.null(TABLE, 2, random_state=3).null_rewards, atol=1e-5)


def test_several_models_are_scaled_and_averaged(reward):
    several = clone(reward).set_params(aligned=[reward.aligned, make_model(seed=7)])
    with pytest.raises(NotFittedError, match=r"2 aligned models before fit.*fit\(X\)"):
        several.decision_function(TEXTS)
    with pytest.raises(ValueError, match="X=None and 2 aligned models"):
        several.fit()
    each = several.model_rewards(TABLE)
    np.testing.assert_array_equal(each[0], reward.output_rewards(TABLE))
    several.fit(TABLE)
    np.testing.assert_allclose(several.scale_, each.reshape(2, -1).std(axis=1))
    expected = (each / several.scale_[:, None, None]).mean(axis=0)
    np.testing.assert_allclose(several.output_rewards(TABLE), expected)
    np.testing.assert_allclose(several.output_rewards(TABLE[:1]), expected[:1], atol=1e-5)  # whatever else is scored


@pytest.mark.parametrize("folder", [True, False])
def test_a_model_against_itself_gives_0_and_a_warning(folders, tokenizer, folder):
    model = folders[0] if folder else make_model()
    reward = ImplicitReward(model, model, tokenizer=tokenizer)
    with pytest.warns(UserWarning, match="same probability as the base model: nothing was learned"):
        np.testing.assert_allclose(reward.output_rewards(TABLE), 0, atol=1e-5)
    with pytest.warns(UserWarning, match="nothing was learned"):
        assert reward.null(TABLE, 1).null_spread == 0


def test_folders_and_loaded_models_agree(folders, reward):
    base, aligned = folders
    found = ImplicitReward(aligned, base)
    np.testing.assert_allclose(found.decision_function(TABLE), reward.decision_function(TABLE), atol=1e-5)
    found = pickle.loads(pickle.dumps(found))
    np.testing.assert_allclose(found.decision_function(TABLE), reward.decision_function(TABLE), atol=1e-5)
    assert clone(reward).aligned is reward.aligned  # not copied


def test_a_longer_vocabulary_of_the_same_tokenizer_changes_nothing(reward):
    padded = copy.deepcopy(reward.aligned)
    padded.resize_token_embeddings(64, mean_resizing=False)
    found = clone(reward).set_params(aligned=padded)
    np.testing.assert_allclose(found.output_rewards(TABLE), reward.output_rewards(TABLE), atol=1e-5)
    assert found.null(TABLE, 1).null_spread > 0


@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
def test_chunks_of_positions_and_whole_logits_agree(kind, monkeypatch, tokenizer):
    """As for large vocabularies, and as for a model with a step behind its head: no more logits than said."""
    base, aligned = pair(kind)
    reward = ImplicitReward(aligned, base, tokenizer=tokenizer)
    expected = reward.output_rewards(TABLE)
    monkeypatch.setattr("fairl_sk.implicit.scoring._CHUNK", 2 * len(SPECIAL + WORDS))
    monkeypatch.setattr("fairl_sk.implicit.scoring._LEAST_POSITIONS", 2)
    positions = []
    for model in (base, aligned):
        model.get_output_embeddings().register_forward_hook(lambda *given: positions.append(given[2].shape))
    np.testing.assert_allclose(reward.output_rewards(TABLE), expected, atol=1e-5)
    assert all(len(shape) == 3 or shape[0] <= 2 for shape in positions)  # others: the check of the model
    monkeypatch.setattr("fairl_sk.implicit.scoring._BATCH", 24 * len(SPECIAL + WORDS))
    shapes = []
    for model in (base, aligned):
        model.register_forward_hook(_double_logits)
        model.register_forward_hook(lambda *given: shapes.append(given[2].logits.shape[:2]))
    doubled = reward.output_rewards(TABLE)
    assert max(rows for rows, _ in shapes) > 1 and all(rows * tokens <= 24 for rows, tokens in shapes)
    assert not np.allclose(doubled, expected, atol=0.1)
    for model in (base, aligned):
        model.get_output_embeddings().weight.data *= 2
        model._forward_hooks.clear()
    np.testing.assert_allclose(doubled, reward.output_rewards(TABLE), atol=1e-4)


def _double_logits(_, __, output):
    output.logits = 2 * output.logits
    return output


# -------------------------------------------------------------------------------------------------- adapters


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, of transformers
def test_an_adapter_is_switched_off_for_the_base(tokenizer):
    base = make_model()
    adapted = adapter_over(base)
    merged = copy.deepcopy(adapted).merge_and_unload()
    expected = ImplicitReward(merged, base, tokenizer=tokenizer)
    margins = expected.decision_function(TABLE)
    assert np.ptp(margins) > 0.1
    for model, below in ((adapted, None), (adapted, base), (adapted, adapted.get_base_model())):
        found = ImplicitReward(model, below, tokenizer=tokenizer)
        np.testing.assert_allclose(found.decision_function(TABLE), margins, atol=1e-4)
        noise = found.null(TABLE, 2)
        np.testing.assert_allclose(noise.null_spread, expected.null(TABLE, 2).null_spread, rtol=1e-3)
    assert not adapted.get_model_status().enabled == "irregular" and adapted.get_model_status().enabled


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, of transformers
def test_a_folder_of_an_adapter_loads_the_weights_once(tokenizer, folders, tmp_path, monkeypatch):
    base = transformers.AutoModelForCausalLM.from_pretrained(folders[0])
    adapted = adapter_over(base)
    adapted.peft_config["default"].base_model_name_or_path = folders[0]
    adapted.save_pretrained(tmp_path / "adapter")
    expected = ImplicitReward(adapted, tokenizer=tokenizer).decision_function(TABLE)
    loaded = []
    load = transformers.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: loaded.append(a) or load(*a, **k)
    )
    for below in (None, folders[0]):
        found = ImplicitReward(str(tmp_path / "adapter"), below, store=tmp_path / "store")
        np.testing.assert_allclose(found.decision_function(TABLE), expected, atol=1e-4)
    assert len(loaded) == 1
    found.null(TABLE, 1)
    with pytest.raises(ValueError, match="base=None, and an aligned model aligned without a PEFT adapter.*base model"):
        ImplicitReward(folders[1]).fit()


# ------------------------------------------------------------------------------------------------ the store


def count_passes(model):
    """A list that grows by the texts of each batch that a model reads, from now on."""
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


def test_no_model_scores_a_text_twice(reward, tmp_path):
    stored = clone(reward).set_params(store=tmp_path / "store")
    expected = reward.output_rewards(TABLE)
    np.testing.assert_array_equal(stored.output_rewards(TABLE[:3]), expected[:3].astype(float))
    calls = [count_passes(model.base_model) for model in (reward.base, reward.aligned)]
    np.testing.assert_allclose(stored.output_rewards(TABLE), expected, atol=1e-5)
    assert all(sum(1 for n in seen) <= 4 for seen in calls)  # a check of the head, and the two new outputs
    for seen in calls:
        seen.clear()
    again = stored.output_rewards(TABLE)
    np.testing.assert_array_equal(
        stored.set_params(reduction="mean", beta=3.0, batch_size=1).transform(TABLE).shape, (4, 2, 1)
    )
    np.testing.assert_array_equal(clone(stored).set_params(reduction="sum", beta=1.0).output_rewards(TABLE), again)
    assert calls == [[], []]
    stored.set_params(end_token=False).output_rewards(TABLE)
    assert all(calls)


def test_other_weights_are_scored_anew_and_nulls_are_kept(reward, tmp_path):
    stored = clone(reward).set_params(store=tmp_path / "store")
    first, noise = stored.output_rewards(TABLE), stored.null(TABLE, 2)
    calls = count_passes(reward.base.base_model)
    np.testing.assert_array_equal(stored.null(TABLE, 2).null_rewards, noise.null_rewards)
    assert not calls
    with torch.no_grad():
        reward.aligned.get_output_embeddings().weight *= 1.1
    assert not np.allclose(stored.output_rewards(TABLE), first, atol=1e-3)
    assert not calls  # the base model is the same
    names = {row["settings"]["columns"] for row in EmbeddingStore(tmp_path / "store").list()}
    assert names == {"log-probability, tokens"}


def test_a_store_that_cannot_be_written_costs_nothing_but_a_warning(reward, tmp_path):
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(OSError, match="is a file"):
        clone(reward).set_params(store=tmp_path / "store").output_rewards(TABLE)


# ------------------------------------------------------------------------------------ nulls, noise, divergence


def test_the_null_moves_each_tensor_as_far_as_alignment(reward):
    found = reward.null(TABLE, n_draws=4, random_state=3)
    assert found.spread == pytest.approx(np.std(reward.output_rewards(TABLE)))
    assert found.null_spread.shape == (4, 1) and found.null_rewards.shape == (4, 1, 4, 2)
    np.testing.assert_allclose(found.null_rewards[:, 0].reshape(4, -1).std(axis=1), found.null_spread[:, 0])
    np.testing.assert_array_equal(reward.null(TABLE, 2, random_state=3).null_rewards, found.null_rewards[:2])
    assert not np.allclose(reward.null(TABLE, 1, random_state=4).null_rewards, found.null_rewards[:1])
    spreads = []
    for share in (0.001, 0.002):
        near = copy.deepcopy(reward.base)
        with torch.no_grad():
            for part, moved in zip(near.parameters(), reward.aligned.parameters(), strict=True):
                part += share * (moved - part)
        spreads.append(clone(reward).set_params(aligned=near).null(TABLE, n_draws=2, random_state=3).null_spread)
    np.testing.assert_allclose(spreads[1], 2 * spreads[0], rtol=0.05)


def test_the_null_needs_the_same_weights(reward, tokenizer):
    reward.base.is_quantized = True
    with pytest.raises(ValueError, match="quantized base model.*without quantization"):
        reward.null(TABLE, 1)
    assert reward.output_rewards(TABLE).shape == (4, 2)
    other = ImplicitReward(make_model("gpt2"), make_model(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="has no weights 'gpt_neox.embed_in.weight'.*no null of another"):
        other.null(TABLE, 1)


def test_the_noise_floor_is_that_of_rounding(tokenizer):
    floors = {}
    for dtype in ("float32", "bfloat16"):
        base, aligned = pair(dtype=getattr(torch, dtype))
        reward = ImplicitReward(aligned, base, tokenizer=tokenizer)
        floors[dtype] = reward.noise_floor(TABLE)
        assert base.dtype == getattr(torch, dtype)
    assert floors["float32"] < 1e-5 < 1e-3 < floors["bfloat16"] < 0.1 * np.std(reward.output_rewards(TABLE))


def test_divergence_is_positive_unless_the_models_are_exchanged(tokenizer):
    base, aligned = pair()
    prompts = [f"{a} {b}" for a in WORDS[:10] for b in WORDS[:10]]
    options = {"tokenizer": tokenizer, "max_new_tokens": 4, "min_new_tokens": 4}
    pairs = generate_preference_pairs(base, aligned, prompts, **options)
    table = pd.DataFrame({"prompt": pairs.prompt, "chosen": pairs.data[:, 0], "rejected": pairs.data[:, 1]})
    table["prompt"] += " "
    found = ImplicitReward(aligned, base, tokenizer=tokenizer, end_token=False).kl(table, pairs.target)
    swapped = ImplicitReward(base, aligned, tokenizer=tokenizer, end_token=False).kl(table, pairs.target)
    for name in ("aligned", "base"):
        assert found[name] > 3 * found[f"{name}_error"] > 0
        assert swapped[name] < -3 * swapped[f"{name}_error"]
    with pytest.raises(ValueError, match="single outputs. Expected pairs"):
        ImplicitReward(aligned, base, tokenizer=tokenizer).kl(TEXTS)


# -------------------------------------------------------------------------------------------------- own states


@pytest.mark.parametrize("layers", [[-1], [0, 2, 1]])
def test_states_are_means_over_the_tokens_of_outputs(tokenizer, layers):
    model = make_model()
    states = OwnStates(model, layers=layers, tokenizer=tokenizer)
    found = states.fit_transform(TABLE)
    assert found.shape == (4, 2, 16 * len(layers)) and len(states.get_feature_names_out()) == found.shape[2]
    for row, side in ((1, "chosen"), (1, "rejected"), (0, "chosen")):
        before, after = (tokenizer(TABLE[name][row])["input_ids"] for name in ("prompt", side))
        hidden = model(torch.tensor([[*before, *after, 2]]), output_hidden_states=True).hidden_states
        by_hand = torch.cat([hidden[layer][0, len(before) :].mean(dim=0) for layer in layers])
        np.testing.assert_allclose(found[row, int(side == "rejected")], by_hand.detach(), atol=1e-5)


def test_one_pass_gives_states_and_rewards(reward, tmp_path):
    options = {"tokenizer": reward.tokenizer, "store": tmp_path / "store"}
    states = OwnStates(reward.aligned, layers=[1, 2], **options)
    first = states.transform(TABLE)
    calls = count_passes(reward.aligned.base_model)
    stored = clone(reward).set_params(store=tmp_path / "store")
    np.testing.assert_array_equal(stored.output_rewards(TABLE), reward.output_rewards(TABLE))
    calls.clear()
    stored.output_rewards(TABLE)
    np.testing.assert_array_equal(clone(states).set_params(layers=[2]).transform(TABLE), first[..., 16:])
    assert not calls


def test_states_are_features_in_a_search_over_pairs(tokenizer):
    texts = [f" {a} {b}" for a in WORDS[:8] for b in WORDS[:8]]
    table = pd.DataFrame({"prompt": "you are", "chosen": texts, "rejected": np.roll(texts, 11)})
    states = OwnStates(make_model(), tokenizer=tokenizer)
    search = GridSearchCV(
        make_pipeline(states, MaxEntropyIRL()), {"ownstates__layers": [[1], [2]]}, cv=2, scoring="accuracy"
    )
    search.fit(table, np.arange(64) % 2)
    margins = search.decision_function(table)
    outputs = [pd.DataFrame({"prompt": "you are", "completion": table[side]}) for side in ("chosen", "rejected")]
    first, second = (search.decision_function(each) for each in outputs)
    np.testing.assert_allclose(margins, first - second, atol=1e-4)
    assert make_pipeline(PairTransformer(OwnStates(make_model(), tokenizer=tokenizer))).fit_transform(TABLE).shape == (
        (4, 2, 16)
    )


def test_a_layer_that_is_not_there_is_named(tokenizer):
    for layers in ([3], [], [0.5]):
        with pytest.raises(ValueError, match="layers=.*-2 to 2: the aligned model has 2"):
            OwnStates(make_model(), layers=layers, tokenizer=tokenizer).fit()


# ------------------------------------------------------------------------------------- a reward as the others


def test_it_is_a_ground_truth_and_its_prompts_are_read(reward):
    pairs, texts = reward.output_rewards(TABLE), TABLE[["chosen", "rejected"]].to_numpy()
    scorer = make_starc_scorer(reward)
    assert scorer(reward, TABLE) == pytest.approx(0, abs=1e-5)
    assert scorer(reward, texts) == pytest.approx(0, abs=1e-5)
    assert scorer(clone(reward).set_params(prompt_column=None), TABLE) < -0.01
    labels = (pairs > np.median(pairs)).astype(int)
    assert output_auc_scorer(reward, TABLE, output_labels=labels) == 1
    np.testing.assert_array_equal(reward(TEXTS), reward.decision_function(TEXTS))


def test_it_rewards_completions_in_trl(reward):
    found = reward(prompts=["you are", "thank"], completions=[" kind", " "], trainer_state=None)
    assert reward.__name__ == "ImplicitReward" and found[1] is None and isinstance(found[0], float)
    assert reward(prompts=["you"], completions=[""]) == [None]


def test_its_record_follows_the_models(folders, reward):
    record = ImplicitReward(folders[1], folders[0]).describe()
    assert json.loads(json.dumps(record)) == record
    assert (record["aligned"][0]["model"], record["base"][0]["model"]) == ("aligned", "base")
    assert record["aligned"][0]["checksum"] != record["base"][0]["checksum"]
    assert (record["reward"], record["beta"], record["reduction"]) == ("ImplicitReward", 1.0, "sum")


# -------------------------------------------------------------------------------------------------- bad input


def test_models_of_two_tokenizers_are_refused_with_the_way_out(folders, tmp_path):
    save_model(tmp_path / "other", "gpt_neox", causal=True, words=[*WORDS[:-1], "bank"])
    with pytest.raises(ValueError, match="different tokenizers.*same tokens.*ref_chosen_logps.*load_preferences"):
        ImplicitReward(str(tmp_path / "other"), folders[0]).decision_function(TEXTS)


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_output_is_named(reward, empty):
    with pytest.raises(ValueError, match="empty output in row 1. Expected a text"):
        reward.decision_function(["you", empty])
    with pytest.raises(ValueError, match="empty output in row 0, side 1"):
        reward.decision_function([["you", empty]])


def test_a_text_that_is_too_long_is_named(reward):
    table = pd.DataFrame({"prompt": ["you", "you are " * 20], "completion": " kind"})
    with pytest.raises(
        ValueError, match="row 1 is too long for the base model: 40 tokens of its prompt and 2 of its.*32"
    ):
        reward.decision_function(table)


def test_a_token_of_probability_0_is_named(reward):
    head = reward.aligned.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    with torch.no_grad():
        head.bias[len(SPECIAL) + WORDS.index("kind")] = -torch.inf
    with pytest.raises(ValueError, match="aligned model gives token 2 of the output in row 1 the probability 0.*drop"):
        reward.decision_function(["thank you", "you are kind"])
    reward.decision_function(["thank you"])
    with torch.no_grad():
        head.bias[:] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        reward.decision_function(["thank you"])


@pytest.mark.filterwarnings("ignore:.*is_decoder:UserWarning")
def test_what_is_no_causal_language_model_is_refused(reward, tokenizer, folders, tmp_path):
    classifier = transformers.AutoModelForSequenceClassification.from_config(make_model("gpt2").config)
    with pytest.raises(ValueError, match="aligned model is a GPT2ForSequenceClassification, not a causal language"):
        ImplicitReward(classifier, make_model(), tokenizer=tokenizer).decision_function(TEXTS)
    classifier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a GPT2ForSequenceClassification, not a causal language model"):
        ImplicitReward(str(tmp_path), folders[0]).decision_function(TEXTS)
    make_model("bert", causal=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a BertModel, not a causal language model"):
        ImplicitReward(str(tmp_path), folders[0]).decision_function(TEXTS)
    encoder = make_model("bert", is_decoder=False)
    with pytest.raises(ValueError, match="another probability when more text follows.*encoder"):
        ImplicitReward(encoder, make_model(), tokenizer=tokenizer).decision_function(TEXTS)
    with pytest.raises(ValueError, match="Found int 3 as the aligned model"):
        ImplicitReward(3, make_model(), tokenizer=tokenizer).fit()
    with pytest.raises(OSError, match="Cannot load the model 'nowhere/at-all'"):
        ImplicitReward("nowhere/at-all", folders[0]).fit()


def test_rows_that_cannot_be_read_are_refused(reward):
    for X, message in (
        (np.ones((3, 4)), "holds no texts"),
        (pd.DataFrame({"completion": []}), "0 rows"),
        (as_messages(TABLE), "no chat template"),
    ):
        with pytest.raises(ValueError, match=message):
            reward.decision_function(X)
    with pytest.raises(ValueError, match="columns .*'completion'.*Expected one of prompts, 'question'"):
        clone(reward).set_params(prompt_column="question").decision_function(pd.DataFrame({"completion": TEXTS}))
    nameless = make_tokenizer(bos_token=None, eos_token=None)
    with pytest.raises(ValueError, match="no end token.*end_token=False"):
        clone(reward).set_params(tokenizer=nameless).decision_function(TEXTS)
    with pytest.raises(ValueError, match="without a prompt, and a tokenizer that has neither"):
        clone(reward).set_params(tokenizer=nameless, end_token=False).decision_function(TEXTS)
    chat = clone(reward).set_params(tokenizer=make_tokenizer(chat_template=CHAT))
    with pytest.raises(ValueError, match="'kind' as a message without a prompt"):
        chat.decision_function(as_messages(TABLE)[["chosen", "rejected"]])
    for name, value in (("beta", 0), ("reduction", "max"), ("dtype", "int8"), ("batch_size", 0), ("device", "cuda:99")):
        with pytest.raises(ValueError, match=name):
            clone(reward).set_params(**{name: value}).fit()
