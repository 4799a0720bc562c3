"""Load generators and benchmarks; they speak only the wire."""
