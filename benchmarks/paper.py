"""The evidence: does learning from failures give a better reward? Learners on two kinds of features, six regimes.

    python benchmarks/paper.py --pairs paradetox.tsv --labelled davidson.csv --realign realign \
        --truthful truthfulqa.csv --answers finegrained_qa.json.gz --out evidence
    python benchmarks/paper.py --only c,d --out evidence             # some regimes; the rest later
    python benchmarks/paper.py --first-seed 100 --out development    # other splits, to decide on defaults

The regimes and features are in paper_data.py, the learners in paper_learners.py.

Alpha, the L2 strength, is chosen by cross-validation on the training pairs: one grid, folds of whole groups,
`pair_log_loss` (which does not depend on a reward's scale), ties to the stronger alpha. No ground truth takes part,
except where a learner is told labels. *FailureAwareIRL* and its variants take the alpha that is best without
failures, *paper* that of *MaxMarginIRL*. *MLP*, whose training is slow, has a fixed one.

A seed draws the split, the data (a and b), the start and the samples of the learner. A figure is the mean over seeds
with a 95 % t-interval, and so is a paired difference. Seeds share the files, so an interval speaks of other splits of
these texts, not of other texts.

Results go to ``results.jsonl``, one line a fit. An interrupted run goes on where it was; a learner whose parameters
were changed is fitted again. After a change of the package itself, name another folder. The tables are in tables.md,
all figures in summary.json, the pictures beside.
"""

import argparse
import itertools
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

from joblib import Parallel, delayed
from paper_data import FEATURES, FILE_OF, REGIMES, SIZES, cells_of, prepare
from paper_learners import LEARNERS, Task, definition, run_tasks
from paper_tables import draw, make_tables, read_scores, summarize
from realign import Study
from tqdm.auto import tqdm


def all_tasks(plan, regimes):
    """Every fit, seed by seed, those of one sample side by side. In e and f no labels are known, in a no texts."""
    tasks = []
    for seed, regime in itertools.product(range(plan.first_seed, plan.first_seed + plan.seeds), sorted(regimes)):
        learners = [
            name
            for name, learner in LEARNERS.items()
            if not (learner.labels and regime in ("e", "f") or learner.reads == "texts" and regime == "a")
        ]
        features = ["given"] if regime == "a" else FEATURES
        tasks += [
            Task(regime, *place, seed, name)
            for *place, name in itertools.product(cells_of(regime, plan), features, learners)
        ]
    return tasks


def read_results(path, tasks):
    """What is finished: task -> line. Lines that are cut off, failed or of another definition do not count."""
    finished = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the run was ended while it wrote this line
        finished[Task(*(record[name] for name in Task._fields))] = record
    return {
        task: finished[task]
        for task in tasks
        if "scores" in finished.get(task, {}) and finished[task]["definition"] == definition(LEARNERS[task.learner])
    }


def run_all(study, plan, tasks, jobs):
    """Run what is not finished, ``jobs`` samples at once."""
    path = study.path("results.jsonl")
    done = read_results(path, tasks)
    calls = []
    for _, own in itertools.groupby(tasks, key=lambda task: task[:-1]):
        own = list(own)
        alphas = {task.learner: done[task]["alpha"] for task in own if task in done}
        if waiting := [task for task in own if task not in done]:
            calls.append(delayed(run_tasks)(str(study.folder), plan, waiting, alphas))
    with (
        open(path, "a", encoding="utf-8") as file,
        tqdm(total=len(tasks), initial=len(done), desc="Evidence", unit="fit") as bar,
    ):
        file.write("\n")  # ends a line that was cut off
        for records in Parallel(jobs, return_as="generator_unordered")(calls):
            for record in records:
                file.write(json.dumps(record) + "\n")
                if "scores" in record:
                    done[Task(*(record[name] for name in Task._fields))] = record
            file.flush()
            bar.update(len(records))
    return {task: done[task] for task in tasks if task in done}


def main(size="small", out="evidence", jobs=None, only=None, seeds=None, first_seed=0, **files):
    """Run what is missing, print the tables, write everything, and return the summary, a row a figure."""
    files = dict.fromkeys(["pairs", "labelled", "realign", "truthful", "answers"]) | files
    if (files["pairs"] is None) != (files["labelled"] is None):
        raise ValueError("Found one of --pairs and --labelled. Expected both, or none for the package's own corpus.")
    regimes = set(REGIMES) if only is None else set(only.split(","))
    if unknown := regimes - set(REGIMES):
        raise ValueError(f"Found --only {only}, with {sorted(unknown)}. Expected some of {', '.join(REGIMES)}.")
    regimes -= {regime for regime, file in FILE_OF.items() if files[file] is None}
    start = time.monotonic()
    plan = replace(SIZES[size], first_seed=first_seed, seeds=seeds or SIZES[size].seeds)
    names = {name: path and Path(path).resolve().name for name, path in files.items()}
    study = Study(out, json.loads(json.dumps({**asdict(plan), **names})))
    if regimes - {"a"}:
        prepare(study, plan, files)
    tasks = all_tasks(plan, regimes)
    done = run_all(study, plan, tasks, jobs or (1 if size == "smoke" else os.cpu_count()))
    scores = read_scores(list(done.values()))
    summary = summarize(scores)
    tables = make_tables(summary, plan)
    study.write_json("summary.json", json.loads(summary.to_json(orient="records")))
    study.path("tables.md").write_text(tables, encoding="utf-8")
    draw(summary, study.folder)
    print("\n" + tables)
    if len(done) < len(tasks):
        print(f"{len(tasks) - len(done)} fits failed: their messages are in results.jsonl; run again to try again.")
    print(f"{(time.monotonic() - start) / 60:.1f} minutes; results.jsonl, summary.json, tables.md, *.png in {out}")
    return summary


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", help="ParaDetox as TSV")
    parser.add_argument("--labelled", help="labelled texts, CSV with columns tweet and class")
    parser.add_argument("--realign", help="folder of realign.py, with pairs.jsonl and reference.skops")
    parser.add_argument("--truthful", help="TruthfulQA as CSV; without it no regime e")
    parser.add_argument("--answers", help="long-form answers of Fine-Grained RLHF, JSON; without them no regime f")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", default="evidence", help="folder of the run; an interrupted one goes on")
    parser.add_argument("--jobs", type=int, help="samples at once, one core each (default: all cores)")
    parser.add_argument("--only", help=f"regimes, some of {','.join(REGIMES)}")
    parser.add_argument("--seeds", type=int, help="seeds of every regime")
    parser.add_argument("--first-seed", type=int, default=0, help="100 or more: splits that are not reported")
    main(**vars(parser.parse_args()))
