"""How the driving agent learns: imitation of recorded plans, then fine-tuning of adapters against a score."""
