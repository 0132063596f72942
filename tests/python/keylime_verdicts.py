"""Keylime's own verdicts about evidence: `data` of POST verify/evidence, one JSON object a line.

Runs under the Python of `scripts/keylime`; its configuration is in the environment. Writes a list
of event ids for each line: an empty one is evidence that Keylime believes.
"""

import json
import sys

from keylime import cloud_verifier_common
from keylime.ima import ima
from keylime.mba import mba

# As the verifier does when it starts.
mba.load_imports()

for line in sys.stdin:
    data = json.loads(line)
    failure = cloud_verifier_common.process_verify_attestation(
        data["tpm_ek"],
        data["tpm_ak"],
        data["quote"],
        data["nonce"],
        data["hash_alg"],
        data.get("tpm_policy", "{}"),
        ima.deserialize_runtime_policy(data.get("runtime_policy", "")),
        data.get("mb_policy", ""),
        data.get("ima_measurement_list", ""),
        data.get("mb_log", ""),
    )
    print("verdict " + json.dumps(failure.get_event_ids() if failure else []), flush=True)
