"""Real frameworks and middleware, served and used with real clients: `make frameworks`.

Knows: the packages in `requirements.txt`; a module whose framework is missing is skipped.
Must not know: anything that only this server has.
"""
