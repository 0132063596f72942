-- What was decided about one of Keylime's agents beside its verdicts: whether it is polled (0), was
-- stopped by a tenant (1) or by a failure (2), since when what it says counts for that, and what was
-- told of it: the failure, how grave it was, and whether it was silent.
CREATE TABLE keylime_standing (
    shard           INTEGER NOT NULL,
    id              TEXT    NOT NULL,
    halted          INTEGER NOT NULL DEFAULT 0 CHECK (halted IN (0, 1, 2)),
    resumed_unix_ms INTEGER NOT NULL DEFAULT 0,
    failed_unix_ms  INTEGER,
    severity        INTEGER CHECK (severity BETWEEN 0 AND 255),
    event_id        TEXT,
    is_silent       INTEGER NOT NULL DEFAULT 0 CHECK (is_silent IN (0, 1)),
    PRIMARY KEY (shard, id),
    FOREIGN KEY (shard, id) REFERENCES keylime_agent (shard, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX keylime_standing_by_halted ON keylime_standing (halted) WHERE halted > 0;
