"""Models: sources, memory checks, loading, and one adapter a family."""
