"""The command ``fairl-sk suggest``: from a file of pairs without judgment to a file of those to judge next."""

from pathlib import Path

import click
import numpy as np


@click.command()
@click.argument("pool")
@click.option("--fitted", required=True, metavar="FILE.skops", help="The reward: a pipeline from an audit, or yours.")
@click.option("--judged", multiple=True, metavar="FILE", help="Pairs that are judged already; repeatable.")
@click.option("-n", "n", type=click.IntRange(1), default=100, metavar="N", help="Pairs to choose. [default: 100]")
@click.option("--out", required=True, metavar="FILE", help="Where to write them: .csv or .jsonl.")
@click.option("--force", is_flag=True, help="Replace the file --out.")
@click.option("--strategy", metavar="NAME", default="information", help="Or uncertainty, diversity, random.")
@click.option("--cost", metavar="length", help="length: prefer short texts, which are judged faster.")
@click.option("--join-prompts", is_flag=True, help="The reward reads prompt and output as one text.")
@click.option("--prompt-column", metavar="NAME", help="POOL: the column of prompts.")
@click.option(
    "--no-quotes", "quoted", flag_value=False, default=True, help="TSV, CSV: quotation marks enclose nothing."
)
@click.option("--encoding", metavar="NAME", default="utf-8", help="Encoding of POOL. [default: utf-8]")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Random seed. [default: 0]")
def suggest(pool, fitted, judged, n, out, force, strategy, cost, join_prompts, prompt_column, quoted, encoding, seed):
    """Choose the pairs that people should judge next.

    POOL is a file of outputs that nobody compared: two a record (response1 and response2, chosen and rejected, ...), a
    list of completions, or one completion a record; then all pairs of a prompt are candidates.

    People judge the file --out in Label Studio, in Argilla or in a spreadsheet. The next run leaves out what is in
    their files, --judged. If the reward is not a LaplaceReward, these files also give its uncertainty: name all that it
    was fitted to.
    """
    out = Path(out)
    if out.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"--out {out} ends in {out.suffix!r}. Expected .csv or .jsonl.")
    if out.exists() and not force:
        raise FileExistsError(f"--out {out} exists. Name another file, or add --force to replace it.")
    from .audit import load_pipeline
    from .datasets import load_candidates, load_preferences, write_candidates
    from .diagnosis import suggest_pairs
    from .pairs import join_prompts as join

    pipeline = load_pipeline(fitted)
    candidates = load_candidates(pool, prompt_column=prompt_column, quoted=quoted, encoding=encoding)
    known = [load_preferences(path, random_state=seed) for path in judged]
    rows, n_others = _rows_of(known, candidates)
    texts = join(candidates.prompt, candidates.data) if join_prompts else candidates.data
    if strategy in ("information", "uncertainty"):
        pipeline = _with_uncertainty(pipeline, known, join if join_prompts else None)
    chosen = suggest_pairs(pipeline, texts, n, strategy=strategy, judged=rows, cost=cost, random_state=seed)
    write_candidates(out, candidates, chosen.pairs, chosen.scores, random_state=seed)
    lines = [f"Wrote {n} of {len(candidates.data)} pairs in {pool} to {out} ({strategy})."]
    dropped = ", ".join(f"{count} {reason}" for reason, count in candidates.dropped.items() if count)
    if dropped:
        lines.append(f"Left out of {pool}: {dropped}.")
    if known:
        lines.append(f"Left out as judged: {chosen.n_judged}. Judged pairs that are not in {pool}: {n_others}.")
        lines += [f"Judgments: {data.DESCR}" for data in known]
    return "\n".join(lines)


def _rows_of(known, candidates):
    """Rows of the candidates that are judged, and the number of distinct judged pairs that are not among them."""
    has_prompts = any(candidates.prompt)
    rows = {}
    for row, (prompt, pair) in enumerate(zip(candidates.prompt, candidates.data, strict=True)):
        rows[prompt, *sorted(pair)] = row
    pairs = set()
    for data in known:
        if data.data.ndim != 2:
            raise ValueError(f"--judged {data.provenance['file']} holds labeled outputs. Expected judged pairs.")
        prompts = data.prompt if has_prompts and data.prompt is not None else [""] * len(data.data)
        pairs |= {(prompt, *sorted(pair)) for prompt, pair in zip(prompts, data.data, strict=True)}
    return sorted(rows[pair] for pair in pairs & rows.keys()), len(pairs - rows.keys())


def _with_uncertainty(pipeline, known, join):
    """The pipeline with a LaplaceReward as its last step: its own, or around it, by the judged pairs."""
    from sklearn.frozen import FrozenEstimator
    from sklearn.pipeline import Pipeline

    from .diagnosis import LaplaceReward

    if not isinstance(pipeline, Pipeline):
        raise ValueError(f"Found {type(pipeline).__name__} as --fitted. Expected a Pipeline that reads texts.")
    if isinstance(pipeline[-1], LaplaceReward):
        return pipeline
    if not known:
        raise ValueError(
            f"Found --fitted that ends in {type(pipeline[-1]).__name__}, without uncertainty. Expected --judged with "
            "the pairs that it was fitted to, from which the uncertainty follows; a pipeline that ends in "
            "LaplaceReward; or --strategy diversity."
        )
    texts = [data.data if join is None else join(data.prompt, data.data) for data in known]
    features = pipeline[:-1].transform(np.concatenate(texts))
    reward = LaplaceReward(FrozenEstimator(pipeline[-1]))
    target, weight = (np.concatenate([data[name] for data in known]) for name in ("target", "sample_weight"))
    reward.fit(features, target, sample_weight=weight)
    return Pipeline([*pipeline.steps[:-1], ("reward", reward)])
