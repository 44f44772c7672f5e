"""The report of an audit: its verdict, its page in a browser, its cards, and what it does with texts of the data."""

import csv
import functools
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import DatasetCard, ModelCard
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils import Bunch

from fairl_sk import TextFeatures
from fairl_sk.audit import AuditResult, audit, format_audit, format_verdict, verdict, write_audit
from fairl_sk.audit.how_good import how_good_section, measure_calibration
from fairl_sk.audit.label_errors import label_errors_section
from fairl_sk.audit.shortcuts import shortcuts_section
from fairl_sk.audit.subgroups import subgroups_section
from fairl_sk.audit.texts import mask
from fairl_sk.cli import main
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.escaping import FORMULA, csv_cell, from_csv_cell, visible
from fairl_sk.metrics import BootstrapInterval, bootstrap_interval

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECRET = "zq17xv"  # a word of every text
EVIL = [
    "<script>document.title = 'hacked'</script>",
    "=HYPERLINK(1)",
    "\x1b[31mred\x9b\x07",
    "\u202eright to left\u2066",
    "مرحبا بالعالم",
    "你好,世界 🎉👩‍👩‍👧 \ud83d",
    "mail jo.doe@example.org, see https://example.org/a?b=1 @jo +49 170 1234567",
    "{{ 7 * 7 }} $x^2$ & ' \" `",
    f"{SECRET} " + "very long " * 60,
]


@pytest.fixture(scope="module")
def result():
    """An audit of pairs that hold one of the evil texts, and the secret word, each."""
    corpus = make_detox_preferences(240, random_state=0)
    texts = corpus.data.copy()
    for row in range(len(texts)):
        for side in (0, 1):
            texts[row, side] = f"{EVIL[(row + side) % len(EVIL)]} {SECRET} {texts[row, side]}"
    provenance = {"file": "<b>my|pairs</b>\x1b[1m.jsonl"}
    features = TextFeatures(encoder=None, n_components=8, random_state=0)
    data = Bunch(**{**corpus, "data": texts, "provenance": provenance})
    return audit(data, features=features, n_resamples=20, n_shuffles=1)


def changed(result, **parts):
    return AuditResult(**{**result, **parts})


# ------------------------------------------------------------------------------------------------------ escaping


@given(st.text())
def test_visible_texts_have_no_control_characters_and_lose_nothing(text):
    shown = visible(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert len(shown) >= len(text)
    assert visible(shown) == shown
    assert visible("naïve 你好 🎉 مرحبا") == "naïve 你好 🎉 مرحبا"
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(st.sampled_from(FORMULA), st.text())
def test_no_cell_is_a_formula(first, rest):
    assert csv_cell(first + rest) == f"'{first}{rest}"
    assert csv_cell(-1.5) == -1.5 and csv_cell("1") == "1"


@given(st.text(alphabet="'=-@\t\ra1"))
def test_cells_give_their_texts_again(text):
    assert from_csv_cell(csv_cell(text)) == text and not csv_cell(text).startswith(FORMULA)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail jo.doe+x@mail.example.org now", "mail [E-MAIL] now"),
        ("https://a.b/c?d=e#f and www.a.b", "[URL] and [URL]"),
        ("ask @jo_doe, not a@b", "ask [NAME], not a@b"),
        ("card 4111 1111-1111.1111, id 123456789x", "card [NUMBER], id [NUMBER]x"),
        ("in 2024 I was 42, at 10:30", "in 2024 I was 42, at 10:30"),
        ("write to jo.doe@exam...", "write to..."),
        ("call +49 170 12...", "call..."),
    ],
)
def test_masks(text, masked):
    assert mask(text).replace(" ...", "...") == masked


# ------------------------------------------------------------------------------------------------------- privacy


def written(result, folder, texts):
    write_audit(result, folder, texts=texts)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_without_texts_no_file_and_no_table_holds_a_word_of_the_data(result, tmp_path):
    files = written(result, tmp_path, "none")
    assert not [name for name, content in files.items() if SECRET.encode() in content or name.endswith(".skops")]
    assert SECRET not in format_audit(result) + format_verdict(result)
    assert [row["index"] for row in result.failures] == [
        int(row["index"]) for row in csv.DictReader(files["failures.csv"].decode().splitlines())
    ]
    assert "row numbers only" in files["report.html"].decode()


def test_texts_are_shortened_masked_and_escaped(result, tmp_path):
    shown = written(result, tmp_path, "shortened")
    page = shown["report.html"].decode()
    assert SECRET in page and "<script>" not in page and "very long " * 9 not in page
    assert "<b>" not in page and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert len(page) < 400_000
    rows = list(csv.reader(shown["failures.csv"].decode().splitlines()))
    assert not [cell for row in rows[1:] for cell in row[2:] if cell.startswith(FORMULA)]
    secrets = b"jo.doe@", b"example.org", b"1234567"
    assert any(secret in content for content in shown.values() for secret in secrets)
    masked = written(result, tmp_path, "masked")
    assert not [name for name in ("report.html", "failures.csv", "table.json") for s in secrets if s in masked[name]]
    with pytest.raises(ValueError, match="texts is 'all', but expected one of 'shortened', 'masked', 'none'"):
        result.to_html(texts="all")


def test_a_notebook_shows_the_page_apart(result):
    shown = result._repr_html_()
    assert shown.startswith("<iframe sandbox ") and result.to_html() == html.unescape(
        re.search('srcdoc="([^"]*)"', shown)[1]
    )


# ------------------------------------------------------------------------------------------------------- verdict


def around(estimate, half=0.02):
    return BootstrapInterval(estimate, estimate - half, estimate + half, half / 2, 50, 20)


PROPERTY = {"property": "length", "direction": 1, "accuracy": around(0.7), "named": True}
PROPERTY |= {
    "equal_pairs": 0,
    "favored_pairs": 70,
    "opposed_pairs": 30,
    "favored_accuracy": 0.9,
    "opposed_accuracy": 0.2,
}
WRONG = {"left_out": None, "clear": True, "rate": 0.1, "expected": 24.0, "held_out": 3}
WRONG["review"] = [{"row": 1, "probability": 0.9, "why": ""}] * 9 + [{"row": 2, "probability": 0.0, "why": "a copy"}]
SUBGROUP = {"subgroup": "length at most 3", "share": 0.2, "accuracy": around(0.5), "elsewhere": 0.8, "named": True}


def fair(result, reward=0.8, null=0.5, gain=0.0, **parts):
    """An audit without any finding, changed where a test says so."""
    table = [
        {**row, **dict.fromkeys(("output_f1", "output_auc")), "pair_accuracy": around(null if row["null"] else reward)}
        for row in result.table
    ]
    choice = {**result.choice, "use": "MaxEntropyIRL"}
    choice["failures"] = {"measure": "pair_accuracy", "difference": around(gain)}
    settings = {**result.settings, "tuning": {"how": "", "chosen": {}}}
    calibration = {**result.calibration, "error": 0.0, "by_chance": 0.0}
    clean = {"uncertainty": {"left_out": "made"}, "table": table, "choice": choice, "settings": settings}
    clean["shortcuts"] = {**result.shortcuts, "properties": []}
    clean["subgroups"] = {**result.subgroups, "tested": []}
    clean["label_errors"] = {**result.label_errors, "clear": False}
    return changed(result, **{**clean, "calibration": calibration, **parts})


def test_a_verdict_without_findings(result):
    said = verdict(fair(result))
    assert len(said) == 5
    assert said["Which reward"].startswith("Use MaxEntropyIRL. ")
    assert said["How good"].startswith(
        "MaxEntropyIRL orders 80.0% of 60 held-out pairs as preferred (95% interval 78.0% to 82.0%)"
    )
    assert "'same reward for all', orders 50.0%" in said["How good"]
    assert said["Biggest risk"] == "No check of this audit gave a warning."
    assert "failures" in said["Next step"]


@pytest.mark.parametrize(("gain", "word"), [(0.05, "helped"), (-0.05, "hurt"), (0.01, "made no clear difference")])
def test_the_verdict_on_learning_from_failures_follows_the_interval(result, gain, word):
    said = verdict(fair(result, gain=gain))["Learning from failures"]
    assert said.startswith(f"It {word} here: ") and f"{100 * gain:+.1f} points [" in said


def undecided(share, accuracy, of_others):
    return {"left_out": None, "pairs": {"share": share, "undecided_accuracy": accuracy, "decided_accuracy": of_others}}


@pytest.mark.parametrize(
    ("parts", "risk"),
    [
        ({"reward": 0.51}, "may be those of chance"),
        ({"null": 0.79}, "may be as good as MaxEntropyIRL"),
        ({"null": 0.62}, "alone orders 62.0% of the pairs"),
        (
            {"uncertainty": undecided(0.4, 0.6, 0.9)},
            "In 40% of the held-out pairs, the reward difference is within its own uncertainty. 40% of these",
        ),
        (
            {"uncertainty": undecided(1.0, 0.4, None), "reward": 0.51},
            "may be those of chance",  # nothing puts more than all pairs in doubt
        ),
        ({"shortcuts": {"properties": [PROPERTY]}}, "where the other output was preferred, the reward is right in 20%"),
        (
            {"subgroups": {"tested": [SUBGROUP]}},
            'length at most 3" (20% of the pairs), 50% [48%, 52%] are in the right order',
        ),
        ({"label_errors": WRONG}, "An estimated 10% of the labels (24 of 240) look wrong"),
        ({"calibration": {"error": 0.2, "by_chance": 0.02, "overconfidence": 0.2}}, "too sure"),
        ({"calibration": {"error": 0.2, "by_chance": 0.02, "overconfidence": -0.2}}, "not sure enough"),
    ],
)
def test_the_verdict_names_the_worst_finding_and_its_remedy(result, parts, risk):
    said = verdict(fair(result, **parts))
    assert risk in said["Biggest risk"] and "Read the hardest failures" not in said["Next step"]
    if "calibration" in parts:  # a larger doubt goes first
        assert "may be as good as" in verdict(fair(result, null=0.79, **parts))["Biggest risk"]


def test_the_verdict_names_the_worst_finding_of_other_parts_too_and_labels_come_first(result):
    worse = {**SUBGROUP, "subgroup": "part 2", "share": 0.3}
    parts = {"subgroups": {"tested": [SUBGROUP, worse]}, "label_errors": WRONG}
    said = verdict(fair(result, uncertainty=undecided(0.6, 0.6, 0.9), **parts))
    risk, also = said["Biggest risk"].split(" Also: ")
    assert "60%" in risk
    assert also == 'an estimated 10% of the labels look wrong; in the subgroup "part 2", 50% are in the right order.'
    assert (
        said["Next step"].startswith("First the labels") and "Review the 10 pairs of `review.csv`" in said["Next step"]
    )
    assert said["Next step"].index("Then: ") < said["Next step"].index("`fairl-sk suggest NEW_PAIRS.csv --fitted Max")
    said = verdict(fair(result, null=0.79, **parts))  # all pairs are in doubt
    assert "look wrong" in said["Biggest risk"] and "review.csv" not in said["Next step"]


def test_the_best_simple_rule_is_named_beside_the_best_null_if_it_orders_more(result):
    for null, named in ((0.5, True), (0.75, False)):
        audited = fair(result, null=null, shortcuts={"properties": [PROPERTY]})
        said = verdict(audited)["How good"]
        assert ("The best simple rule, greater length, orders 70.0%; the best null" in said) == named
        assert f"orders {null:.1%}." in said
        labels = [tick.get_text() for tick in how_good_section(audited).pictures[0].draw().axes[0].get_yticklabels()]
        assert labels[0] == "greater length" and labels[-1] == "MaxEntropyIRL"


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ((0.5, 1.0), "MaxEntropyIRL are clearly too low in 1 of 2 bins (from 0.80 to 0.80)."),
        ((0.2, 0.5), "MaxEntropyIRL are clearly too high in 2 of 2 bins (from 0.60 to 0.80)."),
        ((0.2, 1.0), "too low in 1 of 2 bins (from 0.80 to 0.80) and too high in 1 of 2 bins (from 0.60 to 0.60)."),
        ((0.7, 0.85), "MaxEntropyIRL are too low on average, but not clearly in any bin"),
    ],
)
@pytest.mark.parametrize("rows", [50, 5])
def test_the_words_on_probabilities_follow_the_bins(result, right, words, rows):
    """Five rows may all be right by chance, whatever their interval says."""
    bins = [
        {"rows": rows, "probability": probability, "right": share, "interval": around(share)}
        for probability, share in zip((0.6, 0.8), right, strict=True)
    ]
    found = {"bins": bins, "error": 0.1, "by_chance": 0.05, "by_chance_high": 0.08, "overconfidence": -0.1}
    said = how_good_section(fair(result, calibration=found)).words
    assert (words in said) == (rows == 50 or "on average" in words)
    assert ("in 2 of 2" in said or "too low in 1" in said) <= (rows == 50)
    right = how_good_section(fair(result, calibration={**found, "error": 0.07})).words
    assert "nothing shows that the probabilities of MaxEntropyIRL are wrong" in right


def test_the_section_on_properties_says_of_each_where_the_reward_is_right(result):
    """A property that no pair opposes: nothing shows more."""
    other = {**PROPERTY, "property": "share of capitals", "opposed_pairs": 0, "opposed_accuracy": None}
    more = {**PROPERTY, "opposed_accuracy": 0.6}
    for rows, conclusion in (
        ([more], "So R has learned more than this."),
        ([more, more], "So R has learned more than any of these."),
        ([more, other], "Nothing shows that R has learned more than the greater share of capitals."),
        ([PROPERTY], "Nothing shows that R has learned more than the greater length."),
    ):
        rows = [{**row, "p_corrected": 0.0, "r2": around(0.2)} for row in rows]
        found = {**result.shortcuts, "reward": "R", "properties": rows}
        words = shortcuts_section(changed(result, shortcuts=found)).words
        assert "Greater length alone orders 70% [68%, 72%] of the held-out pairs; in the pairs that are opp" in words
        assert conclusion in words


def test_the_words_on_label_errors_count_what_is_listed(result):
    words = label_errors_section(fair(result, label_errors=WRONG)).words
    assert "lists 9 pairs in which a wrong label is likelier than a right one and 1 pair that a copy" in words
    assert "3 of them are held out" in words


@pytest.mark.usefixtures("without_pictures")
def test_an_example_of_the_worst_subgroup_is_shown_unfolded_with_the_texts_that_a_report_may_show(result):
    example = {"subgroup": "part 2", "index": 7, "margin": -1.5, "preferred": f"{SECRET} a@b.org", "other": "x"}
    found = {**result.subgroups, "tested": [], "example": example}
    pages = {texts: fair(result, subgroups=found).to_html(texts=texts) for texts in ("shortened", "masked", "none")}
    assert [f"{SECRET} a@b.org</td>" in page for page in pages.values()] == [True, False, False]
    assert [f"{SECRET} [E-MAIL]</td>" in page for page in pages.values()] == [False, True, False]
    assert [page.count("<details open>") for page in pages.values()] == [1, 1, 0]
    assert "<code>fairl-sk audit PAIRS.csv --deploy TEXTS.txt</code>" in pages["none"]


def test_no_reward_is_named_where_none_is_above_chance(result):
    said = verdict(fair(result, choice={**result.choice, "use": None}))
    assert said["Which reward"].startswith("Use none of these rewards")


def test_the_verdict_of_two_models_says_what_was_learned(result):
    steps = [{"step": "base"}, {"step": "m", "times_noise": 5.2, "reference_share": around(0.4, 0.1)}]
    said = verdict(fair(result, alignment={"steps": steps}))
    assert said["What was learned"].endswith("5.2 times the noise; the reference explains 40% of it [30%, 50%].")
    steps[1] |= {"spread": 2.0, "null_spread": 0.5, "null_low": 0.4, "null_high": 0.6, "kl": 1.0, "kl_error": 0.1}
    steps[1]["reference_correlation"] = around(0.6)
    words = [{"word": SECRET, "outputs": 20, "change": 1.0, "low": 0.5, "high": 1.5}]
    tokens = [{"token": SECRET, "occurrences": 20, "change": 1.0, "low": 0.5, "high": 1.5}]
    known = {"outputs": 9, "n_draws": 8, "reference": True, "within_prompts": True, "end_token": True}
    known |= {"words_tried": 7, "tokens_tried": 8, "token_outputs": 9, "words": words, "tokens": tokens}
    two = fair(result, alignment={"steps": steps, **known}, failures=[])
    assert f'<td dir="auto">{SECRET}</td>' in two.to_html() and SECRET not in two.to_html(texts="none")
    for unit in ("words", "tokens"):
        assert f"What else the alignment changed: 1 {unit} clearly, which are not shown" in two.to_html(texts="none")
    steps[1] |= {"times_noise": 1.1}
    assert "hardly more than noise" in verdict(fair(result, alignment={"steps": steps}))["Biggest risk"]


def test_sections_that_sample_say_so(result):
    many = fair(result, settings={**result.settings, "rows": 80_000, "test_rows": 20_000})
    assert "Measured on a random sample of 60 of 20,000 held-out pairs." in shortcuts_section(many).words
    assert "Measured on a random sample of 240 of 80,000 pairs." in subgroups_section(many).words
    assert "sample" not in shortcuts_section(result).words + subgroups_section(result).words


def test_calibration_is_right_where_probabilities_are(rng):
    margins = rng.logistic(scale=1, size=4000) + 1.0
    interval = functools.partial(bootstrap_interval, n_resamples=20, random_state=0)
    true = rng.exponential(2, 4000)
    drawn = np.where(rng.random(4000) < 1 / (1 + np.exp(-true)), true, -true)
    good = measure_calibration(drawn, np.arange(4000), interval)
    assert good["error"] < 2 * good["by_chance"] and sum(row["rows"] for row in good["bins"]) == 4000
    sure = measure_calibration(5 * drawn, np.arange(4000), interval)
    assert sure["error"] > 0.05 and sure["overconfidence"] > 0.05
    assert measure_calibration(margins[:30], np.arange(30) // 10, interval)["bins"][0]["interval"] is None


# ------------------------------------------------------------------------------------------------------ the files


def test_the_cards_are_cards_of_the_hub(result, tmp_path):
    write_audit(result, tmp_path)
    model, data = ModelCard.load(tmp_path / "model_card.md"), DatasetCard.load(tmp_path / "data_card.md")
    assert data.data.size_categories == ["n<1K"] and data.data.pretty_name == result.settings["data"]["file"]
    use = result.choice["use"] or "MaxEntropyIRL"
    found = {score.metric_type: score.metric_value for score in model.data.eval_results}
    row = next(row for row in result.table if row["reward"] == model.data.model_name)
    assert model.data.model_name == use and found["pair_accuracy"] == row["pair_accuracy"].estimate
    for card in (model, data):
        assert "<b>" not in card.text and "\x1b" not in str(card)


def test_the_command_prints_the_verdict_and_the_report_says_the_command(tmp_path, monkeypatch, capsys, result):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fairl_sk.audit.audit", lambda *args, **options: result)
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address))
    assert main(["audit", "--out", "my folder", "--open", "--no-texts"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.partition(":")[0] for line in lines[:5]] == list(verdict(result)) and lines[5] == ""
    assert "nulls" not in lines and opened == [(tmp_path / "my folder" / "report.html").as_uri()]
    assert shown.err.endswith("found no browser to open the report.\n")
    command = "fairl-sk audit --out 'my folder' --open --no-texts"
    assert html.escape(command, quote=True).replace("&#x27;", "&#39;") in Path("my folder/report.html").read_text()
    assert json.loads(Path("my folder/table.json").read_text())["settings"]["command"] == command
    assert main(["audit", "--out", "more", "--verbose"]) == 0
    shown = capsys.readouterr().out
    assert "nulls" in shown.splitlines()


# ---------------------------------------------------------------------------------------------------- the browser

LOOK = """
<script>
addEventListener("load", () => {
  const found = [], visible = e => e.getClientRects().length > 0;
  const numbers = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = numbers(c).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const paper = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                       if (numbers(c)[3] !== 0 && c !== "transparent") return c; } return "rgb(255, 255, 255)"; };
  document.querySelectorAll("details").forEach(d => d.open = true);
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("script") || !visible(e)) continue;
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own) continue;
    const style = getComputedStyle(e), ink = e instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(paper(e))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (!(ratio >= 4.5)) found.push(`contrast ${ratio} of ${e.tagName}: ${e.textContent.slice(0, 30)}`);
  }
  for (const e of document.querySelectorAll("svg, img"))
    if (!(e.getAttribute("aria-label") || e.alt || "").trim()) found.push("picture without a text");
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  if (new Set(ids).size < ids.length) found.push("two elements of one id");
  const levels = [...document.querySelectorAll("h1, h2, h3")].map(e => +e.tagName[1]);
  if (levels[0] !== 1 || levels.some((l, i) => i && l > levels[i - 1] + 1)) found.push(`headings ${levels}`);
  for (const e of document.querySelectorAll("table")) if (!e.caption) found.push("table without a caption");
  for (const e of document.querySelectorAll("a[href^='#']"))
    if (!document.getElementById(e.hash.slice(1))) found.push(`no ${e.hash}`);
  for (const e of document.querySelectorAll("td")) if (e.dir !== "auto") found.push("a cell of one direction");
  const width = document.documentElement.scrollWidth;
  if (width > innerWidth) found.push(`sideways ${width}`);
  for (const e of performance.getEntriesByType("resource")) found.push(`request ${e.name}`);
  if (document.title === "hacked" || !document.documentElement.lang) found.push("title or language");
  document.body.dataset.found = JSON.stringify({found, pictures: document.querySelectorAll("svg").length,
    dark: matchMedia("(prefers-color-scheme: dark)").matches});
});
</script>
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_in_a_browser(result, tmp_path, dark):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    page = tmp_path / "report.html"
    page.write_text(result.to_html().replace("</head>", f"{LOOK}</head>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--proxy-server=http://127.0.0.1:1", "--no-first-run"]
    options += [
        "--enable-logging=stderr",
        "--window-size=500,900",
        f"--blink-settings=preferredColorScheme={int(not dark)}",
    ]
    seen = subprocess.run([browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in seen.stderr
    found = json.loads(html.unescape(re.search('data-found="([^"]*)"', seen.stdout)[1]))
    assert found == {"found": [], "pictures": found["pictures"], "dark": dark} and found["pictures"] >= 4
