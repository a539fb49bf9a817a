"""Test cases for programming problems (§2.3.5): a generator makes inputs, known-good submissions vote on the outputs.

problems.py → generators.py → voting.py → funnel.py, driven by generation.py.
"""
