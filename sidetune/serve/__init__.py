"""The cloud side: an ASGI app in front of frozen backbones. It knows no task; `docs/wire.md` says how to talk to it.

connection (HTTP itself) -> refusals, metrics, keys (every request) -> app (routes) -> intake (bodies) -> service
(cache, joining equal requests) -> decoding (images) -> batcher (micro-batches) -> worker (the backbone on its thread).
describe and statistics: what it says of itself and of its backbones.
"""
