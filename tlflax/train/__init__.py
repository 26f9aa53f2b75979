"""State, jitted steps, the loop, checkpoints."""
