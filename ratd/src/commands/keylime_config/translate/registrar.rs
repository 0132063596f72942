//! What the registrar's options come to, and whom it trusts.

use super::*;

impl Translation<'_> {
    pub(super) fn registrar(&mut self) {
        self.listen("keylime.registrar.listen", "registrar", "port");
        self.listen("keylime.registrar.tls_listen", "registrar", "tls_port");
        let text = format!(
            "{}: the verifier's CA serves both here",
            self.folder("registrar").display()
        );
        self.remark("registrar", "tls_dir", Fate::Elsewhere, text);
        let key = "keylime.registrar.tpm_identity";
        match self.text("registrar", "tpm_identity") {
            "default" | "ek_cert_or_iak_idevid" => {
                self.remark("registrar", "tpm_identity", Fate::Default, "as here");
            }
            name @ ("ek_cert" | "iak_idevid") => {
                self.set(key, toml(name), "registrar", "tpm_identity");
            }
            _ => self.invalid(
                "registrar",
                "tpm_identity",
                "default, ek_cert or iak_idevid",
            ),
        }
        if !self.draft.lines.contains_key("identity.server_names") {
            self.names("registrar");
        } else {
            let option = "cert_subject_alternative_names";
            let text = "the names of verifier.cert_subject_alternative_names stand";
            self.remark("registrar", option, Fate::NoCounterpart, text);
        }
    }

    /// Who vouches for TPMs: what tenants ask for today, the registrar asks for here.
    pub(super) fn trust(&mut self, serves_registrar: bool) {
        let store = PathBuf::from(self.text("tenant", "tpm_cert_store"));
        let store = self.keylime_dir.join(store);
        let usable = match EkTrust::load(std::slice::from_ref(&store), &[]) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        if usable.is_ok() {
            let path = toml(&store.display().to_string());
            self.set(
                "identity.ek_ca",
                format!("[{path}]"),
                "tenant",
                "tpm_cert_store",
            );
        } else if let Err(error) = &usable {
            let text = format!("not taken: {}", shown(error));
            self.remark("tenant", "tpm_cert_store", Fate::Invalid, text);
        }
        let requires = flag(self.text("tenant", "require_ek_cert"));
        let key = "keylime.registrar.ek_check";
        if !serves_registrar {
            return self.remark(
                "tenant",
                "require_ek_cert",
                Fate::NoCounterpart,
                "no registrar here",
            );
        }
        match (requires, usable.is_ok()) {
            (Some(true) | None, true) => {
                self.remark(
                    "tenant",
                    "require_ek_cert",
                    Fate::Default,
                    "as here: ek_check = enforce",
                );
            }
            (Some(false), true) => {
                self.set(key, toml("warn"), "tenant", "require_ek_cert");
                let text = "taken: TPMs that nobody vouches for register, and the log says so";
                self.remark("tenant", "require_ek_cert", Fate::Insecure, text);
            }
            (_, false) => {
                // Else everybody would be refused, which the server does not start with.
                let origin = "no CA of TPMs was found: every TPM registers, and the log says so. Name \
                              CAs in identity.ek_ca, and take this line away";
                self.draft
                    .lines
                    .insert(key, (toml("warn"), origin.to_owned()));
                self.draft.remarks.push(Remark {
                    option: "tenant.require_ek_cert".to_owned(),
                    origin: store.display().to_string(),
                    fate: Fate::Insecure,
                    text: origin.to_owned(),
                });
            }
        }
    }
}
