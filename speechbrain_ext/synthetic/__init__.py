"""A corpus of synthetic voices, for tests and the demo."""
