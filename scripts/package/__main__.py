"""python -m ich: the installed command, for torchrun and where it is not on the PATH."""

from . import main

if __name__ == "__main__":
    main()
