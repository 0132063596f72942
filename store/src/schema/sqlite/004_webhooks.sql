-- What other systems are told of agents' statuses, and how far that is.

-- The status that each agent had when it was noted last: what was told, or needed not be.
CREATE TABLE noted_status (
    shard         INTEGER NOT NULL,
    agent         TEXT    NOT NULL,
    status        TEXT    NOT NULL,
    noted_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (shard, agent),
    FOREIGN KEY (shard, agent) REFERENCES agent (shard, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Messages that a webhook has not taken yet. Those about one subject go out one after the other, in
-- the order of their ids: only the first of them is due, the others wait for it.
CREATE TABLE webhook_message (
    id             INTEGER PRIMARY KEY,
    webhook        TEXT    NOT NULL,
    subject        TEXT    NOT NULL,
    message        TEXT    NOT NULL,
    body           TEXT    NOT NULL,
    queued_unix_ms INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    due_unix_ms    INTEGER
) STRICT;
CREATE INDEX webhook_message_by_due ON webhook_message (webhook, due_unix_ms, id)
WHERE due_unix_ms IS NOT NULL;
CREATE INDEX webhook_message_by_subject ON webhook_message (webhook, subject, id);
CREATE INDEX webhook_message_by_age ON webhook_message (webhook, id);

-- Messages that were given up.
CREATE TABLE dead_letter (
    id               INTEGER PRIMARY KEY,
    webhook          TEXT    NOT NULL,
    subject          TEXT    NOT NULL,
    message          TEXT    NOT NULL,
    body             TEXT    NOT NULL,
    queued_unix_ms   INTEGER NOT NULL,
    given_up_unix_ms INTEGER NOT NULL,
    attempts         INTEGER NOT NULL,
    error            TEXT    NOT NULL
) STRICT;
CREATE INDEX dead_letter_by_webhook ON dead_letter (webhook, id);

-- How deliveries to a webhook went; `dead_letters` counts also those that are not kept any more.
CREATE TABLE webhook_standing (
    webhook           TEXT    NOT NULL PRIMARY KEY,
    delivered_unix_ms INTEGER,
    failed_unix_ms    INTEGER,
    error             TEXT,
    dead_letters      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
