"""Quantisation: number formats, fake quantisation, calibration and integer products."""
