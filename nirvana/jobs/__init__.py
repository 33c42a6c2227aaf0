"""Jobs: work on runs, its queue, and the worker process that does it. No torch in the parent."""
