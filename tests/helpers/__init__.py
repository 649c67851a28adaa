"""Functions and classes that several test files use. Fixtures are in the conftest.py files."""
