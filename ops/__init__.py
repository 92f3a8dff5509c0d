"""Device operations: one per file, the torch reference beside the Triton kernel."""
