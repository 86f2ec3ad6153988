"""What is in a prepared dataset: labels, headers, folds and images, as tables and figures."""

from common.exploration.dataset import ExploredDataset

__all__ = ["ExploredDataset"]
