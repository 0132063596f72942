-- Relays: who may carry evidence for agents. Their keys are what those agents' quotes are bound to.
CREATE TABLE relay (
    name            TEXT    NOT NULL PRIMARY KEY,
    key_sha256      BLOB    NOT NULL UNIQUE CHECK (length(key_sha256) = 32),
    created_by      TEXT    NOT NULL,
    created_unix_ms INTEGER NOT NULL
) STRICT;
