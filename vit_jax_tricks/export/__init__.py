"""Trained models as files for other programs: ONNX, INT8 and StableHLO."""
