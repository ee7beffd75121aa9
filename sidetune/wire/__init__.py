"""Features as bytes: codecs, messages of the Open Inference Protocol, and what a service says of its backbones.

`docs/wire.md` defines every byte. Nothing here imports torch: the small device runs it.
"""
