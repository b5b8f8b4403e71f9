"""`python -m workers`: the same commands as `isochrone worker`."""

from workers.cli import worker

if __name__ == "__main__":
    worker(prog_name="isochrone worker")
