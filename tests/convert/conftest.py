from tiny import quick_compilation  # noqa: F401
