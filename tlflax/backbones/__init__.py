"""Networks as ordered chains of named blocks."""
