//! Side by side measurements of both walls and of other runtimes.

fn main() {}
