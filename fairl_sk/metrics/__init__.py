"""How good a reward is and how certain that is: scores, distances, intervals, nulls and scorers."""

from .distances import starc_distance, tabular_dard, tabular_epic, tabular_starc
from .intervals import BootstrapInterval, bootstrap_difference, bootstrap_interval, check_split
from .nulls import longer_null, prompt_only_null, shorter_null, shuffled_labels_null
from .outputs import output_auc_score, output_f1_score
from .pairs import pair_accuracy, pair_log_loss
from .pareto import best_of_n, hypervolume, pareto_front
from .scorers import (
    make_starc_scorer,
    objective_scorers,
    output_auc_scorer,
    output_f1_scorer,
    pair_accuracy_scorer,
    pair_log_loss_scorer,
)

__all__ = [
    "BootstrapInterval",
    "best_of_n",
    "bootstrap_difference",
    "bootstrap_interval",
    "check_split",
    "hypervolume",
    "longer_null",
    "make_starc_scorer",
    "objective_scorers",
    "output_auc_score",
    "output_auc_scorer",
    "output_f1_score",
    "output_f1_scorer",
    "pair_accuracy",
    "pair_accuracy_scorer",
    "pair_log_loss",
    "pair_log_loss_scorer",
    "pareto_front",
    "prompt_only_null",
    "shorter_null",
    "shuffled_labels_null",
    "starc_distance",
    "tabular_dard",
    "tabular_epic",
    "tabular_starc",
]
