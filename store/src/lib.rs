//! Durable records behind one trait: embedded SQLite.
