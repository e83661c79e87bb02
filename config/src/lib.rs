//! Which wall, what size, which kernel: the decision and its one place for defaults.
