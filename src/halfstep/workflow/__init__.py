"""The verbs: load a model, quantize, evaluate, keep the result."""
