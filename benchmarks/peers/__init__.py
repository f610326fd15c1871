"""One script a tool: `python peers/NAME.py --network N --calibration FILE --out FILE`, with `benchmarks/` on PYTHONPATH."""
