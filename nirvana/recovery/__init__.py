"""Recovery: training a pruned model by distillation, adapters or language modelling (paper: robust fine-tuning)."""
