"""Small applications for bjoern, each runnable as `python -m examples.NAME` or `bjoern examples.NAME:app`."""
