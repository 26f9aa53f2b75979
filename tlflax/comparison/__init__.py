"""Finished runs side by side: what they reached, what it cost, which differences are real."""
