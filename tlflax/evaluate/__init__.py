"""Predictions, metrics and honest intervals."""
