"""Studies: resumable work on many pruned models."""
