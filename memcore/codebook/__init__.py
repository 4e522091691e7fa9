"""Codebooks: vectors as codes, learned at once or online."""

from memcore.codebook.book import Codebook
from memcore.codebook.pages import CodePages
from memcore.codebook.step import Exchange

__all__ = ["CodePages", "Codebook", "Exchange"]
