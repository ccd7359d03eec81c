"""The former path of `perceiver.scripts.text.clm`, which trains sharded models, too."""

from perceiver.scripts.text.clm import main

if __name__ == "__main__":
    main()
