"""The paper's whole pipeline in one command: align a model, recover its reward, re-align with it, and measure.

    python benchmarks/realign.py --pairs paradetox.tsv --labelled davidson.csv --out realign --size small

1. base: a small GPT-NeoX learns to write the texts of the files (or ``--base`` names a causal language model). The
   ground-truth reward is the classifier of toxicity_reference.py, trained on all these texts and their labels.
2. aligned: the base model is aligned with the ground-truth reward by TRL's RLOO or GRPO.
3. pairs: base and aligned model complete the same prompts, 20 tokens each.
4. rewards: each learner recovers a reward from the pairs, its L2 strength by cross-validation on pairs. Features are
   MiniLM alone, joined with n-grams, or states of the aligned model. Only the learner of labels gets the ground truth's
   labels. The distilled ones learn from both models' log-probabilities. The null is fitted on shuffled preferences.
5. arms: the base model is aligned with each reward, several seeds each. Each reward is scaled by its standard deviation
   over the same completions of the base model, so that beta weighs the same. A pipeline on MiniLM goes to TRL as the
   folder that it is exported to, the others as a RewardFunction.
6. The table, over completions of prompts that no stage has seen, and curves.

Prompts are the first words of texts that the base model has not seen. Every stage keeps what it has finished in the
folder ``--out``: an interrupted run goes on where it was. Without files the package's own corpus is used.
"""

import argparse
import html
import itertools
import json
import os
import re
import shutil
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import skops.io
import torch
from realign_tables import RANDOM, TRUTH, format_scores, format_table, plot_curves, summarize
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from toxicity_reference import SIZES as REFERENCE_SIZES
from toxicity_reference import train as train_reference

from fairl_sk import (
    DistilledIRL,
    FailureAwareIRL,
    MaxEntropyIRL,
    MaxEntropyIRLCV,
    MaxMarginIRL,
    TextFeatures,
    TransformerEmbedder,
)
from fairl_sk.datasets import load_preferences, make_detox_preferences
from fairl_sk.export import RewardFunction, export_reward_model, load_reward_model
from fairl_sk.export.folder import score_texts
from fairl_sk.generate import generate_completions, generate_preference_pairs, pair_kinds
from fairl_sk.implicit import OwnStates
from fairl_sk.metrics import bootstrap_interval, pair_accuracy_scorer, pair_log_loss_scorer
from fairl_sk.pairs import PairTransformer, stack_outputs
from fairl_sk.rewards import ImplicitReward

ALPHAS = [1e-5, 1e-4, 1e-3, 1e-2]
EXPORTED = "MiniLM"  # such a pipeline can be a folder, and goes to TRL as one


class Candidate(NamedTuple):
    """How a reward is learned."""

    learner: BaseEstimator
    features: str = "MiniLM"  # "joined": with n-grams; "own states": of the aligned model
    labelled: bool = False  # whether it is told the ground truth's labels


REWARDS = {
    "MaxMarginIRL": Candidate(MaxMarginIRL()),
    "MaxEntropyIRL": Candidate(MaxEntropyIRL()),
    "FailureAwareIRL.paper()": Candidate(FailureAwareIRL.paper()),
    "FailureAwareIRL, joined": Candidate(FailureAwareIRL(), "joined"),
    "FailureAwareIRL, joined, labels": Candidate(
        FailureAwareIRL(failures="confirmed", failure_weight=1.0, pointwise_weight=3.0, recurrence_correlation=0.0),
        "joined",
        labelled=True,
    ),
    "DistilledIRL, joined": Candidate(DistilledIRL(), "joined"),
    "DistilledIRL, own states": Candidate(DistilledIRL(), "own states"),
    RANDOM: Candidate(MaxEntropyIRL()),
}


@dataclass(frozen=True)
class Plan:
    """How large each stage is."""

    vocabulary: int
    width: int
    layers: int
    epochs: float
    held_out: float  # share of the texts that give prompts
    align_prompts: int
    pairs: int  # a quarter of them measures the rewards
    test_prompts: int  # two completions each
    steps: int
    batch: int
    seeds: int
    reference: str
    learning_rate: float = 3e-4
    algorithm: str = "rloo"
    beta: float = 0.1  # at 0.05 the ground truth itself is exploited: "things" in 14 % of the completions
    n_tokens: int = 20
    encoder: str = "minilm"


SIZES = {
    "smoke": Plan(1000, 64, 1, 1, 0.5, 40, 160, 50, 8, 16, 1, "smoke", 3e-3),
    "small": Plan(4096, 192, 4, 3, 0.36, 1600, 4000, 800, 150, 64, 3, "small"),
    "gpu": Plan(4096, 512, 8, 3, 0.36, 1600, 4000, 800, 500, 256, 5, "small", 1e-4),
}


class Study:
    """The folder of a run: what a stage has finished lies there, under the settings that it was made with."""

    def __init__(self, folder, settings=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if settings is None:
            return
        if not self.path("settings.json").exists():
            self.write_json("settings.json", settings)
        earlier = self.read_json("settings.json")
        changed = sorted(name for name in {*earlier, *settings} if earlier.get(name) != settings.get(name))
        if changed:
            found = f"{folder} holds a run with other settings ({', '.join(changed)})"
            raise ValueError(f"{found}: name another folder for --out, or repeat the command that began it.")

    def path(self, name):
        return self.folder / name

    def make(self, name, write):
        """Path of a file or folder; where it is missing, ``write(path)`` makes it, whole or not at all."""
        path = self.path(name)
        if not path.exists():
            begun = path.with_name(f"{path.name}.begun")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(begun, ignore_errors=True)
            if path.suffix != ".json":
                print(f"{name} ...", flush=True)
            write(begun)
            os.replace(begun, path)
        return path

    def write_json(self, name, value):
        self.path(name).unlink(missing_ok=True)
        self.make(name, lambda path: path.write_text(json.dumps(value, indent=1), encoding="utf-8"))

    def read_json(self, name):
        return json.loads(self.path(name).read_text(encoding="utf-8"))


def clean(text):
    """Lower-case words and marks of a post: no links, user names or signs, which would be all that it is known by."""
    text = html.unescape(text).lower()
    text = re.sub(r"https?://\S+|@\w+|#(?=\w)|\brt\b", " ", text)
    text = re.sub(r"[^a-z0-9'!?.,\- ]+", " ", text.translate(str.maketrans("‘’“”", "''\"\"")))
    text = re.sub(r"([!?.,\-'])\1+", r"\1", re.sub(r"\s+([!?.,])", r"\1", text))
    return re.sub(r"\s+", " ", text).strip(" :-,.!?")


def read_texts(pairs, labelled):
    """Distinct texts (n_texts,) and their labels (n_texts,), 1 = desirable; of a text with both labels, one is kept."""
    if pairs is None:
        corpus = make_detox_preferences(4000, random_state=0)
        texts, labels = corpus.data.ravel(), corpus.output_labels.ravel()
    else:
        single = load_preferences(labelled, text_column="tweet", label_column="class", desirable=2)
        paired = load_preferences(pairs)
        texts = np.concatenate([single.data, paired.data.ravel()])
        labels = np.concatenate([single.target, np.stack([paired.target, 1 - paired.target], axis=1).ravel()])
    cleaned = np.array([clean(text) for text in texts], dtype=object)
    distinct, first = np.unique(cleaned, return_index=True)
    long_enough = np.array([len(text.split()) >= 5 for text in distinct])
    return distinct[long_enough], labels[first][long_enough]


def prepare_texts(study, plan, pairs, labelled):
    """Texts to learn to write, and prompts for each later stage; the ground truth is trained on the way."""
    texts, labels = read_texts(pairs, labelled)

    def write_reference(path):
        size = REFERENCE_SIZES[plan.reference]
        model = train_reference(texts, labels, np.arange(len(texts)), size["C"], size["folds"], seed=0)
        path.write_bytes(skops.io.dumps(model))

    def write_texts(path):
        shuffled = texts[np.random.default_rng(0).permutation(len(texts))]
        n_held_out = int(plan.held_out * len(texts))
        truth = load_reward(study.path("reference.skops")).decision_function
        held_out = shuffled[:n_held_out]
        prompts = list(dict.fromkeys(" ".join(text.split()[:4]) for text in held_out[truth(held_out) > 0]))
        prompts = np.array(prompts, dtype=object)[truth(prompts) > 0]
        sizes = {"align": plan.align_prompts, "pairs": plan.pairs, "test": plan.test_prompts}
        if sum(sizes.values()) > len(prompts):
            raise ValueError(f"Found {len(prompts)} prompts, but {sum(sizes.values())} are needed ({sizes}).")
        ends = np.cumsum([0, *sizes.values()])
        dealt = {name: list(prompts[ends[i] : ends[i + 1]]) for i, name in enumerate(sizes)}
        path.write_text(json.dumps({"train": list(shuffled[n_held_out:]), **dealt}), encoding="utf-8")

    study.make("reference.skops", write_reference)
    study.make("texts.json", write_texts)


def load_reward(path):
    """A fitted pipeline that this benchmark saved."""
    return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))


def train_base(texts, plan, folder):
    """A GPT-NeoX and its byte-level BPE, trained from scratch."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

    bpe = ByteLevelBPETokenizer()
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    bpe.train_from_iterator(texts, plan.vocabulary, special_tokens=list(special.values()), show_progress=False)
    options = {"padding_side": "left", "model_max_length": 128, **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(bpe.to_str()), **options)
    ids = list(itertools.chain.from_iterable([*row, tokenizer.eos_token_id] for row in tokenizer(texts)["input_ids"]))
    blocks = torch.tensor(ids[: len(ids) // 64 * 64]).reshape(-1, 64)
    torch.manual_seed(0)
    config = {"num_attention_heads": 4, "max_position_embeddings": 128, "bos_token_id": tokenizer.eos_token_id}
    config |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config |= {"hidden_size": plan.width, "intermediate_size": 4 * plan.width, "num_hidden_layers": plan.layers}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), **config))
    arguments = TrainingArguments(
        str(folder) + ".trainer",
        per_device_train_batch_size=32,
        num_train_epochs=plan.epochs,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=min(100, len(blocks) // 100),
        weight_decay=0.1,
        report_to="none",
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        seed=0,
    )
    Trainer(model, arguments, train_dataset=[{"input_ids": block, "labels": block} for block in blocks]).train()
    shutil.rmtree(arguments.output_dir, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Timed:
    """A reward function that adds up the seconds it takes."""

    def __init__(self, reward, name):
        self.reward, self.seconds, self.__name__ = reward, 0.0, name

    def __call__(self, **columns):
        start = time.perf_counter()
        rewards = self.reward(**columns)
        self.seconds += time.perf_counter() - start
        return rewards


def align(base, reward, truth, prompts, plan, seed, folder, callbacks=(), weights=(1.0, 0.0)):
    """Align the model in ``base`` with a reward function; the policy, its curve, and the share of the reward's time.

    The ground truth looks on with weight 0, so that its curve is known for every reward; other weights add both.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    trainer_class, config_class, own = {
        "grpo": (GRPOTrainer, GRPOConfig, {"loss_type": "dapo", "scale_rewards": "group"}),
        "rloo": (RLOOTrainer, RLOOConfig, {"normalize_advantages": False}),
    }[plan.algorithm]
    on_gpu = torch.cuda.is_available()
    config = config_class(
        output_dir=str(folder),
        use_cpu=not on_gpu,
        bf16=on_gpu,
        activation_checkpointing=False,
        per_device_train_batch_size=plan.batch,
        num_generations=8,
        max_completion_length=plan.n_tokens,
        generation_kwargs={"min_new_tokens": plan.n_tokens},  # all of one length: length earns nothing
        temperature=1.0,
        learning_rate=plan.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(10, plan.steps // 2),
        max_grad_norm=1.0,
        max_steps=plan.steps,
        logging_steps=max(1, plan.steps // 15),
        beta=plan.beta,
        reward_weights=list(weights),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        **own,
    )
    model = load_model(base)
    timed = Timed(reward, "reward"), Timed(truth, "toxicity")
    trainer = trainer_class(
        model=model,
        reward_funcs=list(timed),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=load_tokenizer(base),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # it prints all metrics; the curve has what is of interest
    trainer.train()
    history = [row for row in trainer.state.log_history if "rewards/reward/mean" in row]
    curve = {
        "step": [row["step"] for row in history],
        "reward": [row["rewards/reward/mean"] for row in history],
        "toxicity": [row["rewards/toxicity/mean"] for row in history],
        "kl": [row.get("kl", np.nan) for row in history],  # nobody counts it where beta is 0
    }
    seconds = trainer.state.log_history[-1]["train_runtime"] - timed[1].seconds
    return model.eval(), curve, {"seconds": seconds, "reward_seconds": timed[0].seconds}


def as_reward_function(pipeline, outputs):
    """What TRL is given: the completion's reward, bounded, in standard deviations over these outputs."""
    return RewardFunction(pipeline, X=outputs, prompt_template="{output}", center=0.0, scale="std", clip="tanh")


class FolderReward:
    """The same reward from an exported folder."""

    def __init__(self, folder, outputs):
        self.model, self.tokenizer = load_reward_model(folder)
        self.scale = self.scores(outputs).std()

    def scores(self, texts):
        """Rewards (n_texts,)."""
        return score_texts(self.model, self.tokenizer, texts)

    def __call__(self, completions, **_):
        return np.tanh(self.scores(completions) / self.scale).tolist()


def write_scale(study, plan, path):
    """Completions of the base model over which every reward is scaled."""
    prompts = study.read_json("texts.json")["align"]
    options = {"max_new_tokens": plan.n_tokens, "min_new_tokens": plan.n_tokens, "device": "auto", "random_state": 2}
    completions = generate_completions(str(study.path("base")), prompts, **options)
    path.write_text(json.dumps(completions.texts.ravel().tolist()), encoding="utf-8")


def run_arm(folder, plan, name, seed, n_threads):
    """Align the base model with one reward and measure it; the folder of the policy holds its ``arm.json``."""
    torch.set_num_threads(n_threads)
    quiet()
    study = Study(folder)
    texts, truth = study.read_json("texts.json"), load_reward(study.path("reference.skops"))
    outputs, exported = study.read_json("scale.json"), study.path(f"rewards/{slug(name)}")
    if exported.exists():
        reward = FolderReward(exported, outputs)
    else:
        pipeline = truth if name == TRUTH else load_reward(study.path(f"rewards/{slug(name)}.skops"))
        reward = as_reward_function(pipeline, outputs)

    def toxicity(completions, **_):
        return [float(value <= 0) for value in truth.decision_function(completions)]

    def write(path):
        path.mkdir()
        base = str(study.path("base"))
        policy, curve, timing = align(base, reward, toxicity, texts["align"], plan, seed, path / "trainer")
        shutil.rmtree(path / "trainer", ignore_errors=True)
        policy.save_pretrained(path)
        load_tokenizer(base).save_pretrained(path)
        arm = {"name": name, "seed": seed, "curve": curve, **timing, **measure(study, plan, policy, truth)}
        (path / "arm.json").write_text(json.dumps(arm), encoding="utf-8")

    return study.make(arm_folder(name, seed), write)


def quiet():
    """No bar for each file that transformers reads; what it will remove in a later version is not news here."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|accelerate")


def arm_folder(name, seed):
    return f"arms/{slug(name)}-{seed}"


def slug(name):
    return re.sub(r"\W+", "-", name.lower())


def load_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def load_tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, padding_side="left")


def measure(study, plan, policy, truth):
    """Completions of the test prompts, and what is known of each: ground truth, surprise, drift from the base."""
    prompts, tokenizer = study.read_json("texts.json")["test"], load_tokenizer(study.path("base"))
    base = load_model(study.path("base"))
    options = {"max_new_tokens": plan.n_tokens, "min_new_tokens": plan.n_tokens, "random_state": 1}
    found = generate_completions(policy, prompts, tokenizer=tokenizer, n_completions=2, **options)
    texts, ids = found.texts.ravel().tolist(), found.token_ids.ravel().tolist()
    asked = np.repeat(np.array(prompts, dtype=object), 2)
    under_base = log_probabilities(base.to(policy.device), tokenizer, asked, ids)
    under_policy = log_probabilities(policy, tokenizer, asked, ids)
    return {
        "completions": texts,
        "truth": truth.decision_function(texts).tolist(),
        "n_tokens": [len(row) for row in ids],
        "n_words": [len(text.split()) for text in texts],
        "log_probability_base": under_base,
        "log_probability": under_policy,
    }


@torch.inference_mode()
def log_probabilities(model, tokenizer, prompts, completion_ids, batch=128):
    """Log-probability of each completion behind its prompt, given that the text goes on (no end of text among it)."""
    sums = []
    for start in range(0, len(prompts), batch):
        new = completion_ids[start : start + batch]
        ids = [[*tokenizer(p)["input_ids"], *row] for p, row in zip(prompts[start : start + batch], new, strict=True)]
        padded = tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt").to(model.device)
        logits = model(**padded).logits.float()
        logits[..., tokenizer.eos_token_id] = -torch.inf
        scores = torch.log_softmax(logits[:, :-1], -1).gather(2, padded["input_ids"][:, 1:, None])[..., 0].cpu()
        ends = [len(row) - 1 for row in ids]
        sums += [float(row[end - len(n) : end].sum()) for row, end, n in zip(scores, ends, new, strict=True)]
    return sums


def learn_rewards(study, plan):
    """Fit each learner on the pairs, save the pipelines, and measure them on held-out pairs."""
    pairs = load_preferences(study.path("pairs.jsonl"), random_state=0)
    truth = load_reward(study.path("reference.skops"))
    fold = np.unique(pairs.groups, return_inverse=True)[1] % 4  # whole prompts; a quarter of them measures
    train, test = np.flatnonzero(fold > 0), np.flatnonzero(fold == 0)
    groups, target = pairs.groups[train], pairs.target[train]
    true_rewards = truth.decision_function(stack_outputs(pairs.data)).reshape(-1, 2)
    labels = (true_rewards > 0).astype(int)
    implicit = implicit_rewards(study, pairs)[train]
    made = {name: make_features(study, plan, name, pairs.data[train], target, groups) for name in FEATURES}
    scores = {}
    for name, candidate in REWARDS.items():
        features, X = made[candidate.features]
        y = np.random.default_rng(0).permutation(target) if name == RANDOM else target
        told = {"output_labels": labels[train]} if candidate.labelled else {}
        if isinstance(candidate.learner, DistilledIRL):
            learner = clone(candidate.learner).fit(X, y, implicit_rewards=implicit, groups=groups)
            alpha = learner.alpha_
        else:
            learner = clone(candidate.learner).set_params(random_state=0)
            search = GridSearchCV(learner, {"alpha": ALPHAS}, scoring=pair_accuracy_scorer, cv=GroupKFold(4))
            learner = search.fit(X, y, groups=groups, **told).best_estimator_
            alpha = learner.alpha
        pipeline = make_pipeline(features, learner)
        study.make(f"rewards/{slug(name)}.skops", lambda path, pipeline=pipeline: skops.io.dump(pipeline, path))
        if candidate.features == EXPORTED:
            export_folder(study, name, pipeline, pairs.data[train], y)
        held_out = pipeline.decision_function(stack_outputs(pairs.data[test])).reshape(-1, 2)
        scores[name] = {"alpha": alpha, **reward_measures(held_out, pairs, test, labels[test], true_rewards[test])}
    study.write_json("rewards/scores.json", scores)


def implicit_rewards(study, pairs):
    """Implicit rewards (n_pairs, 2) of the outputs, which were cut off, so that they have no end token."""
    aligned, base = study.path(arm_folder(TRUTH, 0)), study.path("base")
    sides = [pd.DataFrame({"prompt": pairs.prompt, "completion": pairs.data[:, side]}) for side in (0, 1)]
    reward = ImplicitReward(aligned, base, end_token=False, store=study.path("logps"))
    return np.stack([reward.decision_function(side) for side in sides], axis=1)


FEATURES = ("MiniLM", "joined", "own states")


def make_features(study, plan, name, texts, target, groups):
    """A fitted transformer of texts, and what it makes of the pairs."""
    embedder = TransformerEmbedder(plan.encoder, normalize=True, store=study.path("store"))
    if name == "MiniLM":
        return embedder, embedder.fit_transform(texts)
    if name == "joined":
        features = TextFeatures(embedder, random_state=0)
        return features, features.fit_transform(texts)
    aligned, found = str(study.path(arm_folder(TRUTH, 0))), []
    for layer in range(plan.layers + 1):  # the layer whose states predict whole held-out prompts best
        features = make_pipeline(OwnStates(aligned, layers=[layer], end_token=False), PairTransformer(StandardScaler()))
        X = features.fit_transform(texts)
        search = MaxEntropyIRLCV(alpha=STATES_ALPHAS, scoring=pair_log_loss_scorer, cv=GroupKFold(4), random_state=0)
        found.append((search.fit(X, target, groups=groups).best_score_, features, X))
    return max(found, key=lambda each: each[0])[1:]


STATES_ALPHAS = [1e-3, 1e-2, 1e-1, 1.0]  # standardized states are longer than embeddings of length 1


def export_folder(study, name, pipeline, texts, target):
    """The pipeline as a Hugging Face model, which is compared with it on these texts."""
    study.make(f"rewards/{slug(name)}", lambda path: export_reward_model(pipeline, path, texts, target))


def reward_measures(rewards, pairs, rows, labels, true_rewards):
    """Measures with their intervals over prompts."""
    groups, flat = pairs.groups[rows], np.repeat(pairs.groups[rows], 2)
    measures = {
        "pair accuracy": ("pair_accuracy", pairs.target[rows], rewards[:, 0] - rewards[:, 1], groups),
        "label F1": ("output_f1_score", labels.ravel(), rewards.ravel(), flat),
        "label AUC": ("output_auc_score", labels.ravel(), rewards.ravel(), flat),
        "STARC": ("starc_distance", rewards, true_rewards, groups),
    }
    intervals = {}
    for name, (measure, true, found, clusters) in measures.items():
        value = bootstrap_interval(measure, true, found, groups=clusters, n_resamples=500, random_state=0)
        intervals[name] = [value.estimate, value.low, value.high]
    return intervals


def gather(study, plan, names):
    """By arm: its runs, the seeds in order; the base model stands first, as an arm of its own."""
    runs = {name: [f"{arm_folder(name, seed)}/arm.json" for seed in range(plan.seeds)] for name in names}
    return {name: [study.read_json(file) for file in files] for name, files in {"base": ["base.json"], **runs}.items()}


def run_arms(study, plan, names, jobs):
    """All arms that are not finished, ``jobs`` at once, one core each."""
    tasks = [(name, seed) for seed in range(plan.seeds) for name in names]
    tasks = [task for task in tasks if not study.path(arm_folder(*task)).exists()]
    n_threads = 1 if jobs > 1 else torch.get_num_threads()
    run = joblib.delayed(run_arm)
    joblib.Parallel(jobs, verbose=5 if jobs > 1 else 0)(run(study.folder, plan, *task, n_threads) for task in tasks)


def main(pairs=None, labelled=None, out="realign", size="small", base=None, jobs=None, **changes):
    """Run all stages, print the tables, and return the rows of the last one."""
    if (pairs is None) != (labelled is None):
        raise ValueError("Found one of --pairs and --labelled. Expected both, or none for the package's own corpus.")
    start = time.monotonic()
    quiet()
    plan = replace(SIZES[size], **{name: value for name, value in changes.items() if value is not None})
    files = {"pairs": pairs and Path(pairs).name, "labelled": labelled and Path(labelled).name}
    study = Study(out, {**asdict(plan), **files, "base": None if base is None else str(base)})
    prepare_texts(study, plan, pairs, labelled)
    texts, truth = study.read_json("texts.json"), load_reward(study.path("reference.skops"))
    study.make("base", lambda path: train_base(texts["train"], plan, path) if base is None else fetch(base, path))

    def write_base(path):
        base = {"name": "base", **measure(study, plan, load_model(study.path("base")), truth)}
        path.write_text(json.dumps(base), encoding="utf-8")

    study.make("base.json", write_base)
    study.make("scale.json", lambda path: write_scale(study, plan, path))
    run_arms(study, replace(plan, seeds=1), [TRUTH], 1)
    aligned = study.path(arm_folder(TRUTH, 0))
    options = {"max_new_tokens": plan.n_tokens, "min_new_tokens": plan.n_tokens, "device": "auto", "random_state": 0}
    options |= {"path": study.path("pairs.jsonl"), "verbose": True}
    made = generate_preference_pairs(str(study.path("base")), str(aligned), texts["pairs"], **options)
    kinds = pair_kinds(made.data, truth.decision_function, made.target)
    print(", ".join(f"{kind['kind']} {kind['share']:.1%}" for kind in kinds))
    if not study.path("rewards/scores.json").exists():
        learn_rewards(study, plan)
    print("\n" + format_scores(study.read_json("rewards/scores.json")))
    names = [TRUTH, *REWARDS]
    run_arms(study, plan, names, jobs or (1 if size == "smoke" else os.cpu_count() or 1))
    arms = gather(study, plan, names)
    rows, recovered = summarize(arms)
    study.write_json("table.json", {"arms": rows, "won back": recovered, "kinds": kinds})
    plot_curves(arms, study.path("curves.png"))
    study.write_json("samples.json", {name: runs[0]["completions"][:20] for name, runs in arms.items()})
    print("\n" + format_table(rows, recovered, plan))
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes; table.json, curves.png, samples.json in {study.folder}")
    return rows


def fetch(base, folder):
    """Save a causal language model and its tokenizer here: TRL reads its reference from there again."""
    load_model(base).save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", help="ParaDetox as TSV: texts to learn to write")
    parser.add_argument("--labelled", help="labelled texts, CSV with columns tweet and class: the ground truth")
    parser.add_argument("--out", default="realign", help="folder of the run; an interrupted one goes on")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--base", help="folder or hub id of a causal language model, in place of the one made here")
    for name in ("encoder", "algorithm", "beta", "steps", "seeds"):
        parser.add_argument(f"--{name}", type=Plan.__annotations__[name], help="in place of the size's")
    parser.add_argument("--jobs", type=int, help="runs at once, one core each (default: all cores)")
    main(**vars(parser.parse_args()))
