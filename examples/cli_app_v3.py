"""Version 3 of the example program, which cannot start: a module that it needs was not packed."""

from examples import forgotten  # type: ignore[attr-defined]

if __name__ == "__main__":
    forgotten.main("3.0.0")
