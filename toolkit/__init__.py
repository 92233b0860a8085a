"""Landmark toolkit: train, fuse, prove, quantise and ship face-landmark models."""

from __future__ import annotations

__version__ = "0.1.0"
