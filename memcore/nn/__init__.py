"""Modules for torch. The only part of memcore that needs torch to be imported."""

from memcore.nn.quantizer import Quantized, VectorQuantizer

__all__ = ["Quantized", "VectorQuantizer"]
