"""
Search parameters
=================

Choose the penalty and the weight of failures by cross-validation, and see whether failures help.
"""

import matplotlib.pyplot as plt
import numpy as np

from fairl_sk import FailureAwareIRLCV, MaxEntropyIRLCV
from fairl_sk.datasets import make_preferences

# %%
# Pairs of eight features. One preference in five is flipped.
pairs = make_preferences(400, 8, noise=0.2, random_state=0)

# %%
# A parameter that is a list is a grid. ``groups`` keeps the pairs of one prompt in one fold.
# Zero failure weight is always a candidate, so failures are used only if they raise the score.
grid = [0.1, 0.03, 0.01]
search = FailureAwareIRLCV(alpha=grid, failure_weight=[1.0, 3.0], cv=3, random_state=0)
search.fit(pairs.data, pairs.target, groups=pairs.groups)
print(f"best: {search.best_params_}, accuracy {search.best_score_:.3f}")

# %%
# Accuracy by candidate: one line for each failure weight.
results = search.cv_results_
alphas = np.array(results["param_alpha"], dtype=float)
weights = np.array([str(value) for value in results["param_failure_weight"]])
figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
for weight in np.unique(weights):
    rows = np.flatnonzero(weights == weight)
    rows = rows[np.argsort(alphas[rows])]
    ax.plot(alphas[rows], results["mean_test_score"][rows], marker="o", label=f"failure weight {weight}")
ax.set(xscale="log", xlabel="alpha (penalty)", ylabel="pair accuracy, 3 folds")
ax.legend()
plt.show()

# %%
# The search is the best candidate, fitted on all pairs. Here the true reward is known, so compare the
# weights with those of the standard learner, which is tuned on the same grid.
standard = MaxEntropyIRLCV(alpha=grid, cv=3).fit(pairs.data, pairs.target, groups=pairs.groups)
for name, fitted in {"with failures": search, "standard": standard}.items():
    coef = fitted.coef_.ravel()
    cosine = coef @ pairs.coef / np.linalg.norm(coef) / np.linalg.norm(pairs.coef)
    print(f"{name}: cosine to the true weights {cosine:.3f}")
