"""The evidence: does learning from failures give a better reward? Every learner, four regimes, several seeds.

    python benchmarks/paper.py --pairs paradetox.tsv --labelled davidson.csv --realign realign --out evidence
    python benchmarks/paper.py --only a,d --out evidence             # some regimes; the rest later
    python benchmarks/paper.py --first-seed 100 --out development    # other splits, to decide on defaults

The regimes are in paper_data.py, the learners and ablations in paper_learners.py.

Alpha, the L2 strength, is chosen by cross-validation on the training pairs: one grid, folds of whole groups,
`pair_log_loss` (which does not depend on a reward's scale), ties to the stronger alpha. No ground truth takes part.
``C = 1 / (2 * alpha * n)`` for scikit-learn's learners. `FailureAwareIRL` takes the alpha that is best without
failures; *objective chosen* takes the objective that is best without failures, too. Ablations take the alpha of
`FailureAwareIRL`, *paper, labels* that of *paper*. Each seed chooses its own alpha; for *paper*, whose joint
training is slow, the first seed chooses for all. `FailureAwareIRLCV` searches by itself.

A seed draws the split, the data (a and b), the start and the samples of the learner. A figure is the mean over seeds
with a 95 % t-interval, and so is its paired difference to the best standard learner: the one with the least loss in
cross-validation. Seeds share the files, so an interval speaks of other splits of these texts, not of other texts.

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
from paper_data import REGIMES, SIZES, cells_of, prepare
from paper_learners import ABLATIONS, LEARNERS, Task, definition, run_task, source_of
from paper_tables import best_standard, compare, draw, make_tables, read_scores, summarize
from realign import Study
from tqdm.auto import tqdm


def all_tasks(plan, regimes):
    """Every fit of the regimes, in the order of the tables, and the fits that they take their alpha from."""
    tasks = {}
    for regime in [regime for regime in REGIMES if regime in regimes]:
        seeds = plan.seeds_of_texts if regime in ("b", "c") else plan.seeds
        learners = ABLATIONS if regime == "ablations" else LEARNERS
        for cell, name, seed in itertools.product(cells_of(regime, plan), learners, range(seeds)):
            task = Task(regime, cell, plan.first_seed + seed, name)
            tasks |= dict.fromkeys([task, source_of(task, plan) or task])
    return list(tasks)


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
        if "scores" in finished.get(task, {}) and finished[task]["definition"] == definition(task)
    }


def run_tasks(study, plan, tasks, jobs):
    """Run what is not finished, ``jobs`` fits at once, those first that others take their alpha from."""
    path = study.path("results.jsonl")
    done = read_results(path, tasks)
    sources = {task: source_of(task, plan) for task in tasks if task not in done}
    run = delayed(run_task)
    with (
        open(path, "a", encoding="utf-8") as file,
        tqdm(total=len(tasks), initial=len(done), desc="Evidence", unit="fit") as bar,
    ):
        file.write("\n")  # ends a line that was cut off
        for dependent in (False, True):  # in the second pass without those whose source failed
            waiting = [task for task, source in sources.items() if (source in done if dependent else source is None)]
            calls = (run(str(study.folder), plan, task, done.get(sources[task])) for task in waiting)
            for record in Parallel(jobs, return_as="generator_unordered")(calls):
                file.write(json.dumps(record) + "\n")
                file.flush()
                if "scores" in record:
                    done[Task(*(record[name] for name in Task._fields))] = record
                bar.update()
    return {task: done[task] for task in tasks if task in done}


def main(
    pairs=None,
    labelled=None,
    realign=None,
    size="small",
    out="evidence",
    jobs=None,
    only=None,
    seeds=None,
    first_seed=0,
):
    """Run what is missing, print the tables, write everything, and return the summary, a row a figure."""
    if (pairs is None) != (labelled is None):
        raise ValueError("Found one of --pairs and --labelled. Expected both, or none for the package's own corpus.")
    regimes = set(REGIMES) if only is None else set(only.split(","))
    if unknown := regimes - set(REGIMES):
        raise ValueError(f"Found --only {only}, with {sorted(unknown)}. Expected some of {', '.join(REGIMES)}.")
    start = time.monotonic()
    plan = replace(SIZES[size], first_seed=first_seed)
    plan = plan if seeds is None else replace(plan, seeds=seeds, seeds_of_texts=seeds)
    files = {"pairs": pairs, "labelled": labelled, "realign": realign}
    names = {name: path and Path(path).resolve().name for name, path in files.items()}
    study = Study(out, json.loads(json.dumps({**asdict(plan), **names})))
    if regimes - {"a"}:
        prepare(study, plan, pairs, labelled, realign)
    tasks = all_tasks(plan, regimes)
    done = run_tasks(study, plan, tasks, jobs or (1 if size == "smoke" else os.cpu_count()))
    # ablations alone take their alpha from a few fits of b and c, of which there are no tables
    scores = read_scores([record for task, record in done.items() if task.regime in regimes])
    long = compare(scores, best_standard(scores))
    summary = summarize(long)
    tables = make_tables(scores, long, summary, plan)
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
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", default="evidence", help="folder of the run; an interrupted one goes on")
    parser.add_argument("--jobs", type=int, help="fits at once, one core each (default: all cores)")
    parser.add_argument("--only", help=f"regimes, some of {','.join(REGIMES)}")
    parser.add_argument("--seeds", type=int, help="seeds of every regime")
    parser.add_argument("--first-seed", type=int, default=0, help="100 or more: splits that are not reported")
    main(**vars(parser.parse_args()))
