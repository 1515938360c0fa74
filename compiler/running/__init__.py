"""Networks run in ONNX Runtime: whole or in parts, and what is seen of them meanwhile."""
