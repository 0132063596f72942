-- Policies by the names that Keylime's clients give them. What a policy judges by is in
-- policy_blob; `packed` is the text that was brought, which may be a signed envelope around it.
CREATE TABLE keylime_policy (
    kind            TEXT    NOT NULL CHECK (kind IN ('runtime', 'measured_boot')),
    name            TEXT    NOT NULL,
    digest          BLOB    REFERENCES policy_blob (digest),
    version         INTEGER NOT NULL CHECK (version > 0),
    changed_unix_ms INTEGER NOT NULL,
    packed          BLOB    NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX keylime_policy_by_digest ON keylime_policy (digest);

-- What a tenant said of one of Keylime's agents. The names are of rows in keylime_policy.
CREATE TABLE keylime_agent (
    shard           INTEGER NOT NULL,
    id              TEXT    NOT NULL,
    runtime_policy  TEXT    NOT NULL,
    mb_policy       TEXT    NOT NULL,
    version         INTEGER NOT NULL CHECK (version > 0),
    packed          BLOB    NOT NULL,
    PRIMARY KEY (shard, id),
    FOREIGN KEY (shard, id) REFERENCES agent (shard, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX keylime_agent_by_runtime_policy ON keylime_agent (runtime_policy, id);
CREATE INDEX keylime_agent_by_mb_policy ON keylime_agent (mb_policy, id);
