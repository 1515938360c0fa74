"""The operators: definitions (schema and ONNX function body), C++ kernels, registration.

import onnxruntime as ort
from snn_compile.runtime_ops import register
session = ort.InferenceSession("model_snn.onnx", register(ort.SessionOptions()))
"""

from .library import has_library, library_path, register

__all__ = ["has_library", "library_path", "register"]
