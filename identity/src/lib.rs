//! Who may attest: EK certificate chains, credential activation, ratd's CA, agent certificates.
