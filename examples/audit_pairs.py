"""
Audit a file of pairs
=====================

What do the preferences in a file reward, and can that reward be trusted?
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from fairl_sk import TextFeatures
from fairl_sk.audit import audit, format_verdict, write_audit
from fairl_sk.datasets import load_preferences, make_detox_preferences

folder = TemporaryDirectory()

# %%
# A file of pairs. This one is made, and one label in ten is wrong.
made = make_detox_preferences(240, noise=0.1, random_state=0)
path = Path(folder.name) / "pairs.jsonl"
with open(path, "w", encoding="utf-8") as file:
    for prompt, texts, target in zip(made.prompt, made.data, made.target, strict=True):
        chosen, rejected = texts if target == 1 else texts[::-1]
        file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")

# %%
# The audit holds out whole prompts, tunes three learners and measures them. Few features make it fast here.
features = TextFeatures(encoder=None, n_components=20, random_state=0)
result = audit(load_preferences(path), features=features, n_resamples=100, n_shuffles=2)
print(format_verdict(result))

# %%
# The figures behind the verdict are plain data.
for row in result.table:
    interval = row["pair_accuracy"]
    if interval is not None:
        print(f"{row['reward']:<24} {interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})")

# %%
# The report is one page, ``report.html``. Tables, the hardest pairs and the fitted rewards lie beside it.
# ``fairl-sk audit pairs.jsonl --open`` does all of this on the command line.
results = Path(folder.name) / "results"
results.mkdir()
for written in write_audit(result, results):
    print(f"{written.name}: {written.stat().st_size / 1000:.0f} kB")
folder.cleanup()
# sphinx_gallery_thumbnail_path = "audit.png"
