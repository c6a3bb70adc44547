"""Many audits: a plan of cells, shards that engines compute, a folder that loses nothing, and the frontier."""
