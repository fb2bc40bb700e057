"""Measures the gateway and its peers side by side; `bench/compare` is the way in."""
