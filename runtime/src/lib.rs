//! Worker threads that drive the engine's shards, the clock, lanes and the store thread.
