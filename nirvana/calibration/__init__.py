"""Calibration data: where its text is from, how windows are drawn, and which set is chosen (paper: choice by KL)."""
