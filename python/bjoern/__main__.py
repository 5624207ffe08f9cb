"""`python -m bjoern`: the command. Knows: nothing but where it is."""

from .cli import main

if __name__ == "__main__":
    main()
