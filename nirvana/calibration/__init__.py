"""Calibration data: where its text comes from, how windows are drawn, and which set is chosen (paper: KL-based choice)."""
