"""What a release of the libraries costs: records of runs under many of them, and what moved between neighbours."""
