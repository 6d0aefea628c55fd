"""``python -m gradprobe``."""

from gradprobe.cli import main

if __name__ == "__main__":
    main()
