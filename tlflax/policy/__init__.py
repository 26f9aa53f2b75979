"""Which parameters train, at which rate, in which BatchNorm mode."""
