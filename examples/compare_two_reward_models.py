"""
Compare two reward models
=========================

Is one reward better than another on the same pairs, and do they reward the same thing?
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline

from fairl_sk import MaxEntropyIRL, TextFeatures
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.metrics import bootstrap_difference, bootstrap_interval, starc_distance

# %%
# Two rewards: one reads words, the other one the characters of the text. Any function of texts does, for instance
# ``fairl_sk.rewards.ClassifierReward("model")`` for a classifier of Hugging Face.
pairs = make_detox_preferences(600, noise=0.05, random_state=0)
train, test = next(GroupShuffleSplit(n_splits=1, test_size=0.3, random_state=0).split(pairs.data, groups=pairs.groups))
blocks = {"words": {"characters_weight": 0}, "characters": {"words_weight": 0}}
rewards = {}
for name, block in blocks.items():
    features = TextFeatures(encoder=None, n_components=50, random_state=0, **block)
    model = make_pipeline(features, MaxEntropyIRL(alpha=0.001)).fit(pairs.data[train], pairs.target[train])
    rewards[name] = model.decision_function(pairs.data[test].ravel()).reshape(-1, 2)  # of each held-out output

# %%
# Each alone, and the difference on the same bootstrap draws of prompts.
y, groups = pairs.target[test], pairs.groups[test]
margins = {name: values[:, 0] - values[:, 1] for name, values in rewards.items()}
for name, values in margins.items():
    found = bootstrap_interval("pair_accuracy", y, values, groups=groups, random_state=0)
    print(f"{name}: accuracy {found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})")
both = (y, margins["words"]), (y, margins["characters"])
found = bootstrap_difference("pair_accuracy", *both, groups=groups, random_state=0)
print(f"words less characters: {found.estimate:+.3f} ({found.low:+.3f} to {found.high:+.3f})")

# %%
# Do they reward the same? STARC is 0 for equal rewards, up to offset and scale, and 1 for opposite ones.
one, other = rewards["words"], rewards["characters"]
print(f"STARC {starc_distance(one, other):.3f}, rank correlation {spearmanr(one.ravel(), other.ravel())[0]:.3f}")
_, axes = plt.subplots()
axes.scatter(one, other, s=8, alpha=0.5)
axes.set(xlabel="reward by words", ylabel="reward by characters", title="Held-out outputs")

# %%
# Read the pairs on which they disagree most.
product = (margins["words"] / margins["words"].std()) * (margins["characters"] / margins["characters"].std())
for row in np.argsort(product)[:3]:
    first = {name: "first" if values[row] > 0 else "second" for name, values in margins.items()}
    print(f"words prefer the {first['words']}, characters the {first['characters']}: {list(pairs.data[test][row])}")
