"""Forward passes over calibration sets and windows: batches, hidden states, inputs of output projections."""
