"""What is the same as in bjoern 3.2.2, and what is different: one suite, with the server as its parameter.

`test_keep.py` holds what both do, `test_fix.py` what each does where they differ. A row names its section of the
checklist that 3.2.2 was observed for: 1.1 Python API, 1.2 environ, 1.3 requests, 1.4 responses, 1.5 start_response,
1.6 files, 1.7 signals, processes and threads, 1.8 statsd.
"""
