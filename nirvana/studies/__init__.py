"""Studies: many pruned models as one piece of work that can be stopped and continued."""
