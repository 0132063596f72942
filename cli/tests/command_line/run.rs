//! Runs the built `rat` on evidence that it finds in files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rat_engine::pcr::PcrValues;
use rat_tests::evidence::Submission;
use rat_tests::vectors;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `rat`.
pub(crate) fn rat<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_rat"))
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("NO_COLOR")
        .output()
        .unwrap();
    Run::of(output)
}

impl Run {
    /// What a program left that has ended by itself.
    pub(crate) fn of(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The verdict and the codes of a run with `--output json`, after checking the exit code.
    #[track_caller]
    pub(crate) fn verdict(&self) -> (String, Vec<String>) {
        let json = self.json();
        let verdict = json["verdict"].as_str().unwrap().to_owned();
        let expected = i32::from(verdict == "untrusted");
        assert_eq!(self.code, expected, "{self:?}");
        let codes = json["codes"].as_array().unwrap().iter();
        let codes = codes.map(|code| code["code"].as_str().unwrap().to_owned());
        (verdict, codes.collect())
    }

    /// Panics unless nothing was judged, for a reason that names all of these.
    #[track_caller]
    pub(crate) fn is_unusable(&self, named: &[&str]) {
        assert_eq!(self.code, 2, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for name in named {
            assert!(self.stderr.contains(name), "{name}: {self:?}");
        }
    }
}

/// The options of a verification, and a folder for its files.
pub(crate) struct Verify {
    folder: TempDir,
    options: Vec<(String, String)>,
}

impl Verify {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            options: Vec::new(),
        }
    }

    /// The evidence of a machine in software, with its key as TPMT_PUBLIC.
    pub(crate) fn of(submission: &Submission, nonce: &[u8]) -> Self {
        let mut verify = Self::new()
            .with_file("--ak", &submission.ak.public())
            .with_file("--quote", &submission.quote)
            .with_file("--signature", &submission.signature)
            .with_file(
                "--pcrs",
                pcr_json(&submission.values).to_string().as_bytes(),
            )
            .with("--nonce", &hex::encode(nonce));
        if let Some(log) = &submission.log {
            verify = verify.with_file("--ima-log", log);
        }
        verify
    }

    /// A recorded set, with one of its tampered files in place of the genuine one.
    pub(crate) fn set(name: &str, tampered: Option<&str>) -> Self {
        let folder = format!("sets/{name}");
        let mut quote = vectors::json(&format!("{folder}/quote.json"));
        let mut verify = Self::new().with_path("--ak", &vectors::path(&format!("{folder}/ak.pem")));
        for (option, file) in [
            ("--ima-log", "ima_log.ascii"),
            ("--boot-log", "boot_log.bin"),
        ] {
            let path = vectors::path(&format!("{folder}/{file}"));
            if path.exists() {
                verify = verify.with_path(option, &path);
            }
        }
        if let Some(file) = tampered {
            let file = format!("{folder}/tampered/{file}");
            match file.rsplit('.').next().unwrap() {
                "json" => quote = vectors::json(&file),
                "ima" => verify = verify.with_path("--ima-log", &vectors::path(&file)),
                "boot" => verify = verify.with_path("--boot-log", &vectors::path(&file)),
                other => panic!("what is {other}?"),
            }
        }
        let bytes = |member: &str| hex::decode(quote[member].as_str().unwrap()).unwrap();
        verify
            .with_file("--quote", &bytes("message_hex"))
            .with_file("--signature", &bytes("signature_tpmt_hex"))
            .with_file("--pcrs", quote["pcrs"].to_string().as_bytes())
            .with("--nonce", quote["nonce_hex"].as_str().unwrap())
    }

    /// Sets an option, once.
    pub(crate) fn with(mut self, option: &str, value: &str) -> Self {
        self.options.retain(|(set, _)| set != option);
        self.options.push((option.to_owned(), value.to_owned()));
        self
    }

    /// Sets an option to an existing file.
    pub(crate) fn with_path(self, option: &str, path: &Path) -> Self {
        self.with(option, path.to_str().unwrap())
    }

    /// Sets an option to a new file with this content.
    pub(crate) fn with_file(self, option: &str, content: &[u8]) -> Self {
        let path = self.path(option.trim_start_matches('-'));
        std::fs::write(&path, content).unwrap();
        self.with_path(option, &path)
    }

    /// Sets an option that takes no value.
    pub(crate) fn with_flag(self, flag: &str) -> Self {
        self.with(flag, "")
    }

    /// A path in the folder of this verification.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The whole command line.
    pub(crate) fn arguments(&self) -> Vec<&str> {
        let mut arguments = vec!["verify"];
        for (option, value) in &self.options {
            arguments.push(option);
            if !value.is_empty() || option == "--nonce" {
                arguments.push(value);
            }
        }
        arguments
    }

    /// Runs it, for people.
    pub(crate) fn table(&self) -> Run {
        rat(&self.arguments())
    }

    /// Runs it, for programs.
    pub(crate) fn json(&self) -> Run {
        let mut arguments = self.arguments();
        arguments.extend(["--output", "json"]);
        rat(&arguments)
    }
}

/// PCR values as JSON.
pub(crate) fn pcr_json(values: &PcrValues) -> Value {
    let mut banks = json!({});
    for (bank, pcr, value) in values.iter() {
        banks[bank.name()][pcr.to_string()] = json!(value.to_hex());
    }
    banks
}

/// PCR values of one bank, as tpm2_quote writes them.
pub(crate) fn pcr_blob(values: &PcrValues) -> Vec<u8> {
    let bank = values.banks().next().unwrap();
    let select = values.pcrs(bank).bits().to_le_bytes();
    let mut blob = 1_u32.to_le_bytes().to_vec();
    blob.extend(bank.tpm_id().to_le_bytes());
    blob.extend([3, select[0], select[1], select[2], 0, 0]);
    blob.resize(4 + 16 * 8, 0);
    let digests: Vec<_> = values.iter().collect();
    blob.extend(
        u32::try_from(digests.len().div_ceil(8))
            .unwrap()
            .to_le_bytes(),
    );
    for list in digests.chunks(8) {
        blob.extend(u32::try_from(list.len()).unwrap().to_le_bytes());
        for place in 0..8 {
            let digest = list
                .get(place)
                .map_or(&[][..], |(_, _, value)| value.as_bytes());
            blob.extend(u16::try_from(digest.len()).unwrap().to_le_bytes());
            let mut buffer = digest.to_vec();
            buffer.resize(64, 0);
            blob.extend(buffer);
        }
    }
    blob
}
