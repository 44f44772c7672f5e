"""What an implicit reward costs, against plain forward passes of both models in the same batches.

    python benchmarks/implicit_cost.py --size small
    python benchmarks/implicit_cost.py --size small --base realign/base --aligned realign/arms/ground-truth-0
    python benchmarks/implicit_cost.py --size small --vocabulary 250000

Without folders, the models are random: 4 layers of 192, and a vocabulary of 4,096. The sides take turns, so that other
work on the machine slows all of them. Times and ratios are medians over turns. "reward" is
`ImplicitReward.output_rewards`, from texts to rewards; "states" is `OwnStates`.
"""

import argparse
import time

import numpy as np
import torch

from fairl_sk.datasets import make_detox_preferences
from fairl_sk.features.batching import run_sorted
from fairl_sk.implicit import OwnStates
from fairl_sk.rewards import ImplicitReward

SIZES = {"smoke": (40, 2), "small": (2_000, 5), "full": (10_000, 5)}  # outputs, turns
AIM = 1.3


def random_models(texts, vocabulary, **sizes):
    """A base and an aligned model of random weights, and their tokenizer; sizes are those of `GPTNeoXConfig`."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, min(vocabulary, 4_096), special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(bpe.to_str()), eos_token="<|endoftext|>")
    usual = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    usual["max_position_embeddings"] = 256
    config = GPTNeoXConfig(vocab_size=vocabulary, **{**usual, **sizes})
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(GPTNeoXForCausalLM(config).eval())
    return *models, tokenizer


def load_models(base, aligned):
    """The models of two folders, and their tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (base, aligned)]
    return *models, AutoTokenizer.from_pretrained(base)


def plain_pass(model, token_ids):
    """All logits of all texts, in batches sorted by length, and nothing of them kept."""

    def run(rows):
        ids = torch.nn.utils.rnn.pad_sequence([token_ids[row] for row in rows], batch_first=True)
        lengths = torch.tensor([len(token_ids[row]) for row in rows])
        mask = None if len(set(lengths.tolist())) == 1 else (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0, 0].numpy()

    return sum(len(rows) for rows, _ in run_sorted(run, np.array([len(ids) for ids in token_ids]), model.device))


def main(size="small", base=None, aligned=None, vocabulary=4_096):
    """Seconds by side, and the ratio; it prints them."""
    n_outputs, turns = SIZES[size]
    pairs = make_detox_preferences(n_outputs, random_state=0)
    texts = np.unique(pairs.data.ravel())[:n_outputs]
    models = random_models(texts, vocabulary) if base is None else load_models(base, aligned)
    base, aligned, tokenizer = models
    reward = ImplicitReward(aligned, base, tokenizer=tokenizer)
    states = OwnStates(aligned, layers=[-1], tokenizer=tokenizer)
    ids = [
        torch.tensor([tokenizer.eos_token_id, *row, tokenizer.eos_token_id])
        for row in tokenizer(list(texts))["input_ids"]
    ]
    calls = {
        "plain": lambda: [plain_pass(model, ids) for model in (base, aligned)],
        "reward": lambda: reward.output_rewards(texts),
        "states": lambda: states.transform(texts),
    }
    seconds = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    usual = {name: np.median(values) for name, values in seconds.items()}
    ratios = np.divide(seconds["reward"], seconds["plain"])
    ratio = float(np.median(ratios))
    sizes = f"{len(texts)} outputs, {sum(map(len, ids))} tokens, vocabulary {base.config.vocab_size}"
    print(f"{sizes}, {torch.get_num_threads()} threads")
    print(", ".join(f"{name} {usual[name]:.2f} s" for name in usual) + " (plain: of both models)")
    verdict = "reached" if ratio <= AIM else "MISSED"
    spread = f"{ratios.min():.2f} to {ratios.max():.2f} over {turns} turns"
    print(f"reward, times two plain passes: {ratio:.2f} ({spread}; aim: at most {AIM}): {verdict}")
    return {"seconds": seconds, "ratio": ratio, "outputs": len(texts)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--base", help="folder of the base model")
    parser.add_argument("--aligned", help="folder of the aligned model")
    parser.add_argument("--vocabulary", type=int, default=4_096, help="of random models")
    main(**vars(parser.parse_args()))
