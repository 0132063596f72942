//! Attack, differential and end-to-end tests. They drive public interfaces only.
