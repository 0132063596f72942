-- Agents of Keylime that registered here. An inactive one has proven nothing and ends by itself; what
-- an active one asks to be changed waits in its row for a proof, and then perhaps for an operator.
CREATE TABLE keylime_registration (
    id                 TEXT    NOT NULL PRIMARY KEY,
    -- SHA-256 of the endorsement key's SubjectPublicKeyInfo, as in `agent`.
    ek_sha256          BLOB    NOT NULL CHECK (length(ek_sha256) = 32),
    -- Grows with each change: what was decided on an older one is decided again.
    revision           INTEGER NOT NULL CHECK (revision > 0),
    -- Where the last registration came from.
    source             TEXT    NOT NULL,
    -- When it ends by itself; NULL once it is active.
    expires_unix_ms    INTEGER,
    -- Whether a proven change waits for an operator.
    is_proposed        INTEGER NOT NULL CHECK (is_proposed IN (0, 1)),
    registered_unix_ms INTEGER NOT NULL,
    packed             BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keylime_registration_by_ek ON keylime_registration (ek_sha256);
CREATE INDEX keylime_registration_by_expiry ON keylime_registration (expires_unix_ms)
WHERE expires_unix_ms IS NOT NULL;
CREATE INDEX keylime_registration_by_source ON keylime_registration (source)
WHERE expires_unix_ms IS NOT NULL;
CREATE INDEX keylime_registration_by_proposal ON keylime_registration (id)
WHERE is_proposed = 1;
