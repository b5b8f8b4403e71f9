"""Benchmarks of single parts, in process; live/bench_edge.py says what a whole request costs."""
