-- What a group may demand otherwise than the server and the other groups: how often its agents are
-- challenged (without a number, as often as the server's), whether SHA-1 is accepted, and whether
-- signatures of files must be valid.
ALTER TABLE policy_group ADD COLUMN interval_ms INTEGER CHECK (interval_ms > 0);
ALTER TABLE policy_group ADD COLUMN allow_sha1 INTEGER NOT NULL DEFAULT 0
    CHECK (allow_sha1 IN (0, 1));
ALTER TABLE policy_group ADD COLUMN require_valid_ima_sig INTEGER NOT NULL DEFAULT 0
    CHECK (require_valid_ima_sig IN (0, 1));
