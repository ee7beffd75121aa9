"""The small device: features from a service kept in a file, MIST's edge network trained on them without PyTorch.

Everything here, and everything it imports, is the standard library, NumPy and safetensors.
"""
