"""Plots, report.json and report.html."""
