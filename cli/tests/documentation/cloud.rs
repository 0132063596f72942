//! What cloud-init makes of user data: files, then commands, in order.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rat_tests::{python, workspace_root};
use serde::Deserialize;

/// The user data of this repository, as far as cloud-init reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserData {
    write_files: Vec<WriteFile>,
    runcmd: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    path: String,
    owner: String,
    permissions: String,
    content: String,
}

impl UserData {
    /// Reads a file of user data as cloud-init does: with PyYAML, and only when its first line says
    /// what it is.
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().next(), Some("#cloud-config"));
        let python = python::with_packages("tests/python/schemathesis.txt");
        let read =
            "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
        let output = Command::new(python.join("bin/python"))
            .args(["-c", read])
            .arg(path)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Writes the files, below `root`.
    pub(crate) fn write_files(&self, root: &Path) {
        for file in &self.write_files {
            assert_eq!(file.owner, "root:root");
            let path = root.join(file.path.strip_prefix('/').unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &file.content).unwrap();
            let mode = u32::from_str_radix(&file.permissions, 8).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// The commands as one script, which is what cloud-init makes of them. Paths of written files
    /// are below `root`, and a service's program takes the service's place.
    pub(crate) fn script(&self, root: &Path) -> String {
        let mut lines: Vec<String> = Vec::new();
        for words in &self.runcmd {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["systemctl", "enable", "--now", unit] => lines.push(program_of(unit)),
                words => lines.push(
                    words
                        .iter()
                        .map(|word| quoted(word))
                        .collect::<Vec<_>>()
                        .join(" "),
                ),
            }
        }
        let mut script = lines.join("\n");
        for file in &self.write_files {
            let folder = Path::new(&file.path).parent().unwrap();
            let here = root.join(folder.strip_prefix("/").unwrap());
            script = script.replace(folder.to_str().unwrap(), here.to_str().unwrap());
        }
        script
    }
}

/// What a unit of this repository starts, found by PATH.
fn program_of(unit: &str) -> String {
    let path = workspace_root().join("deploy/systemd").join(unit);
    let text = std::fs::read_to_string(&path).unwrap();
    let command = text
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
    command.unwrap().to_owned()
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[test]
fn commands_become_a_script_and_files_are_their_owners() {
    let text = "#cloud-config\nwrite_files:\n  - path: /run/x/token\n    owner: root:root\n    \
                permissions: \"0600\"\n    content: |\n      secret\nruncmd:\n  - [echo, it's, \
                /run/x/token]\n  - [systemctl, enable, --now, rat-agent.service]\n";
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("user-data");
    std::fs::write(&file, text).unwrap();
    let data = UserData::read(&file);
    data.write_files(root.path());
    let path = root.path().join("run/x/token");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "secret\n");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let expected = format!("'echo' 'it'\\''s' '{}'\nrat-agent run", path.display());
    assert_eq!(data.script(root.path()), expected);
}
