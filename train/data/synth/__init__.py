"""Synthetic faces: a parametric 3-D head, painted, posed, lit and photographed, with exact points.

`SynthSource` gives them as a face source, `write_synth` as a WFLW-form data set; `mean_face_3d` and `project` are the
mean head's 98 points and the camera.
"""

from __future__ import annotations

from train.data.synth.camera import angles_of, project, rotation
from train.data.synth.marks import mean_face_3d
from train.data.synth.source import SynthSource
from train.data.synth.write import write_synth

__all__ = ["SynthSource", "angles_of", "mean_face_3d", "project", "rotation", "write_synth"]
