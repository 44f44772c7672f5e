"""Everything that runs on a GPU, measured by one command and printed as one table.

    python benchmarks/gpu.py --size full --out gpu.json
    python benchmarks/gpu.py --size smoke --device cpu

Seconds are wall time until the device has finished, with the work of the CPU; of several turns the fastest counts.
"peak GB" is the most memory that torch had allocated on the GPU in a row. Figures, by row:

- copy: bandwidth, 2 x bytes / seconds of ``b.copy_(a)`` on the device.
- fit: the bytes that it reads at least, over its seconds, as a share of that bandwidth. An iteration of the solver and
  a round of the failure path read the differences of the pairs twice each, for margins and for the gradient. So the
  bytes are 2 (``n_iter_`` + rounds) x those of the differences.
- rewards: the largest difference between the rewards of outputs after a fit on the CPU and after one on the device, in
  standard deviations of the rewards.
- search: its seconds as a multiple of a single fit's. GridSearchCV runs some of the candidates on the same device, and
  its time is scaled to all of them.
- encode: speed as a multiple of ``SentenceTransformer.encode``'s, both in bfloat16, see bench_encoder.py. The peak is
  that of both. The decoder is a random GPT-NeoX, in ``full`` of 350 million parameters.
- generate: new tokens a second of a base and an aligned model, loading included. Both are such decoders.

``full`` is planned for a GPU with 16 CPU cores beside it, and for 8 minutes. If a row fails, its error stands in the
table, the other rows still run, and the exit status is 1.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import bench_fit
import numpy as np
import pandas as pd
import psutil
import torch
import transformers
from bench_encoder import LONGEST, MIX, bench_speed, mix_lengths, read_pairs
from bench_search import FOLDS, candidates_of, compare, make_grid
from implicit_cost import random_models

import fairl_sk
from fairl_sk import FailureAwareIRL, FailureAwareIRLCV
from fairl_sk.device import ran_out_of_memory
from fairl_sk.features.loading import find_model, load_model, load_tokenizer
from fairl_sk.generate import generate_preference_pairs


@dataclass(frozen=True)
class Plan:
    """How large the rows are."""

    copy: int  # bytes
    fits: list  # each of pairs, features
    search: tuple  # pairs, features; for the agreement of rewards, too
    candidates: int
    texts: tuple  # short ones, and of mixed lengths
    width: int  # of the decoder
    layers: int
    prompts: int
    tokens: int  # new ones, of each model for each prompt
    repeats: int


SIZES = {
    "smoke": Plan(2**20, [(300, 16)], (400, 16), 3, (24, 2), 16, 2, 4, 8, 1),
    "small": Plan(2**28, [(20_000, 384)], (5_000, 384), 60, (2_000, 500), 1_024, 6, 100, 32, 2),
    "full": Plan(
        2**30, [(20_000, 4_096), (200_000, 1_024)], (20_000, 384), 60, (20_000, 5_000), 1_024, 24, 1_000, 64, 2
    ),
}
LEARNERS = {name: make for name, make in bench_fit.LEARNERS.items() if name != "paper"}  # no joint training
PEER_SHARE = 0.05  # of the candidates, for GridSearchCV
VOCABULARY, POSITIONS = 1_000, 2_048  # of the decoder: its tokenizer learns so many, and no text is cut


def on_gpu(device):
    """Whether the device is a GPU."""
    return device.startswith("cuda")


def describe(device):
    """The card or the CPU, its memory, and versions."""
    versions = f"{torch.get_num_threads()} threads, torch {torch.__version__}, fairl_sk {fairl_sk.__version__}"
    if not on_gpu(device):
        return f"cpu, {psutil.virtual_memory().total / 2**30:.0f} GiB, {versions}"
    card = torch.cuda.get_device_properties(device)
    memory, cuda = f"{card.total_memory / 2**30:.0f} GiB", torch.version.cuda
    return f"{card.name}, {memory}, driver {driver_version()}, CUDA {cuda}, {versions}"


def driver_version():
    """The version of NVIDIA's driver, or "unknown"."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return shown.strip().partition("\n")[0]


def timed(call, device, repeats=1):
    """Shortest seconds of a call, until the device has finished its work."""

    def finish():
        call()
        if on_gpu(device):
            torch.cuda.synchronize(device)

    return bench_fit.seconds(finish, repeats)


def empty(device):
    """Free what earlier rows left on a GPU, and begin to measure its memory."""
    if on_gpu(device):
        load_model.cache_clear()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


@cache
def copy_seconds(device, n_bytes):
    """Seconds in which the device copies so many bytes."""
    a = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)

    def copy():
        for _ in range(10):
            b.copy_(a)

    return timed(copy, device, repeats=5) / 10


def measure_copy(plan, device):
    """Bandwidth of a copy on the device."""
    took = copy_seconds(device, plan.copy)
    return {"seconds": took, "figure": 2 * plan.copy / took / 1e9, "unit": "GB/s"}


make_pairs = lru_cache(maxsize=1)(bench_fit.make_pairs)  # rows of the same pairs follow each other


def measure_fit(plan, device, make, shape):
    """Seconds of a fit, and the bandwidth that it uses as a share of a copy's."""
    X, y = make_pairs(*shape)
    learner = make(device=device, random_state=0)
    took = timed(lambda: learner.fit(X, y), device, plan.repeats)
    n_reads, n_bytes = 2 * (learner.n_iter_ + len(learner.history_)), X.nbytes / 2
    share = n_reads * n_bytes / took / (2 * plan.copy / copy_seconds(device, plan.copy))
    return {"seconds": took, "figure": share, "unit": f"of copy bandwidth ({n_reads} x {n_bytes / 1e9:.2g} GB)"}


def measure_rewards(plan, device, make):
    """How far rewards after a fit on the device are from those after a fit on the CPU."""
    X, y = make_pairs(*plan.search)
    outputs = X.reshape(-1, X.shape[-1])
    learner = make(device=device, random_state=0)
    took = timed(lambda: learner.fit(X, y), device)
    found = learner.decision_function(outputs).astype(float)
    expected = make(random_state=0).fit(X, y).decision_function(outputs).astype(float)
    difference = float(np.abs(found - expected).max() / expected.std())
    return {"seconds": took, "figure": difference, "unit": "standard deviations from the CPU's"}


def measure_search(plan, device, peer):
    """Seconds of a search, as a multiple of a fit; with ``peer``, of GridSearchCV, as a multiple of the search."""
    X, y = make_pairs(*plan.search)
    grid, same = make_grid(plan.candidates), {"device": device, "random_state": 0}
    search, learner = FailureAwareIRLCV(**grid, cv=FOLDS, **same), FailureAwareIRL(**same)
    if peer:
        found = compare("grid", search, learner, candidates_of(grid), X, y, share=PEER_SHARE)
        unit = "times the search ({peer ran} of {candidates} candidates ran)".format(**found)
        return {"seconds": found["peer seconds"], "figure": found["times faster"], "unit": unit}
    one = timed(lambda: learner.fit(X, y), device, plan.repeats)
    took = timed(lambda: search.fit(X, y), device)
    return {"seconds": took, "figure": took / one, "unit": "times a single fit"}


@cache
def make_texts(n_texts, n_mixed=0):
    """Distinct texts of the package's corpus; some of mixed lengths made of their words, if asked."""
    texts = read_pairs(None, {"texts": n_texts, "pairs": 0})[1].tolist()
    return mix_lengths(texts, load_tokenizer(*find_model("minilm")[:3]), n_mixed) if n_mixed else texts


def make_decoders(plan, folder):
    """Folders of a base and an aligned decoder of random weights, which are made once."""
    folders = folder / "base", folder / "aligned"
    if not (folders[-1] / "tokenizer.json").exists():
        sizes = {"hidden_size": plan.width, "intermediate_size": 5 * plan.width, "num_hidden_layers": plan.layers}
        sizes |= {"num_attention_heads": max(2, plan.width // 64), "max_position_embeddings": POSITIONS}
        *models, tokenizer = random_models(make_texts(2_000), VOCABULARY, **sizes)
        tokenizer.pad_token = tokenizer.eos_token  # for sentence-transformers
        for model, path in zip(models, folders, strict=True):
            model.to(torch.bfloat16).save_pretrained(path)
            tokenizer.save_pretrained(path)
    return folders


def measure_encoding(plan, device, folder, name, mixed):
    """Seconds of TransformerEmbedder, and its speed as a multiple of sentence-transformers'."""
    n_texts, n_mixed = plan.texts
    texts = make_texts(n_texts, n_mixed if mixed else 0)
    model, max_length, pooling = name, LONGEST, "mean"
    if name == "decoder":  # of which sentence-transformers takes the last token, too
        model, max_length, pooling = make_decoders(plan, folder)[0], POSITIONS, "last"
    found = bench_speed(name, texts, device, "bfloat16", plan.repeats, max_length, model, pooling)
    unit = f"times sentence-transformers' speed (smallest cosine {found['cosine']:.5f})"
    return {"seconds": min(found["seconds"]["ours"]), "figure": found["ratio"], "unit": unit}


def measure_generation(plan, device, folder):
    """Seconds of generating pairs, and new tokens a second."""
    prompts = [" ".join(text.split()[:4]) for text in make_texts(plan.texts[0])[: plan.prompts]]
    options = {"max_new_tokens": plan.tokens, "min_new_tokens": plan.tokens, "batch_size": 256}
    options |= {"dtype": "bfloat16", "device": device}
    decoders = make_decoders(plan, folder)
    took = timed(lambda: generate_preference_pairs(*decoders, prompts, **options), device)
    return {"seconds": took, "figure": 2 * plan.prompts * plan.tokens / took, "unit": "tokens a second"}


def list_rows(plan, device, folder):
    """What is measured, its size, and the function that measures it, a row each."""
    yield "copy", f"{plan.copy / 1e9:.2g} GB", partial(measure_copy, plan, device)
    for shape in plan.fits:
        for name, make in LEARNERS.items():
            yield f"fit, {name}", "{:,} x {:,}".format(*shape), partial(measure_fit, plan, device, make, shape)
    size = "{:,} x {:,}".format(*plan.search)
    for name, make in LEARNERS.items():
        yield f"rewards, {name}", size, partial(measure_rewards, plan, device, make)
    n_candidates = len(candidates_of(make_grid(plan.candidates)))
    for peer, name in enumerate(("search", "GridSearchCV")):
        what = f"{name}, {n_candidates} x {FOLDS.n_splits} fits"
        yield what, size, partial(measure_search, plan, device, peer)
    for name in ("minilm", "decoder"):
        for mixed, n_texts in enumerate(plan.texts):
            size = f"{n_texts:,} texts" + f", {MIX}" * mixed
            yield f"encode, {name}", size, partial(measure_encoding, plan, device, folder, name, mixed)
    size = f"2 x {plan.prompts:,} outputs of {plan.tokens} tokens"
    yield "generate pairs", size, partial(measure_generation, plan, device, folder)


def run_row(what, size, measure, device):
    """A row of the table, with its error if it fails."""
    row = {"what": what, "size": size, "seconds": None, "peak GB": None, "figure": None, "unit": "", "error": None}
    try:
        empty(device)
        row |= measure()
        row["peak GB"] = torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu(device) else None
    except Exception as error:  # whatever it is, the other rows still run
        traceback.print_exc()
        kind = "out of memory" if ran_out_of_memory(error) else type(error).__name__
        row["error"] = f"FAILED, {kind}: {' '.join(str(error).split()):.120}"
    return row


def format_rows(rows, header=True):
    """The table; errors stand in the place of the unit."""
    table = pd.DataFrame([{**row, "unit": row["error"] or row["unit"]} for row in rows]).drop(columns="error")
    table = table.astype({"seconds": float, "peak GB": float, "figure": float})
    options = {"float_format": lambda x: f"{x:,.0f}" if x >= 1_000 else f"{x:.3g}", "na_rep": ""}
    return table.to_string(index=False, header=header, **options)


def main(size="small", device="cuda", out=None):
    """Measure all rows, print the table, and return the rows; SystemExit if some fail."""
    if device != "cpu" and not on_gpu(device):
        raise SystemExit(f"Found --device {device}. Expected cpu, cuda, or a card such as cuda:1.")
    if on_gpu(device) and not torch.cuda.is_available():
        raise SystemExit(f"torch finds no CUDA device, expected one for --device {device}. Use --device cpu.")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    machine, rows = describe(device), []
    print(machine, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for what, row_size, measure in list_rows(SIZES[size], device, Path(folder)):
            rows.append(run_row(what, row_size, measure, device))
            print(format_rows(rows[-1:], header=False), file=sys.stderr, flush=True)
            if out:  # after each row, for a run that is cut off
                results = {"machine": machine, "size": size, "rows": rows}
                Path(out).write_text(json.dumps(results, indent=2), encoding="utf-8")
    print(f"{machine}\n{format_rows(rows)}")
    failed = [row["what"] for row in rows if row["error"]]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(rows)} rows failed: {'; '.join(failed)}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cuda", help="cuda, a card such as cuda:1, or cpu")
    parser.add_argument("--out", help="write the figures as JSON")
    main(**vars(parser.parse_args()))
