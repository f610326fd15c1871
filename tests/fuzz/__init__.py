"""Random networks by seed, all the way: quantized, exported, lowered, compiled, saved and loaded. ``python -m fuzz`` runs more of them."""
