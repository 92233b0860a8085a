"""The C exporter: an ONNX model of the family becomes landmarks.h and landmarks.c, two files without dependencies."""

from export.c.export import COptions, CReport, export_c

__all__ = ["COptions", "CReport", "export_c"]
