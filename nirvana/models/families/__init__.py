"""Model families: which weights belong to a unit, one adapter a family."""
