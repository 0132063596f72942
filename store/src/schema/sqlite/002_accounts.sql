-- People and programs that call the HTTP surfaces. Of a password only its argon2id hash is kept, of
-- a token only its SHA-256.

CREATE TABLE account (
    id                 TEXT    NOT NULL PRIMARY KEY,
    username           TEXT    NOT NULL,
    -- The username in lower case: two that differ in case alone are one.
    username_folded    TEXT    NOT NULL UNIQUE,
    email              TEXT    NOT NULL,
    password_hash      TEXT    NOT NULL,
    roles              TEXT    NOT NULL,
    auth_provider      TEXT    NOT NULL,
    disabled           INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    must_change        INTEGER NOT NULL CHECK (must_change IN (0, 1)),
    created_unix_ms    INTEGER NOT NULL,
    last_login_unix_ms INTEGER
) STRICT, WITHOUT ROWID;

-- A login. The row goes when the session ends.
CREATE TABLE session (
    id              TEXT    NOT NULL PRIMARY KEY,
    sha256          BLOB    NOT NULL CHECK (length(sha256) = 32),
    account         TEXT    NOT NULL REFERENCES account (id),
    created_unix_ms INTEGER NOT NULL,
    expires_unix_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX session_by_account ON session (account, created_unix_ms);
CREATE INDEX session_by_expiry ON session (expires_unix_ms);

-- A program's credential. Without an owner it was made on the data directory.
CREATE TABLE api_token (
    id                TEXT    NOT NULL PRIMARY KEY,
    sha256            BLOB    NOT NULL CHECK (length(sha256) = 32),
    name              TEXT    NOT NULL,
    owner             TEXT    REFERENCES account (id),
    role              TEXT    NOT NULL,
    created_by        TEXT    NOT NULL,
    created_unix_ms   INTEGER NOT NULL,
    expires_unix_ms   INTEGER NOT NULL,
    revoked_unix_ms   INTEGER,
    last_used_unix_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX api_token_by_owner ON api_token (owner);
CREATE INDEX api_token_by_expiry ON api_token (expires_unix_ms);
