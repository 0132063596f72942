//! Archives and packages made member by member, for readers that should take or refuse them.

/// A member of a newc archive. Fields that a test does not name are those of an ordinary file.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name, without the NUL.
    pub name: Vec<u8>,
    /// Type and permissions.
    pub mode: u32,
    /// Its contents.
    pub contents: Vec<u8>,
    /// Its number, by which hard links are told.
    pub number: u32,
    /// How many names the file has.
    pub links: u32,
    /// Written with a sum of the contents, which is wrong by as much.
    pub sum_off_by: Option<u32>,
}

impl Member {
    /// A regular file.
    pub fn file(name: impl AsRef<[u8]>, contents: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            mode: 0o100_644,
            contents: contents.as_ref().to_vec(),
            number: 1,
            links: 1,
            sum_off_by: None,
        }
    }

    /// Something else: a folder, a device, a symbolic link.
    pub fn of_type(name: impl AsRef<[u8]>, mode: u32) -> Self {
        Self {
            mode,
            ..Self::file(name, b"")
        }
    }

    /// One of `links` names of the file with this number.
    #[must_use]
    pub fn linked(mut self, number: u32, links: u32) -> Self {
        (self.number, self.links) = (number, links);
        self
    }

    /// The member as it stands in an archive.
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.contents.len()).expect("short contents");
        let name_length = u32::try_from(self.name.len() + 1).expect("a short name");
        let (magic, sum) = match self.sum_off_by {
            None => ("070701", 0),
            Some(off_by) => {
                let sum: u32 = self.contents.iter().map(|byte| u32::from(*byte)).sum();
                ("070702", sum.wrapping_add(off_by))
            }
        };
        let fields = [
            self.number,
            self.mode,
            0,
            0,
            self.links,
            0,
            length,
            8,
            1,
            0,
            0,
            name_length,
            sum,
        ];
        let mut bytes = magic.as_bytes().to_vec();
        for field in fields {
            bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        bytes.extend_from_slice(&self.name);
        bytes.push(0);
        pad(&mut bytes, 4);
        bytes.extend_from_slice(&self.contents);
        pad(&mut bytes, 4);
        bytes
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

/// An archive of these members, with its trailer.
pub fn newc(members: &[Member]) -> Vec<u8> {
    let mut bytes: Vec<u8> = members.iter().flat_map(Member::to_bytes).collect();
    bytes.extend(Member::of_type("TRAILER!!!", 0).to_bytes());
    bytes
}

/// A tag of an RPM header: number, type, count and data.
pub type RpmTag = (u32, u32, u32, Vec<u8>);

/// Values of a tag of strings.
pub fn rpm_strings(tag: u32, values: &[&[u8]]) -> RpmTag {
    let count = u32::try_from(values.len()).expect("few strings");
    let data = values.iter().flat_map(|value| [*value, &[0]].concat());
    (tag, 8, count, data.collect())
}

/// Values of a tag of 32 bits.
pub fn rpm_numbers(tag: u32, values: &[u32]) -> RpmTag {
    let count = u32::try_from(values.len()).expect("few numbers");
    let data = values.iter().flat_map(|value| value.to_be_bytes());
    (tag, 4, count, data.collect())
}

/// Values of a tag of 16 bits.
pub fn rpm_short_numbers(tag: u32, values: &[u16]) -> RpmTag {
    let count = u32::try_from(values.len()).expect("few numbers");
    let data = values.iter().flat_map(|value| value.to_be_bytes());
    (tag, 3, count, data.collect())
}

/// The tags of files that all lie in `/usr/bin/`, of mode 0644, with SHA-256 digests.
pub fn rpm_files(files: &[(&[u8], &str)]) -> Vec<RpmTag> {
    let names: Vec<&[u8]> = files.iter().map(|(name, _)| *name).collect();
    let digests: Vec<&[u8]> = files.iter().map(|(_, digest)| digest.as_bytes()).collect();
    vec![
        rpm_short_numbers(1030, &vec![0o100_644; files.len()]),
        rpm_strings(1035, &digests),
        rpm_numbers(1116, &vec![0; files.len()]),
        rpm_strings(1117, &names),
        rpm_strings(1118, &[b"/usr/bin/"]),
        rpm_numbers(5011, &[8]),
    ]
}

/// One header of these tags.
pub fn rpm_header(tags: &[RpmTag]) -> Vec<u8> {
    let (mut index, mut data) = (Vec::new(), Vec::new());
    for (tag, kind, count, values) in tags {
        let at = u32::try_from(data.len()).expect("a short header");
        for field in [*tag, *kind, at, *count] {
            index.extend_from_slice(&field.to_be_bytes());
        }
        data.extend_from_slice(values);
    }
    let tags = u32::try_from(tags.len()).expect("few tags");
    let bytes = u32::try_from(data.len()).expect("a short header");
    let mut header = vec![0x8e, 0xad, 0xe8, 0x01, 0, 0, 0, 0];
    header.extend_from_slice(&tags.to_be_bytes());
    header.extend_from_slice(&bytes.to_be_bytes());
    [header, index, data].concat()
}

/// The front of a package: lead, an empty signature, and this header.
pub fn rpm(header: &[u8]) -> Vec<u8> {
    let mut package = vec![0xed, 0xab, 0xee, 0xdb];
    package.resize(96, 0);
    package.extend(rpm_header(&[]));
    pad(&mut package, 8);
    package.extend_from_slice(header);
    package
}
