"""`python -m coalign`, for launchers that take a module (`accelerate launch -m coalign run ...`)."""

from coalign.cli.main import main

if __name__ == "__main__":
    main()
