"""
Export to TRL
=============

Turn a fitted reward into a reward function of TRL, and check it before the training.
"""

import pickle

import matplotlib.pyplot as plt
from sklearn.pipeline import make_pipeline

from fairl_sk import FailureAwareIRL, TextFeatures
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.export import RewardFunction, check_reward

# %%
# A reward of texts.
pairs = make_detox_preferences(400, random_state=0)
features = TextFeatures(encoder=None, n_components=100, random_state=0)
fitted = make_pipeline(features, FailureAwareIRL(random_state=0)).fit(pairs.data, pairs.target)

# %%
# The function fixes how prompt and completion are joined (here: the completion alone), center and scale.
# A policy looks for outputs of extreme reward; ``clip`` bounds it.
reward = RewardFunction(fitted, pairs.data, pairs.target, name="manners", prompt_template="{output}", clip="tanh")
print(reward(prompts=["How is it?"] * 2, completions=["Thank you for asking.", "Nobody asked you, dunce."]))

# %%
# Check it on outputs like those of the policy: ties, saturation, length, dependence on the batch.
completions = [text for pair in pairs.data[:50] for text in pair]
prompts = [prompt for prompt in pairs.prompt[:50] for _ in range(2)]
health = check_reward(reward, prompts, completions, beta=0.05)
for row in health.table:
    print(f"{row['measure']:<16} {row['value']:8.3g}   expected {row['expected']}")
_, axes = plt.subplots()
axes.hist(reward(prompts=prompts, completions=completions), bins=30)
axes.set(xlabel="reward, between -1 and 1", ylabel="completions")

# %%
# It can be pickled, so it reaches the processes of a training.
same = pickle.loads(pickle.dumps(reward))
assert same(prompts=prompts, completions=completions) == reward(prompts=prompts, completions=completions)

# %%
# TRL takes it as it is::
#
#     from trl import GRPOTrainer
#
#     trainer = GRPOTrainer("base-model", reward_funcs=reward, train_dataset=prompts)
#     trainer.train()
