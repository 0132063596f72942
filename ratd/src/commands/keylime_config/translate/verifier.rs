//! What the verifier's options come to, and those of its polling.

use super::*;

impl Translation<'_> {
    pub(super) fn verifier(&mut self) {
        self.listen("keylime.verifier.listen", "verifier", "port");
        match self.text("verifier", "uuid") {
            "default" => self.remark("verifier", "uuid", Fate::Default, "as here"),
            "" => self.invalid("verifier", "uuid", "a name"),
            uuid => self.set("keylime.verifier.uuid", toml(uuid), "verifier", "uuid"),
        }
        match self.text("verifier", "mode") {
            "pull" => self.remark(
                "verifier",
                "mode",
                Fate::Default,
                "agents with an address are polled",
            ),
            "push" => self.set("keylime.verifier.mode", toml("push"), "verifier", "mode"),
            _ => self.invalid("verifier", "mode", "pull or push"),
        }
        // How soon something is noticed is what the operator chose, also by choosing nothing.
        let interval = self.text("verifier", "quote_interval");
        let key = "keylime.verifier.quote_interval_seconds";
        match seconds(interval, 86_400) {
            Some(seconds) => self.set(
                key,
                seconds.max(1).to_string(),
                "verifier",
                "quote_interval",
            ),
            None => self.invalid("verifier", "quote_interval", "seconds up to 86400"),
        }
        let key = (
            "challenge_lifetime",
            "keylime.verifier.challenge_lifetime_seconds",
        );
        self.seconds_key(key, 3_600, 1);
        let key = (
            "session_lifetime",
            "keylime.verifier.session_lifetime_seconds",
        );
        self.seconds_key(key, 86_400, 1);
        self.seconds_key(
            ("shutdown_drain_timeout", "drain.deadline_ms"),
            86_400,
            1_000,
        );
        let key = "keylime.verifier.auto_recover_attestation_failures";
        self.flag_key("auto_recover_attestation_failures", key);
        self.flag_key("ignore_tomtou_errors", "keylime.verifier.accept_violations");
        let key = "keylime.verifier.require_allow_list_signatures";
        self.flag_key("require_allow_list_signatures", key);
        self.severity();
        self.revocations();
        for (option, why) in [
            (
                "auto_recover_attestation_failures",
                "an agent that failed is trusted again by itself",
            ),
            (
                "ignore_tomtou_errors",
                "files that were open for writing when they were measured pass",
            ),
        ] {
            if flag(self.text("verifier", option)) == Some(true) {
                self.remark("verifier", option, Fate::Insecure, format!("taken: {why}"));
            }
        }
        self.measured_boot();
        self.names("verifier");
    }

    fn measured_boot(&mut self) {
        let key = "keylime.measured_boot_policy_name";
        let option = "measured_boot_policy_name";
        match self.text("verifier", option) {
            "accept-all" => self.remark("verifier", option, Fate::Default, "as here"),
            name @ ("reject-all" | "example") => self.set(key, toml(name), "verifier", option),
            // What nobody here can judge must not pass.
            _ => {
                self.set(key, toml("reject-all"), "verifier", option);
                let text = "a policy of one's own in Python is not loaded: reject-all stands in its \
                            place. A reference state with `example` may do what it did";
                self.remark("verifier", option, Fate::Insecure, text);
            }
        }
        let (key, option) = ("keylime.measured_boot_evaluate", "measured_boot_evaluate");
        match self.text("verifier", option) {
            "once" => {
                let text = "Keylime's default; here every boot log is judged (`always`)";
                self.remark("verifier", option, Fate::Default, text);
            }
            "always" => self.remark("verifier", option, Fate::Taken, "as here by default"),
            _ => {
                self.set(key, toml("always"), "verifier", option);
                self.invalid("verifier", option, "once or always");
            }
        }
    }

    pub(super) fn pull(&mut self) {
        let folder = self.folder("verifier");
        let text = format!(
            "`ratd keylime ca import {}` takes it over",
            folder.display()
        );
        self.remark("verifier", "tls_dir", Fate::Elsewhere, text);
        self.flag_key("exponential_backoff", "keylime.pull.exponential_backoff");
        self.seconds_key(
            ("retry_interval", "keylime.pull.retry_interval_seconds"),
            86_400,
            1,
        );
        match flag(self.text("verifier", "enable_agent_mtls")) {
            Some(true) => self.remark("verifier", "enable_agent_mtls", Fate::Default, "as here"),
            Some(false) => {
                let text = "not taken: agents without a certificate are not polled. \
                            keylime.pull.plain_http = true polls them, and anybody can answer for them";
                self.remark("verifier", "enable_agent_mtls", Fate::Insecure, text);
            }
            None => self.invalid("verifier", "enable_agent_mtls", "True or False"),
        }
        if self.text("verifier", "mode") == "push" {
            for option in ["client_key", "client_cert"] {
                self.remark(
                    "verifier",
                    option,
                    Fate::NoCounterpart,
                    "agents that push are not polled",
                );
            }
            return;
        }
        self.client(&folder);
    }

    /// What agents are shown that are polled.
    fn client(&mut self, folder: &Path) {
        let file = |option: &str, default: &str| match self.text("verifier", option) {
            "default" | "" => folder.join(default),
            file => folder.join(file),
        };
        let certificate = file("client_cert", "client-cert.crt");
        let key = file("client_key", "client-private.pem");
        let is_encrypted = !self.text("verifier", "client_key_password").is_empty();
        let are_there = certificate.is_file() && key.is_file();
        if !is_encrypted && are_there {
            let text = |path: &Path| toml(&path.display().to_string());
            let (certificate, key) = (text(&certificate), text(&key));
            self.set(
                "keylime.pull.certificate",
                certificate,
                "verifier",
                "client_cert",
            );
            self.set("keylime.pull.key", key, "verifier", "client_key");
            return;
        }
        let why = match is_encrypted {
            true => "is encrypted: name a copy that is not as keylime.pull.key",
            false => {
                "is not on this machine: name it as keylime.pull.certificate and keylime.pull.key"
            }
        };
        for (option, path) in [("client_cert", certificate), ("client_key", key)] {
            let text = format!("{} {why}; agents are shown none", path.display());
            self.remark("verifier", option, Fate::Elsewhere, text);
        }
    }
}
