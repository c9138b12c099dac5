"""``python -m worker``: the same as the command ``driftdetector``."""

from worker.cli.main import main

if __name__ == "__main__":
    main()
