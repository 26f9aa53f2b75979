"""What is computed once because everything below it is frozen."""
