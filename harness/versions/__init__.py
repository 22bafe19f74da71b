"""Other releases of the libraries: each in a folder of its own, and what a model takes under them."""
