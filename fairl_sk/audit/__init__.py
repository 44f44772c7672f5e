"""The main job: from pairs of texts, or from two models, to fitted, measured and saved rewards."""

from .models import model_pairs
from .report import load_pipeline, results_folder, write_audit
from .run import audit
from .tables import format_audit

__all__ = ["audit", "format_audit", "load_pipeline", "model_pairs", "results_folder", "write_audit"]
