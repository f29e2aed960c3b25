"""``python -m fastgmtl``."""

from fastgmtl.cli import main

if __name__ == "__main__":
    main()
