"""Dichotomous policy optimisation: two flow policies, one towards high and one towards low return."""
