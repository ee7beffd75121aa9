"""Features kept, so that the frozen half runs once: in memory or on disk."""

from sidetune.store.disk import FeatureStore
from sidetune.store.memory import FeatureMemory

__all__ = ["FeatureMemory", "FeatureStore", "Kept"]

Kept = FeatureMemory | FeatureStore
