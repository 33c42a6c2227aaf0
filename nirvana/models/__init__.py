"""Models: where they come from, whether they fit, and what each family looks like."""
