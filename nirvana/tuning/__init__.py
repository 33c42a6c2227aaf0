"""The search for a recipe: which choices leave a model closest to what it was, by KL on probe text."""
