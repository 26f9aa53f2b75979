"""The parts of scripts/bench.py: what is measured, the driver, one program for each peer.

The driver (`workers`, `rounds`, `jobs`, `quick`, `table`) needs nothing but numpy and Pillow; the
programs of the peers (`peer_*`, `job_*`) run in virtual environments of their own.
"""
