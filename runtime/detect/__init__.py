"""Face detectors behind one small protocol; each is imported only when it is asked for."""

from runtime.detect.protocol import Detection, Detector, FaceRule

__all__ = ["Detection", "Detector", "FaceRule"]
