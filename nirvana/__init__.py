"""NIRVANA: structured pruning of language models, one function per arrow.

    model -> calibration set -> saliency -> plan -> pruned model -> report

Importing this package does not import torch: each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "load_model": "nirvana.models.loading",
    "load_corpus": "nirvana.calibration.corpora.registry",
    "mix": "nirvana.calibration.corpora.registry",
    "generate_corpus": "nirvana.calibration.generation",
    "sample_calibration": "nirvana.calibration.sampling",
    "sample_probe": "nirvana.calibration.sampling",
    "select_calibration": "nirvana.selection",
    "CalibrationSet": "nirvana.calibration.sets",
    "CalibrationSelection": "nirvana.calibration.sets",
    "score": "nirvana.saliency.score",
    "Saliency": "nirvana.saliency.scores",
    "allocate": "nirvana.allocation.allocate",
    "reachable_sparsity": "nirvana.allocation.allocate",
    "edit_plan": "nirvana.allocation.edits",
    "predicted_kl": "nirvana.allocation.prediction",
    "removed_score": "nirvana.allocation.prediction",
    "PruningPlan": "nirvana.plan",
    "prune": "nirvana.surgery",
    "prune_iteratively": "nirvana.iterative",
    "collect_statistics": "nirvana.compensation.statistics",
    "Statistics": "nirvana.compensation.statistics",
    "perplexity": "nirvana.evaluation.perplexity",
    "Perplexity": "nirvana.evaluation.results",
    "divergence": "nirvana.evaluation.divergence",
    "estimate": "nirvana.estimation.estimate",
    "Estimate": "nirvana.estimation.results",
    "measure_speed": "nirvana.evaluation.speed",
    "measure_costs": "nirvana.evaluation.costs",
    "byte_costs": "nirvana.evaluation.costs",
    "CostTable": "nirvana.costs",
    "SpeedReport": "nirvana.evaluation.speed_report",
    "ablate_unit": "nirvana.evaluation.ablation",
    "ablate_units": "nirvana.evaluation.ablation",
    "Ablation": "nirvana.evaluation.ablation_results",
    "Ablations": "nirvana.evaluation.ablation_results",
    "inspect_units": "nirvana.evaluation.unit_inspection",
    "UnitInspection": "nirvana.evaluation.unit_inspection_results",
    "UnitInspections": "nirvana.evaluation.unit_inspection_results",
    "kernel_shift": "nirvana.evaluation.tangent_kernel",
    "KernelShift": "nirvana.evaluation.kernel_results",
    "quantise": "nirvana.evaluation.quantisation",
    "Divergence": "nirvana.calibration.kl",
    "calibration_matrix": "nirvana.studies.matrix",
    "CalibrationMatrix": "nirvana.studies.matrix_rows",
    "sensitivity": "nirvana.evaluation.sensitivity",
    "Sensitivity": "nirvana.loss_curves",
    "recover": "nirvana.recovery.recover",
    "RecoveryHistory": "nirvana.recovery.history",
    "RecoveryOptions": "nirvana.recovery.options",
    "search_allocation": "nirvana.studies.allocation_search",
    "AllocationSearch": "nirvana.studies.allocation_search",
    "tune": "nirvana.studies.search",
    "Tuning": "nirvana.studies.search",
    "zero_shot": "nirvana.evaluation.zero_shot.harness",
    "ZeroShot": "nirvana.evaluation.zero_shot.results",
    "paired_difference": "nirvana.evaluation.zero_shot.results",
    "save": "nirvana.checkpoints.saving",
    "export": "nirvana.checkpoints.exporting",
    "export_uniform": "nirvana.checkpoints.uniform",
    "export_gguf": "nirvana.checkpoints.gguf_export",
    "verify_export": "nirvana.checkpoints.verification",
    "LM": "nirvana.models.lm",
    "Layout": "nirvana.layout",
    "Site": "nirvana.layout",
    "Recipe": "nirvana.runs.recipe",
    "Cancelled": "nirvana.errors",
    "NirvanaError": "nirvana.errors",
    "Progress": "nirvana.progress",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from nirvana.allocation.allocate import allocate as allocate
    from nirvana.allocation.allocate import reachable_sparsity as reachable_sparsity
    from nirvana.allocation.edits import edit_plan as edit_plan
    from nirvana.allocation.prediction import predicted_kl as predicted_kl
    from nirvana.allocation.prediction import removed_score as removed_score
    from nirvana.calibration.corpora.registry import load_corpus as load_corpus
    from nirvana.calibration.corpora.registry import mix as mix
    from nirvana.calibration.generation import generate_corpus as generate_corpus
    from nirvana.calibration.kl import Divergence as Divergence
    from nirvana.calibration.sampling import sample_calibration as sample_calibration
    from nirvana.calibration.sampling import sample_probe as sample_probe
    from nirvana.calibration.sets import CalibrationSelection as CalibrationSelection
    from nirvana.calibration.sets import CalibrationSet as CalibrationSet
    from nirvana.checkpoints.exporting import export as export
    from nirvana.checkpoints.gguf_export import export_gguf as export_gguf
    from nirvana.checkpoints.saving import save as save
    from nirvana.checkpoints.uniform import export_uniform as export_uniform
    from nirvana.checkpoints.verification import verify_export as verify_export
    from nirvana.compensation.statistics import Statistics as Statistics
    from nirvana.compensation.statistics import collect_statistics as collect_statistics
    from nirvana.costs import CostTable as CostTable
    from nirvana.errors import Cancelled as Cancelled
    from nirvana.errors import NirvanaError as NirvanaError
    from nirvana.estimation.estimate import estimate as estimate
    from nirvana.estimation.results import Estimate as Estimate
    from nirvana.evaluation.ablation import ablate_unit as ablate_unit
    from nirvana.evaluation.ablation import ablate_units as ablate_units
    from nirvana.evaluation.ablation_results import Ablation as Ablation
    from nirvana.evaluation.ablation_results import Ablations as Ablations
    from nirvana.evaluation.costs import byte_costs as byte_costs
    from nirvana.evaluation.costs import measure_costs as measure_costs
    from nirvana.evaluation.divergence import divergence as divergence
    from nirvana.evaluation.kernel_results import KernelShift as KernelShift
    from nirvana.evaluation.perplexity import perplexity as perplexity
    from nirvana.evaluation.quantisation import quantise as quantise
    from nirvana.evaluation.results import Perplexity as Perplexity
    from nirvana.evaluation.sensitivity import sensitivity as sensitivity
    from nirvana.evaluation.speed import measure_speed as measure_speed
    from nirvana.evaluation.speed_report import SpeedReport as SpeedReport
    from nirvana.evaluation.tangent_kernel import kernel_shift as kernel_shift
    from nirvana.evaluation.unit_inspection import inspect_units as inspect_units
    from nirvana.evaluation.unit_inspection_results import UnitInspection as UnitInspection
    from nirvana.evaluation.unit_inspection_results import UnitInspections as UnitInspections
    from nirvana.evaluation.zero_shot.harness import zero_shot as zero_shot
    from nirvana.evaluation.zero_shot.results import ZeroShot as ZeroShot
    from nirvana.evaluation.zero_shot.results import paired_difference as paired_difference
    from nirvana.iterative import prune_iteratively as prune_iteratively
    from nirvana.layout import Layout as Layout
    from nirvana.layout import Site as Site
    from nirvana.loss_curves import Sensitivity as Sensitivity
    from nirvana.models.lm import LM as LM
    from nirvana.models.loading import load_model as load_model
    from nirvana.plan import PruningPlan as PruningPlan
    from nirvana.progress import Progress as Progress
    from nirvana.recovery.history import RecoveryHistory as RecoveryHistory
    from nirvana.recovery.options import RecoveryOptions as RecoveryOptions
    from nirvana.recovery.recover import recover as recover
    from nirvana.runs.recipe import Recipe as Recipe
    from nirvana.saliency.score import score as score
    from nirvana.saliency.scores import Saliency as Saliency
    from nirvana.selection import select_calibration as select_calibration
    from nirvana.studies.allocation_search import AllocationSearch as AllocationSearch
    from nirvana.studies.allocation_search import search_allocation as search_allocation
    from nirvana.studies.matrix import calibration_matrix as calibration_matrix
    from nirvana.studies.matrix_rows import CalibrationMatrix as CalibrationMatrix
    from nirvana.studies.search import Tuning as Tuning
    from nirvana.studies.search import tune as tune
    from nirvana.surgery import prune as prune


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
