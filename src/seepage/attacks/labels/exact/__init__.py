"""Every label at once: a last-layer gradient taken apart into one rank-one term an example."""
