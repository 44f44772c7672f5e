"""Draw figures of README and docs: ``python docs/pictures.py`` writes audit, objectives, rounds and rooms.png here."""

import ast
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

import fairl_sk
from fairl_sk import FailureAwareIRL, MultiObjectiveIRL, TextFeatures
from fairl_sk.audit import audit
from fairl_sk.datasets import make_multi_preferences, make_preferences
from fairl_sk.metrics import best_of_n
from fairl_sk.plot import COLORS, HistoryDisplay, MarginDisplay, ParetoDisplay

HERE = Path(__file__).parent
PACKAGE = Path(fairl_sk.__file__).parent
BASICS = ("pairs", "labels", "prompts", "messages", "device", "extras", "warn", "escaping")  # imported by all
ROOMS = {  # where a part of the package is drawn (x, y), and what it is
    "cli": (3.4, 6.9, "the command fairl-sk"),
    "audit": (6.6, 5.7, "fit, measure, report"),
    "rewards": (0.9, 5.6, "reference rewards"),
    "export": (0.9, 3.6, "to TRL"),
    "generate": (4.7, 4.2, "pairs from\ntwo models"),
    "diagnosis": (7.2, 4.2, "uncertainty,\nhard pairs"),
    "plot": (9.1, 4.2, "displays"),
    "implicit": (2.8, 4.2, "rewards of\nlanguage models"),
    "features": (2.2, 1.3, "texts to vectors"),
    "datasets": (4.7, 2.2, "files, corpora"),
    "learning": (7.2, 2.6, "the estimators"),
    "metrics": (7.2, 1.3, "scores, STARC"),
    "failures": (9.1, 1.3, "failure detectors"),
}


def draw_audit():
    """Draw what an audit of the package's corpus finds: accuracy and distance with intervals, and margins."""
    result = audit(features=TextFeatures(encoder=None, random_state=0))  # as without extras, in the README
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, 3.3), width_ratios=(1, 1, 1.5), layout="constrained"
    )
    rows = [row for row in result.table if row["reward"] != "same reward for all"][::-1]
    for ax, measure, title in (
        (left, "pair_accuracy", "Pair accuracy (higher is better)"),
        (middle, "starc", "STARC distance (lower is better)"),
    ):
        for place, row in enumerate(rows):
            found, color = row[measure], "0.55" if row["null"] else COLORS[0]
            ax.plot([found.low, found.high], [place, place], color=color, lw=2)
            ax.plot(found.estimate, place, "o", color=color)
        ax.axhline(sum(row["null"] for row in rows) - 0.5, color="0.8", lw=1)
        ax.set_title(title, fontsize="medium")
        ax.set_yticks(range(len(rows)), [row["reward"] for row in rows] if ax is left else [])
        ax.grid(axis="x", color="0.92")
    margins = result.margins["FailureAwareIRL"]
    MarginDisplay({"FailureAwareIRL": margins}).plot(ax=right)
    right.get_legend().remove()
    right.set_title(f"FailureAwareIRL: {(margins <= 0).mean():.0%} of held-out pairs wrong", fontsize="medium")
    for ax in (left, middle, right):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "audit.png", dpi=130)


def draw_rounds():
    """Draw the rounds of a fit to noisy pairs: losses, failures and margins."""
    pairs = make_preferences(2000, 20, noise=0.2, random_state=0)
    display = HistoryDisplay.from_estimator(FailureAwareIRL(random_state=0).fit(pairs.data, pairs.target))
    display.figure_.savefig(HERE / "rounds.png", dpi=80)


def draw_objectives():
    """Draw two objectives that conflict: outputs, their front, and what best-of-16 reaches by three weighted sums."""
    pairs = make_multi_preferences(1000, 10, n_objectives=2, correlation=-0.5, temperature=1.0, random_state=0)
    model = MultiObjectiveIRL().fit(pairs.data, pairs.targets)
    completions = np.random.default_rng(0).normal(size=(50 * 16, 10))
    rewards = model.decision_function(completions) / model.scale_
    sums = {"1 helpful": [1, 0], "0.5 helpful + 0.5 safe": [0.5, 0.5], "1 safe": [0, 1]}
    reached = best_of_n(rewards.reshape(50, 16, 2), list(sums.values())).mean(axis=1)
    points = {f"best of 16 by {name}": point for name, point in zip(sums, reached, strict=True)}
    names = ["helpful, in standard deviations", "safe, in standard deviations"]
    display = ParetoDisplay(rewards, names, points).plot()
    display.ax_.spines[["top", "right"]].set_visible(False)
    display.figure_.savefig(HERE / "objectives.png", dpi=110)


def room_imports():
    """The parts that each part imports, by name, found in the import statements of its files."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == len(inside):  # relative to the package
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found.setdefault(inside[0], set()).update(name.split(".")[0] for name in names)
    return found


def reached(room, imports):
    """All parts that a part imports, directly or through others."""
    direct = imports.get(room, set()) & set(ROOMS)
    return direct.union(*(reached(other, imports) for other in direct))


def draw_rooms():
    """Draw the parts of the package; an arrow means "imports", and arrows that follow from others are left out."""
    imports = room_imports()
    figure, ax = plt.subplots(figsize=(9, 6.4), layout="constrained")
    for room, (x, y, text) in ROOMS.items():
        ax.text(x, y, room, ha="center", va="bottom", size=12, weight="bold", zorder=3)
        ax.text(x, y - 0.06, text, ha="center", va="top", size=9, color="0.3", zorder=3)
        ax.add_patch(plt.Rectangle((x - 0.85, y - 0.45), 1.7, 0.9, fc="white", ec=COLORS[0], lw=1.5, zorder=2))
        direct = imports.get(room, set()) & set(ROOMS)
        for other in direct - set().union(*(reached(between, imports) for between in direct)):
            to_x, to_y, _ = ROOMS[other]
            arrow = {"arrowstyle": "-|>", "color": "0.35", "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
            end = to_x + np.clip(0.2 * (x - to_x), -0.7, 0.7)  # arrows to one room do not all end at one point
            ax.annotate("", (end, to_y + 0.45), (x, y - 0.45), arrowprops=arrow, zorder=1)
    ax.add_patch(plt.Rectangle((0.05, 0.05), 9.9, 0.75, fc="0.94", ec="0.6"))
    ax.text(5, 0.42, f"{', '.join(BASICS)}:  every part may import these", ha="center", va="center", size=11)
    ax.set(xlim=(0, 10), ylim=(0, 7.4))
    ax.axis("off")
    figure.savefig(HERE / "rooms.png", dpi=110)


if __name__ == "__main__":
    matplotlib.use("agg")
    draw_rooms()
    draw_objectives()
    draw_rounds()
    draw_audit()
