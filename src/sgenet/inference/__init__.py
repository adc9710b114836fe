"""A faster copy of a trained network, for inference."""

from sgenet.inference.optimizing import optimize
from sgenet.inference.report import Left, OptimizationReport, optimization_report

__all__ = ["Left", "OptimizationReport", "optimization_report", "optimize"]
