"""Calibration data: corpora, windows of tokens, calibration sets, and the choice of a set (paper: choice by KL)."""
