"""Versions of the packages that can change a number."""

import importlib.metadata

import tlflax


def versions_of(*packages: str) -> dict[str, str]:
    """Installed versions; tlflax's own also from a source folder that was never installed."""
    return {
        p: tlflax.__version__ if p == "tlflax" else importlib.metadata.version(p) for p in packages
    }
