"""A driving agent that plans from cameras, fine-tuned by two adapters against a driving score.

Needs the extra ``driving``.
"""
