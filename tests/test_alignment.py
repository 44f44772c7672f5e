"""The audit of two models whose difference is known: planted words are found, noise is not, and CI can fail on it."""

import copy
import functools
import json
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import skops.io
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch
from tiny_models import WORDS, make_model, make_tokenizer

import fairl_sk.audit
from fairl_sk import TextFeatures
from fairl_sk.audit import audit, format_audit, model_pairs
from fairl_sk.audit.alignment import measure_alignment
from fairl_sk.audit.changes import changed_tokens, changed_words
from fairl_sk.audit.conditions import audit_figures, check_conditions, parse_condition
from fairl_sk.audit.models import find_checkpoints
from fairl_sk.cli import main
from fairl_sk.generate.models import LanguageModel
from fairl_sk.metrics import bootstrap_interval
from fairl_sk.rewards import EstimatorReward, ImplicitReward

RAISED, LOWERED = ("kind", "thank"), ("awful", "fool")
SIZE = {"max_new_tokens": 8, "min_new_tokens": 8}
INTERVAL = functools.partial(bootstrap_interval, n_resamples=50, random_state=0)


@pytest.fixture(scope="module", autouse=True)
def _few_folds():
    """Searches of two folds in all audits, which take half of their time with five."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairl_sk.audit.choice.N_FOLDS", 2)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base model, two steps of an alignment that shifted the logits of four words, and noise."""
    folder, base = tmp_path_factory.mktemp("models"), make_model()
    head, norm = base.get_output_embeddings(), base.gpt_neox.final_layer_norm
    with torch.no_grad():
        norm.weight[0], norm.bias[0] = 0, 30  # a feature that is always 30
        head.weight[:, 0] /= 30
    words = make_tokenizer().get_vocab()
    for name, size in (("run/step-2", 0.5), ("run/step-10", 2.0)):
        moved = copy.deepcopy(base)
        with torch.no_grad():
            for word in RAISED + LOWERED:
                moved.get_output_embeddings().weight[words[word], 0] += (size if word in RAISED else -size) / 30
        save(moved, folder / name)
    noisy, generator = copy.deepcopy(base), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in noisy.parameters():
            part += 0.01 * torch.randn(part.shape, generator=generator)
    save(noisy, folder / "noise")
    save(base, folder / "base")
    judge = make_pipeline(CountVectorizer(vocabulary=LOWERED), LogisticRegression(C=1e3))
    skops.io.dump(judge.fit(["fool", "awful", "you", "a"], [0, 0, 1, 1]), folder / "judge.skops")
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(WORDS, 4)) for _ in range(200)]
    (folder / "prompts.txt").write_text("\n".join(prompts))
    return folder


def save(model, folder):
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


@pytest.fixture(scope="module")
def prompts(place):
    return (place / "prompts.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def reference(place):
    return EstimatorReward(skops.io.load(place / "judge.skops"))


@pytest.fixture(scope="module")
def pairs(place, prompts):
    return model_pairs(place / "base", place / "run", prompts, folder=place, store=place / "store", **SIZE)


def audited(data, **options):
    features = TextFeatures(encoder=None, n_components=8, random_state=0)
    return audit(data, features=features, n_resamples=50, n_shuffles=1, **options)


@pytest.fixture(scope="module")
def result(pairs, reference):
    return audited(pairs, reference=reference)


def found_of(found, unit="word"):
    """Words or tokens that were raised, and those that were lowered."""
    changes = {row[unit]: row["change"] for row in found[f"{unit}s"]}
    return {name for name in changes if changes[name] > 0}, {name for name in changes if changes[name] < 0}


# ------------------------------------------------------------------------------------------------- the pairs


def test_the_pairs_are_of_the_last_step_with_its_implicit_rewards(place, pairs):
    models = pairs.models
    assert models.names == ["step-2", "step-10"] and not models.end_token
    assert len(pairs.data) == 200 and models.null_rewards.shape == (5, 2, 200)
    reward = ImplicitReward(place / "run/step-10", place / "base", end_token=False)
    sides = np.stack([np.ravel(pairs.data), np.repeat(pairs.prompt, 2)])
    table = {"prompt": sides[1], "completion": sides[0]}
    np.testing.assert_allclose(pairs.implicit_rewards.ravel(), reward.output_rewards(Table(table)), atol=1e-4)
    np.testing.assert_array_equal(models.implicit_rewards[-1], pairs.implicit_rewards)
    chosen = pairs.implicit_rewards[np.arange(200), 1 - pairs.target]
    assert models.kl[-1, 0] == pytest.approx(chosen.mean(), abs=1e-4)
    assert models.kl[-1, 0] > 3 * models.kl[-1, 1]


def test_the_base_model_is_asked_once_for_all_steps(place, prompts, monkeypatch, tmp_path):
    answer, asked = LanguageModel.answer, []
    monkeypatch.setattr(LanguageModel, "answer", lambda self, *a: asked.append(self.role) or answer(self, *a))
    model_pairs(place / "base", place / "run", prompts[:20], folder=tmp_path, **SIZE)
    assert asked == ["base", "aligned", "aligned"]
    sides = [
        [json.loads(line)["rejected"] for line in path.read_text().splitlines()] for path in tmp_path.glob("pairs*")
    ]
    assert len(sides) == 2 and sides[0] == sides[1]


class Table(dict):
    columns = property(list)


def test_a_folder_of_checkpoints_stands_for_them_in_their_order(place):
    assert [Path(each).name for each in find_checkpoints(place / "run")] == ["step-2", "step-10"]
    assert find_checkpoints(place / "base") == [str(place / "base")]
    assert find_checkpoints("org/model") == ["org/model"]


def test_conversations_are_scored_through_the_chat_template(tmp_path):
    template = "{% for m in messages %}{{ m.content }} <end> {% endfor %}"
    for seed, name in enumerate(("base", "aligned")):
        make_model(seed=seed).save_pretrained(tmp_path / name)
        make_tokenizer(chat_template=template).save_pretrained(tmp_path / name)
    prompts = [[{"role": "user", "content": f"{one} {two}"}] for one in WORDS[:4] for two in WORDS[:2]]
    found = model_pairs(tmp_path / "base", tmp_path / "aligned", prompts, n_completions=2, **SIZE)
    assert found.models.end_token and np.isfinite(found.implicit_rewards).all()
    assert np.bincount(found.models.prompts).tolist() == [2] * 8
    found["reference_reward"] = None
    assert measure_alignment(found, None, INTERVAL)["within_prompts"]


# ------------------------------------------------------------------------------------------- what was learned


def test_the_report_finds_what_was_planted(result, pairs):
    base, early, late = result.alignment["steps"]
    assert late["times_noise"] > 3 and late["spread"] > early["spread"] > 0
    assert late["kl"] > early["kl"] > 0
    assert base["desirable"].high < late["desirable"].low
    assert late["reference_correlation"].low > 0.5
    assert late["reference_share"].estimate == pytest.approx(late["reference_correlation"].estimate ** 2)
    assert early["distance"].estimate > late["distance"].estimate == 0
    alone = measure_alignment(Bunch(**{**pairs, "reference_reward": None}), None, INTERVAL)
    for unit in ("word", "token"):
        assert found_of(alone, unit) == (set(RAISED), set(LOWERED))
        raised, lowered = found_of(result.alignment, unit)  # what the reference leaves
        assert raised and raised <= set(RAISED) and not lowered & set(LOWERED)
    text = format_audit(result)
    assert "What else the alignment changed: the share of a token" in text and "'kind'" in text


def test_of_noise_nothing_is_claimed(place, prompts):
    found = model_pairs(place / "base", place / "noise", prompts, **SIZE)
    found["reference_reward"] = None
    alignment = measure_alignment(found, None, INTERVAL)
    assert alignment["words"] == alignment["tokens"] == []
    assert alignment["words_tried"] > 10 and alignment["tokens_tried"] > 10
    assert 0.3 < alignment["steps"][-1]["times_noise"] < 2
    text = format_audit(audited(found))
    assert "hardly more than noise" in text and "no word clearly" in text and "no token clearly" in text
    assert "By step" not in text


@pytest.mark.parametrize("effect", [0.0, 3.0])
def test_intervals_of_words_hold_for_all_words_at_once(effect):
    """Of 40 experiments without an effect, about 2 may claim a word; an effect is in its interval."""
    claims, covered = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        held = rng.random((120, 30)) < 0.4
        texts = np.array([" ".join(f"w{word}" for word in np.flatnonzero(row)) or "none" for row in held], dtype=object)
        noise = rng.normal(size=(6, 120))
        words, n_tried = changed_words(texts, noise[0] + effect * held[:, 7], noise[1:] / 10, np.arange(120))
        found = {row["word"]: row for row in words}
        claims += bool(found.keys() - {"w7"})
        covered += "w7" in found and found["w7"]["low"] < effect < found["w7"]["high"]
        assert n_tried >= 30
    assert covered == (40 if effect else 0) or (not effect and covered <= 5)
    assert claims <= (40 if effect else 5)


def test_the_share_of_a_raised_token_is_told_from_the_rest_of_its_output():
    """Outputs that end early, which the reward raises, have the end token; none of their words was raised."""
    rng = np.random.default_rng(0)
    tokens, prompts, shares = [], [], []
    for prompt in range(60):
        words = [f" w{word}" for word in rng.integers(8, size=6)] + ["<end>"] * (prompt % 2)
        tokens, prompts = tokens + words, prompts + [prompt] * len(words)
        shares += [1.0 * (word == "<end>") for word in words]
    noise = rng.normal(size=(6, len(tokens))) / 5
    found, n_tried = changed_tokens(np.array(tokens, dtype=object), shares + noise[0], noise[1:], np.array(prompts))
    assert n_tried == 9 and [row["token"] for row in found if row["change"] > 0] == ["<end>"]
    assert found[-1]["occurrences"] == 30 and found[-1]["low"] < 1 < found[-1]["high"]


def test_exchanged_models_are_told(pairs, reference):
    turned = Bunch(**{**pairs, "reference_reward": -reference(pairs.data.ravel()).reshape(-1, 2)})
    with pytest.warns(UserWarning, match="falls where the reference rises"):
        measure_alignment(turned, lambda texts: -reference(texts), INTERVAL)
    models = Bunch(**{**pairs.models, "kl": pairs.models.kl * [-1, 1]})
    with pytest.warns(UserWarning, match="outputs of the aligned model is negative"):
        measure_alignment(Bunch(**{**pairs, "models": models, "reference_reward": None}), None, INTERVAL)


# ----------------------------------------------------------------------------------------- the rows of the table


def test_rewards_that_hold_the_ratio_take_part_by_the_reference_only(result, pairs):
    rewards = ["DistilledIRL", "MaxEntropyIRL", "MaxMarginIRL", "FailureAwareIRL", "DistilledReward", "ImplicitReward"]
    assert [row["reward"] for row in result.table if not row["null"]] == rewards
    assert [row["reward"] for row in result.choice["below_best"]] == rewards
    assert result.choice["left_out"] == []
    starc = {row["reward"]: row["starc"].estimate for row in result.table if row["starc"] and not row["null"]}
    for row in result.choice["below_best"]:
        below = 0 if row["starc"] is None else row["starc"].estimate
        assert below == pytest.approx(starc[row["reward"]] - min(starc.values()), abs=1e-9)
    assert "by the reference: pairs favor" in format_audit(result)
    without = Bunch(**{name: value for name, value in pairs.items() if name != "models"})
    alone = audited(without)
    assert alone.alignment is None and [row["reward"] for row in alone.choice["below_best"]] == rewards[:4]
    assert "DistilledReward and ImplicitReward take no part: pairs favor" in format_audit(alone)
    assert list(alone.pipelines) == rewards[:4] == list(result.pipelines)


def test_incomplete_implicit_rewards_are_left_out_with_a_warning(pairs):
    values = pairs.implicit_rewards.copy()
    values[0, 0] = np.nan
    data = Bunch(**{**pairs, "implicit_rewards": values, "models": None})
    with pytest.warns(UserWarning, match="implicit_rewards are missing or not finite for 1 of 400"):
        assert "DistilledIRL" not in audited(data).pipelines
    with pytest.raises(ValueError, match="Expected one an output"):
        audited(Bunch(**{**pairs, "implicit_rewards": values[:, 0]}))


# ------------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize("text", ["kl", "kl<", "<3", "kl=3", "kl<two", "kl<3 or kl>4", ""])
def test_a_condition_is_a_comparison_with_a_number(text):
    with pytest.raises(ValueError, match="such as reference_correlation<0.6"):
        parse_condition(text)


def test_figures_have_flat_names(result):
    figures = audit_figures(result)
    row = {row["reward"]: row for row in result.table}["DistilledIRL"]
    assert (
        figures["DistilledIRL/starc"] == row["starc"].estimate and figures["DistilledIRL/starc.low"] == row["starc"].low
    )
    assert figures["kl"] == figures["step-10/kl"] > figures["step-2/kl"]
    assert figures["pair_accuracy"] == figures[f"{result.choice['use']}/pair_accuracy"]
    assert figures["words"] == len(result.alignment["words"]) and figures["tokens"] == len(result.alignment["tokens"])
    assert "longer_output/pair_accuracy" in figures
    limits = [f"kl{comparison}{figures['kl'] + more}" for comparison in ("<", "<=", ">", ">=") for more in (-1, 1)]
    outcomes = check_conditions([parse_condition(text) for text in limits], figures)
    assert [outcome.failed for outcome in outcomes] == [False, True, False, True, True, False, True, False]
    with pytest.raises(ValueError, match=r"no figure nonsense. Expected one of: .*reference_correlation 0\.\d+"):
        check_conditions([parse_condition("nonsense<1")], figures)


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(place, tmp_path, monkeypatch):
    monkeypatch.setattr(fairl_sk.audit, "audit", functools.partial(audit, n_resamples=50, n_shuffles=1))
    monkeypatch.chdir(tmp_path)
    fixed = ["--quiet", "--encoder", "none", "--components", "8"]
    models = ["--base", place / "base", "--prompts", place / "prompts.txt", "--max-new-tokens", 8]
    models += ["--min-new-tokens", 8, "--store", place / "store"]

    def run(*options, aligned=(place / "run/step-10",), models=models):
        named = [part for each in aligned for part in ("--aligned", each)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about few training pairs
            return main(["audit", *map(str, [*fixed, *models, *named, *options])])

    return run


def test_checkpoints_and_conditions_on_the_command_line(run, place, pairs, capsys):
    kept = {path.name: path.read_bytes() for path in place.glob("pairs-*.jsonl")}
    Path("o").mkdir()
    for name, data in kept.items():
        Path("o", name).write_bytes(data)  # as after an interrupt: no --force
    options = ["--reference", place / "judge.skops", "--out", "o", "--junit", "ci.xml"]
    conditions = ["--fail-if", "reference_correlation<0.2", "--fail-if", "kl > 0.01"]
    assert run(*options, *conditions, aligned=[place / "run"]) == 1
    shown = capsys.readouterr()
    assert "What was learned: The implicit reward of the aligned model spreads by" in shown.out
    assert "kl is " in shown.err and "the limit is 0.01 (kl>0.01). Stop the training earlier" in shown.err
    assert "reference_correlation" not in shown.err
    assert {path.name: path.read_bytes() for path in Path("o").glob("pairs-*.jsonl")} == kept
    assert {"training.png", "DistilledIRL.skops"} <= {path.name for path in Path("o").iterdir()}
    assert '<figure id="training">' in Path("o/report.html").read_text()
    document = json.loads(Path("o/table.json").read_text())
    assert [step["step"] for step in document["alignment"]["steps"]] == ["base", "step-2", "step-10"]
    suite = ElementTree.parse("ci.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.find("failure") is None for case in suite] == [True, False]
    assert "kl is " in suite[1].find("failure").get("message")


def test_an_interrupt_keeps_the_pairs(run, place, pairs, monkeypatch, capsys, without_pictures):
    answer, calls = LanguageModel.answer, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return answer(self, *arguments)

    monkeypatch.setattr(LanguageModel, "answer", interrupted)
    assert run() == 130
    assert "run again with --out fairl_sk_audit to go on from them" in capsys.readouterr().err
    assert len(Path("fairl_sk_audit/pairs.jsonl").read_bytes().splitlines()) == 128
    assert run("--out", "fairl_sk_audit", "--fail-if", "reference_correlation<0.6") == 2  # there is no reference
    shown = capsys.readouterr()
    assert "no figure reference_correlation" in shown.err and "times_noise" in shown.err
    assert "Written to fairl_sk_audit" in shown.out and Path("fairl_sk_audit/table.json").exists()
    assert len(calls) == 5 + 4  # two batches of two models
    whole = (place / "pairs-step-10.jsonl").read_bytes().splitlines()
    assert Path("fairl_sk_audit/pairs.jsonl").read_bytes().splitlines() == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--base", "b"], "Found --base without --aligned and --prompts"),
        (["--aligned", "b"], "Found --aligned without --base"),
        (["pairs.jsonl", "--base", "b", "--aligned", "a", "--prompts", "p"], "Found PAIRS and --base"),
        (["--junit", "f"], "Found --junit without --fail-if"),
        (["--limit", 3], "Found --limit without PAIRS or --prompts"),
        (["--fail-if", "kl"], "Found the condition 'kl'"),
    ],
)
def test_options_that_do_not_fit(run, capsys, options, message):
    assert run(*options, aligned=(), models=()) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_models_and_prompts_that_do_not_fit(run, place, capsys, tmp_path):
    def refused(*options, **given):
        assert run(*options, **given) == 2
        assert not list(Path().glob("fairl_sk_audit*"))
        return capsys.readouterr().err

    assert f"--base {place / 'base'}, --aligned {place / 'base'}: " in (same := refused(aligned=[place / "base"]))
    assert "identical to the base model" in same
    make_model().save_pretrained(tmp_path / "other")
    make_tokenizer(words=WORDS[::-1]).save_pretrained(tmp_path / "other")
    other = refused(aligned=[tmp_path / "other"])
    assert "different tokenizers" in other and "--aligned" in other and "ref_chosen_logps" in other
    Path("empty.txt").write_text("\n\n")
    models = ["--base", place / "base", "--prompts", "empty.txt"]
    assert "holds no prompts" in refused(models=models)
    assert "There is no file none.txt" in refused(models=[*models[:3], "none.txt"])
