"""The main job: from pairs of texts, or from two models, to fitted, measured and saved rewards."""

from .models import model_pairs
from .page import AuditResult
from .properties import PROPERTIES, Property
from .report import load_pipeline, results_folder, write_audit
from .run import audit
from .tables import format_audit
from .verdict import format_verdict, verdict

__all__ = [
    "PROPERTIES",
    "AuditResult",
    "Property",
    "audit",
    "format_audit",
    "format_verdict",
    "load_pipeline",
    "model_pairs",
    "results_folder",
    "verdict",
    "write_audit",
]
