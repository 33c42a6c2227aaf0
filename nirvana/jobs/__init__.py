"""Jobs: tasks, queue, and worker processes. The parent does not import torch."""
