"""Build the reports of gallery.md: ``python docs/gallery.py DATA [NAME ...]`` writes them into docs/gallery/.

DATA is a folder with paradetox.tsv, davidson.csv, truthfulqa.csv and finegrained_qa.json.gz; docs/gallery.md says
where they come from. Reports of these files have no texts: some texts are offensive, some are licensed.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from fairl_sk.audit import audit
from fairl_sk.datasets import load_preferences
from fairl_sk.rewards import EstimatorReward

HERE = Path(__file__).parent
BROWSER = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1.25"]
WINDOW = "1120,1385"  # the verdict and the section below it
N_COMMENTS = 1500  # toxic comments of ParaDetox that are drawn; the first ones of the file are of another kind
N_TWEETS = 2000


def corpus(made, file, what):
    """A corpus of benchmarks/paper_data.py, as an audit reads it."""
    provenance = {"file": file, "what": what}
    return {"data": made["pairs"], "target": made["target"], "groups": made["groups"], "provenance": provenance}


def own(folder):
    """The package's own pairs."""
    return audit()


def paradetox(folder, **more):
    """Toxic comments and their rewrites by people."""
    data = load_preferences(folder / "paradetox.tsv", random_state=0)
    comments = np.random.default_rng(0).permutation(np.unique(data.groups))[:N_COMMENTS]
    rows = np.flatnonzero(np.isin(data.groups, comments))
    some = {name: data[name][rows] for name in ("data", "target", "groups", "source_index")}
    what = "Toxic comments, and their rewrites by people. A rewrite is preferred to its comment."
    provenance = {"file": "paradetox.tsv", "what": what, "drawn": f"{N_COMMENTS} comments"}
    return audit({**some, "provenance": provenance}, **more)


def truthfulqa(folder):
    """Correct answers over incorrect ones. Whole categories of questions are held out."""
    from paper_data import read_truthful

    what = "Answers to questions that people often answer wrongly. A correct answer is preferred to an incorrect one."
    return audit(corpus(read_truthful(folder / "truthfulqa.csv"), "truthfulqa.csv", what))


def answers(folder):
    """What people preferred of two long answers."""
    from paper_data import read_answers

    what = "Answers of a paragraph by language models. People said which of two they prefer."
    return audit(corpus(read_answers(folder / "finegrained_qa.json.gz"), "finegrained_qa.json.gz", what))


def reward_model(folder):
    """A classifier of tweets as the reward of ParaDetox, to be used on tweets."""
    tweets = load_preferences(folder / "davidson.csv", text_column="tweet", label_column="class", desirable=2)
    rows = np.random.default_rng(0).permutation(len(tweets.data))
    known, new = rows[:10_000], rows[-N_TWEETS:]
    classifier = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2), LogisticRegression(class_weight="balanced", max_iter=1000)
    ).fit(tweets.data[known], tweets.target[known])
    return paradetox(folder, compare={"tweets": EstimatorReward(classifier)}, deploy=tweets.data[new])


def draw(page, picture):
    """Draw the top of a page by Chromium, in 64 colors."""
    with tempfile.TemporaryDirectory() as folder:
        file, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        file.write_text(page, encoding="utf-8")
        options = [f"--screenshot={shot}", f"--window-size={WINDOW}", file.as_uri()]
        subprocess.run([*BROWSER, *options], check=True, capture_output=True)
        Image.open(shot).convert("RGB").quantize(64).save(picture, optimize=True)


REPORTS = {build.__name__: build for build in (own, paradetox, truthfulqa, answers, reward_model)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(REPORTS)}; all, if none is named")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    folder = HERE / "gallery"
    folder.mkdir(exist_ok=True)
    for name in options.names or REPORTS:
        page = REPORTS[name](options.data).to_html(texts="shortened" if name == "own" else "none")
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
        draw(page, folder / f"{name}.png")
