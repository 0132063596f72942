-- The whole schema of design section 6. Blobs named `packed` begin with a version byte.

-- Which program and which data this is.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Partitions of the fleet: owner, fencing epoch, and the head of the chain of ticks.
-- `kept_seq` and `kept_head` are where the kept history begins: retention moves them.
CREATE TABLE shard (
    id                  INTEGER NOT NULL PRIMARY KEY CHECK (id BETWEEN 0 AND 1023),
    owner               TEXT    NOT NULL,
    epoch               INTEGER NOT NULL,
    lease_until_unix_ms INTEGER NOT NULL,
    seq                 INTEGER NOT NULL,
    head                BLOB    NOT NULL CHECK (length(head) = 32),
    kept_seq            INTEGER NOT NULL,
    kept_head           BLOB    NOT NULL CHECK (length(kept_head) = 32)
) STRICT;

WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < 1023)
INSERT INTO shard SELECT n, '', 0, 0, 0, zeroblob(32), 0, zeroblob(32) FROM number;

-- Committed outcomes that the folder has not moved yet: one row for each tick of a shard.
CREATE TABLE tick (
    shard  INTEGER NOT NULL REFERENCES shard (id),
    seq    INTEGER NOT NULL,
    epoch  INTEGER NOT NULL,
    before BLOB    NOT NULL CHECK (length(before) = 32),
    after  BLOB    NOT NULL CHECK (length(after) = 32),
    packed BLOB    NOT NULL,
    PRIMARY KEY (shard, seq)
) STRICT;

-- Ticks that could not be read when they were to be folded, as they were.
CREATE TABLE unreadable_tick (
    shard  INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    epoch  INTEGER NOT NULL,
    before BLOB    NOT NULL,
    after  BLOB    NOT NULL,
    packed BLOB    NOT NULL,
    PRIMARY KEY (shard, seq)
) STRICT;

-- What the hash chain was made of: one row for the ticks of one shard that were folded together.
CREATE TABLE history (
    shard           INTEGER NOT NULL,
    from_seq        INTEGER NOT NULL,
    to_seq          INTEGER NOT NULL,
    newest_unix_ms  INTEGER NOT NULL,
    before          BLOB    NOT NULL CHECK (length(before) = 32),
    after           BLOB    NOT NULL CHECK (length(after) = 32),
    packed          BLOB    NOT NULL,
    PRIMARY KEY (shard, from_seq)
) STRICT;
CREATE INDEX history_by_age ON history (newest_unix_ms);

-- Policies.
CREATE TABLE policy_blob (
    digest     BLOB    NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    text_bytes INTEGER NOT NULL,
    packed     BLOB    NOT NULL
) STRICT;
CREATE TRIGGER policy_blob_is_immutable BEFORE UPDATE ON policy_blob
BEGIN SELECT RAISE(ABORT, 'a policy never changes'); END;

CREATE TABLE policy_group (
    slug              TEXT    NOT NULL PRIMARY KEY,
    hex_id            TEXT    NOT NULL UNIQUE,
    name              TEXT    NOT NULL,
    protected         INTEGER NOT NULL CHECK (protected IN (0, 1)),
    bypass            INTEGER NOT NULL CHECK (bypass IN (0, 1)),
    block             INTEGER NOT NULL CHECK (block IN (0, 1)),
    bank              TEXT    NOT NULL,
    require_boot_log  INTEGER NOT NULL CHECK (require_boot_log IN (0, 1)),
    accept_violations INTEGER NOT NULL CHECK (accept_violations IN (0, 1)),
    auto_recover      INTEGER NOT NULL CHECK (auto_recover IN (0, 1)),
    approval          TEXT    NOT NULL,
    pcr_policy        TEXT,
    enforced_version  INTEGER,
    shadow_version    INTEGER,
    created_unix_ms   INTEGER NOT NULL,
    row_version       INTEGER NOT NULL,
    FOREIGN KEY (slug, enforced_version) REFERENCES policy_version (slug, version),
    FOREIGN KEY (slug, shadow_version) REFERENCES policy_version (slug, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE policy_version (
    slug            TEXT    NOT NULL REFERENCES policy_group (slug),
    version         INTEGER NOT NULL CHECK (version > 0),
    digest          BLOB    NOT NULL REFERENCES policy_blob (digest),
    name            TEXT    NOT NULL,
    origin          TEXT    NOT NULL,
    created_by      TEXT    NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (slug, version)
) STRICT, WITHOUT ROWID;
CREATE INDEX policy_version_by_digest ON policy_version (digest);

-- Agents: what enrolment bound, and beside it what attestation showed. `seq` of a state is the
-- tick that it came from; `suspect_seq` is a newer tick that could not be read.
CREATE TABLE agent (
    shard              INTEGER NOT NULL REFERENCES shard (id),
    id                 TEXT    NOT NULL,
    slug               TEXT    NOT NULL REFERENCES policy_group (slug),
    path               TEXT    NOT NULL,
    ek_sha256          BLOB    NOT NULL UNIQUE CHECK (length(ek_sha256) = 32),
    ak_epoch           INTEGER NOT NULL,
    hostname           TEXT    NOT NULL,
    ip                 TEXT    NOT NULL,
    contact            TEXT,
    mtls_certificate   BLOB,
    registered_unix_ms INTEGER NOT NULL,
    packed             BLOB    NOT NULL,
    PRIMARY KEY (shard, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX agent_by_id ON agent (id);
CREATE INDEX agent_by_group ON agent (slug);

CREATE TABLE agent_state (
    shard       INTEGER NOT NULL,
    agent       TEXT    NOT NULL,
    seq         INTEGER NOT NULL,
    suspect_seq INTEGER NOT NULL DEFAULT 0,
    packed      BLOB    NOT NULL,
    PRIMARY KEY (shard, agent),
    FOREIGN KEY (shard, agent) REFERENCES agent (shard, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- A key that an enrolled agent wants to change to, until an operator approves it.
CREATE TABLE ak_candidate (
    shard      INTEGER NOT NULL,
    agent      TEXT    NOT NULL,
    at_unix_ms INTEGER NOT NULL,
    packed     BLOB    NOT NULL,
    PRIMARY KEY (shard, agent),
    FOREIGN KEY (shard, agent) REFERENCES agent (shard, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Failures of machines whose agent was removed: they fail again when they come back, and they
-- come back to the group that they failed in. (S16)
CREATE TABLE ek_failure (
    ek_sha256  BLOB    NOT NULL PRIMARY KEY CHECK (length(ek_sha256) = 32),
    slug       TEXT    NOT NULL,
    agent      TEXT    NOT NULL,
    at_unix_ms INTEGER NOT NULL,
    packed     BLOB    NOT NULL
) STRICT;

-- Agents that were removed, so that a verdict committed after that still finds the machine.
CREATE TABLE removed_agent (
    shard           INTEGER NOT NULL,
    id              TEXT    NOT NULL,
    ek_sha256       BLOB    NOT NULL,
    slug            TEXT    NOT NULL,
    removed_unix_ms INTEGER NOT NULL,
    removed_seq     INTEGER NOT NULL,
    PRIMARY KEY (shard, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_agent_by_age ON removed_agent (removed_unix_ms);

-- Enrolment. Of a token only its hash is kept.
CREATE TABLE token (
    id              TEXT    NOT NULL PRIMARY KEY,
    sha256          BLOB    NOT NULL CHECK (length(sha256) = 32),
    kind            TEXT    NOT NULL,
    slug            TEXT    NOT NULL REFERENCES policy_group (slug),
    uses            INTEGER NOT NULL CHECK (max_uses IS NULL OR uses <= max_uses),
    max_uses        INTEGER,
    created_by      TEXT    NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    expires_unix_ms INTEGER,
    revoked_unix_ms INTEGER
) STRICT, WITHOUT ROWID;

-- Machines that an operator let into a group one by one. (N12)
CREATE TABLE approved_ek (
    slug             TEXT    NOT NULL REFERENCES policy_group (slug),
    ek_sha256        BLOB    NOT NULL CHECK (length(ek_sha256) = 32),
    approved_by      TEXT    NOT NULL,
    approved_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (slug, ek_sha256)
) STRICT, WITHOUT ROWID;

CREATE TABLE pending (
    id              TEXT    NOT NULL PRIMARY KEY,
    agent           TEXT    NOT NULL,
    tries           INTEGER NOT NULL,
    expires_unix_ms INTEGER NOT NULL,
    packed          BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX pending_by_expiry ON pending (expires_unix_ms);

-- Measurement lists: chunks by content, shared by the fleet; a list of them, and the bytes after
-- the last chunk, for each list that an agent began.
CREATE TABLE chunk (
    digest    BLOB    NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    raw_bytes INTEGER NOT NULL,
    packed    BLOB    NOT NULL
) STRICT;

CREATE TABLE log (
    id             INTEGER PRIMARY KEY,
    shard          INTEGER NOT NULL,
    agent          TEXT    NOT NULL,
    is_newest      INTEGER NOT NULL CHECK (is_newest IN (0, 1)),
    needs_trim     INTEGER NOT NULL CHECK (needs_trim IN (0, 1)),
    format         TEXT    NOT NULL,
    reset_count    INTEGER,
    restart_count  INTEGER,
    began_unix_ms  INTEGER NOT NULL,
    to_entry       INTEGER NOT NULL,
    raw_bytes      INTEGER NOT NULL,
    chunked_bytes  INTEGER NOT NULL,
    gap_at_entry   INTEGER
) STRICT;
CREATE UNIQUE INDEX log_newest ON log (shard, agent) WHERE is_newest = 1;
CREATE INDEX log_by_agent ON log (shard, agent);
CREATE INDEX log_to_trim ON log (id) WHERE is_newest = 0 AND needs_trim = 1;

CREATE TABLE log_chunk (
    log    INTEGER NOT NULL REFERENCES log (id),
    start  INTEGER NOT NULL,
    digest BLOB    NOT NULL REFERENCES chunk (digest),
    PRIMARY KEY (log, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX log_chunk_by_digest ON log_chunk (digest);

CREATE TABLE log_tail (
    log       INTEGER NOT NULL REFERENCES log (id),
    start     INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    packed    BLOB    NOT NULL,
    PRIMARY KEY (log, start)
) STRICT, WITHOUT ROWID;

-- Pieces of a list that is being judged, and how many bytes of them each agent has. Under the
-- empty name, which no agent has, are all of them together.
CREATE TABLE staged (
    upload     BLOB    NOT NULL CHECK (length(upload) = 16),
    piece      INTEGER NOT NULL,
    agent      TEXT    NOT NULL CHECK (agent <> ''),
    raw_bytes  INTEGER NOT NULL,
    digest     BLOB    NOT NULL REFERENCES chunk (digest),
    at_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (upload, piece)
) STRICT, WITHOUT ROWID;
CREATE INDEX staged_by_digest ON staged (digest);
CREATE INDEX staged_by_age ON staged (at_unix_ms);
CREATE TABLE staged_use (
    agent     TEXT    NOT NULL PRIMARY KEY,
    raw_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER staged_enters AFTER INSERT ON staged BEGIN
    INSERT OR IGNORE INTO staged_use VALUES ('', 0), (NEW.agent, 0);
    UPDATE staged_use SET raw_bytes = raw_bytes + NEW.raw_bytes WHERE agent IN ('', NEW.agent);
END;

-- Chunks that lost a reference: the only ones that garbage collection looks at.
CREATE TABLE orphan (
    digest BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TRIGGER log_chunk_leaves AFTER DELETE ON log_chunk
BEGIN INSERT OR IGNORE INTO orphan VALUES (OLD.digest); END;
CREATE TRIGGER staged_leaves AFTER DELETE ON staged BEGIN
    INSERT OR IGNORE INTO orphan VALUES (OLD.digest);
    UPDATE staged_use SET raw_bytes = raw_bytes - OLD.raw_bytes WHERE agent IN ('', OLD.agent);
    DELETE FROM staged_use WHERE agent IN ('', OLD.agent) AND raw_bytes <= 0;
END;

-- Evidence kept whole. `log_bytes` is how much of the log it needs; as long as that log is its
-- agent's newest, `is_of_newest` keeps the evidence from ageing.
CREATE TABLE evidence (
    id            INTEGER PRIMARY KEY,
    shard         INTEGER NOT NULL,
    agent         TEXT    NOT NULL,
    seq           INTEGER NOT NULL,
    reason        TEXT    NOT NULL,
    at_unix_ms    INTEGER NOT NULL,
    log           INTEGER REFERENCES log (id),
    log_bytes     INTEGER NOT NULL,
    is_of_newest  INTEGER NOT NULL CHECK (is_of_newest IN (0, 1)),
    packed        BLOB    NOT NULL
) STRICT;
CREATE INDEX evidence_by_agent ON evidence (shard, agent, id);
CREATE INDEX evidence_by_reason ON evidence (shard, agent, reason, id);
CREATE INDEX evidence_by_log ON evidence (log);
CREATE INDEX evidence_by_age ON evidence (at_unix_ms) WHERE is_of_newest = 0;
CREATE TRIGGER log_is_superseded AFTER UPDATE OF is_newest ON log WHEN NEW.is_newest = 0
BEGIN UPDATE evidence SET is_of_newest = 0 WHERE log = NEW.id; END;

-- What people and programs changed: append-only, chained.
CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY,
    at_unix_ms INTEGER NOT NULL,
    actor      TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    head       BLOB    NOT NULL CHECK (length(head) = 32)
) STRICT;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_keeps_all BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
