"""Altered copies of texts: TinyBERT's word replacement and TextBrewer's perturbations."""

from __future__ import annotations

from kdpipe.augment.spec import AugmentationSpec

__all__ = ["AugmentationSpec"]
