-- What operators need to act: which version was enforced when, and who waits to be let in.

-- Each change of a group's two slots; without a version the slot was emptied.
CREATE TABLE policy_activation (
    id         INTEGER PRIMARY KEY,
    slug       TEXT    NOT NULL,
    slot       TEXT    NOT NULL CHECK (slot IN ('enforced', 'shadow')),
    version    INTEGER,
    actor      TEXT    NOT NULL,
    at_unix_ms INTEGER NOT NULL,
    FOREIGN KEY (slug, version) REFERENCES policy_version (slug, version)
) STRICT;
CREATE INDEX policy_activation_by_group ON policy_activation (slug, slot, id);
CREATE INDEX policy_activation_by_version ON policy_activation (slug, version);

-- What is enforced or watched already, put there at a time that nobody noted.
INSERT INTO policy_activation (slug, slot, version, actor, at_unix_ms)
SELECT slug, 'enforced', enforced_version, '', 0 FROM policy_group
WHERE enforced_version IS NOT NULL;
INSERT INTO policy_activation (slug, slot, version, actor, at_unix_ms)
SELECT slug, 'shadow', shadow_version, '', 0 FROM policy_group
WHERE shadow_version IS NOT NULL;

CREATE INDEX policy_version_by_age ON policy_version (created_unix_ms, slug, version);

-- Machines whose enrolment was complete but for an operator's approval, and the ids that were asked
-- for in their name. (N12)
CREATE TABLE waiting (
    slug               TEXT    NOT NULL REFERENCES policy_group (slug),
    ek_sha256          BLOB    NOT NULL CHECK (length(ek_sha256) = 32),
    agent              TEXT    NOT NULL,
    hostname           TEXT    NOT NULL,
    ip                 TEXT    NOT NULL,
    first_seen_unix_ms INTEGER NOT NULL,
    last_seen_unix_ms  INTEGER NOT NULL,
    tries              INTEGER NOT NULL,
    PRIMARY KEY (slug, ek_sha256, agent)
) STRICT, WITHOUT ROWID;
CREATE INDEX waiting_by_agent ON waiting (agent);
CREATE INDEX waiting_by_age ON waiting (last_seen_unix_ms);

-- Lists of agents by what they are filtered by, in the order in which they are shown.
DROP INDEX agent_by_group;
CREATE INDEX agent_by_group ON agent (slug, id);
CREATE INDEX agent_by_hostname ON agent (hostname COLLATE NOCASE, id);
