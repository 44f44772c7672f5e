"""The main job: from pairs of texts to fitted, measured and saved rewards."""

from .report import load_pipeline, results_folder, write_audit
from .run import audit
from .tables import format_audit

__all__ = ["audit", "format_audit", "load_pipeline", "results_folder", "write_audit"]
