"""Models for other runtimes: export to ONNX, and the same models computed by ONNX Runtime (extra ``[onnx]``)."""
