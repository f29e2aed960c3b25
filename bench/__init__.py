"""Benchmarks: fastgmtl beside its peers. `python -m pytest bench` runs them; README.md tells more."""
