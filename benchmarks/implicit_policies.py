"""The policies of implicit.py: the base model of realign.py, aligned by RLOO, GRPO and DPO with three known rewards."""

import shutil
from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple

import joblib
import numpy as np
import torch
from realign import SIZES as REALIGN_SIZES
from realign import Study, align, as_reward_function, load_model, load_reward, load_tokenizer, quiet, read_texts
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline

from fairl_sk import TransformerEmbedder
from fairl_sk.generate import generate_completions


class Policy(NamedTuple):
    """One alignment."""

    algorithm: str = "rloo"
    seed: int = 1
    steps: tuple = (150,)  # the model is kept after so many
    beta: float = 0.1
    truth: str = "words"

    @property
    def name(self):
        return f"{self.algorithm}-{self.truth}-beta-{self.beta:g}-seed-{self.seed}"


# -------------------------------------------------------------------------------------------------------- rewards


class PublishedReward(BaseEstimator):
    """The log-odds of "not profane" by the linear model of alt-profanity-check."""

    def fit(self, X=None, y=None):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def decision_function(self, texts):
        from profanity_check import predict_prob

        chance = np.clip(predict_prob([str(text) for text in texts]), 1e-6, 1 - 1e-6)
        return np.log1p(-chance) - np.log(chance)


def train_encoder_reward(study, texts, labels, n_texts):
    """A logistic regression on MiniLM, trained on labelled texts; its values are the log-odds of "desirable"."""
    model = make_pipeline(
        embedder(study),
        LogisticRegressionCV(
            Cs=5, class_weight="balanced", scoring="roc_auc", l1_ratios=(0,), use_legacy_attributes=False, max_iter=1000
        ),
    )
    chosen = np.random.default_rng(0).permutation(len(texts))[:n_texts]
    return model.fit(np.array(texts)[chosen], labels[chosen])


def embedder(study):
    return TransformerEmbedder("minilm", normalize=True, store=study.path("store"))


def make_truths(study, plan, files):
    """The ground truths by name; the published one if it is installed."""
    path = study.make(
        "encoder-truth.joblib",
        lambda path: joblib.dump(train_encoder_reward(study, *read_texts(*files), plan.truth_texts), path),
    )
    truths = {"words": load_reward(study.path("reference.skops")), "encoder": joblib.load(path)}
    return truths | ({"published": PublishedReward()} if find_spec("profanity_check") else {})


# ------------------------------------------------------------------------------------------------------- policies


def keep_at(steps, folder, base):
    """A callback of the trainer that saves the model after some steps."""
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            if state.global_step in steps:
                target = folder / f"step-{state.global_step}"
                model.save_pretrained(target)
                load_tokenizer(base).save_pretrained(target)

    return Keeper()


def make_policy(folder, plan, policy, files, n_threads):
    """Align the base model, and keep it after the steps that were asked for."""
    torch.set_num_threads(n_threads)
    quiet()
    study = Study(folder)
    base, texts = study.path("base"), study.read_json("texts.json")

    def write(path):
        path.mkdir()
        truth = make_truths(study, plan, files)[policy.truth]
        size = replace(REALIGN_SIZES[plan.size], algorithm=policy.algorithm, beta=policy.beta, steps=max(policy.steps))
        callback = keep_at(policy.steps, path, base)
        if policy.algorithm == "dpo":
            align_by_pairs(base, truth, texts["align"], size, policy.seed, path / "trainer", callback)
        else:
            reward = as_reward_function(truth, study.read_json("scale.json"))

            def undesirable(completions, **_):
                return (truth.decision_function(completions) <= 0).astype(float).tolist()

            align(base, reward, undesirable, texts["align"], size, policy.seed, path / "trainer", [callback])
        shutil.rmtree(path / "trainer", ignore_errors=True)

    return study.make(f"policies/{policy.name}", write)


def align_by_pairs(base, truth, prompts, size, seed, folder, callback):
    """DPO on pairs of the base model's completions, with Bradley-Terry preferences by the ground truth."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    options = {"max_new_tokens": size.n_tokens, "min_new_tokens": size.n_tokens, "random_state": seed}
    texts = generate_completions(str(base), prompts, n_completions=4, **options).texts
    values = truth.decision_function(texts.ravel()).reshape(texts.shape)
    rng, rows = np.random.default_rng(seed), []
    for prompt, outputs, rewards in zip(prompts, texts, values, strict=True):
        for first, second in ((0, 1), (2, 3)):
            wins = rng.random() < 1 / (1 + np.exp(rewards[second] - rewards[first]))
            chosen, rejected = (first, second) if wins else (second, first)
            rows.append({"prompt": prompt, "chosen": outputs[chosen], "rejected": outputs[rejected]})
    config = DPOConfig(
        output_dir=str(folder),
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        per_device_train_batch_size=size.batch,
        learning_rate=size.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(10, size.steps // 2),
        max_steps=size.steps,
        beta=size.beta,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    trainer = DPOTrainer(
        model=load_model(base),
        ref_model=load_model(base),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(base),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
