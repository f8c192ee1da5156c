"""CFGRL: one flow with and without the condition "better than expected", guided as classifier-free guidance does."""
