"""
Fit a reward
============

Fit a reward to preference pairs, measure it on held-out prompts, save it, and score new texts.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import skops.io
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline

from fairl_sk import MaxEntropyIRL, TextFeatures
from fairl_sk.audit import load_pipeline
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.metrics import bootstrap_interval
from fairl_sk.plot import MarginDisplay

# %%
# The pairs: two texts in each row. The target is 1 where the first text is preferred.
# ``load_preferences("pairs.jsonl")`` reads your own pairs.
pairs = make_detox_preferences(600, noise=0.05, random_state=0)
print(pairs.data[0], pairs.target[0])

# %%
# Hold out whole prompts. Pairs of one prompt resemble each other, so they stay on one side.
splitter = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
train, test = next(splitter.split(pairs.data, groups=pairs.groups))

# %%
# Texts become n-grams of words and characters. ``TextFeatures("minilm")`` adds a sentence embedding.
features = TextFeatures(encoder=None, n_components=100, random_state=0)
reward = make_pipeline(features, MaxEntropyIRL(alpha=0.001)).fit(pairs.data[train], pairs.target[train])

# %%
# The share of held-out pairs that the reward orders as preferred, with a 95 % interval by prompts.
margins = reward.decision_function(pairs.data[test])
accuracy = bootstrap_interval("pair_accuracy", pairs.target[test], margins, groups=pairs.groups[test], random_state=0)
print(f"pair accuracy {accuracy.estimate:.3f}, 95 % interval {accuracy.low:.3f} to {accuracy.high:.3f}")

# %%
# Margins of the held-out pairs. Those below 0 are ordered against the preference.
MarginDisplay.from_estimator(reward, pairs.data[test], pairs.target[test], name="reward")

# %%
# Save it without pickle. The loaded reward scores single texts: higher is better.
with TemporaryDirectory() as folder:
    path = Path(folder) / "reward.skops"
    skops.io.dump(reward, path)
    loaded = load_pipeline(path)
texts = ["Thank you for asking. The bench is green.", "Nobody asked you, dunce."]
for text, value in zip(texts, loaded.decision_function(texts), strict=True):
    print(f"{value:6.2f}  {text}")
