//! The elements of `kernels`.

use serde::de::{MapAccess, SeqAccess};

use super::{Element, Reader};
use crate::hash::{Digest, HashAlg};
use crate::limits::MB_POLICY_KERNELS_MAX;
use crate::policy::PolicyError;
use crate::policy::exclude::Pattern;
use crate::policy::json::{Members, Object, Place, TextSeed};
use crate::uefi::policy::Kernel;

/// An element of `kernels`. Which of its images counts is known only after the last member of the
/// whole document.
#[derive(Debug, Default)]
pub(super) struct KernelMembers {
    digests: [Option<Digest>; KERNEL_DIGESTS.len()],
    command_line: Option<Pattern>,
}

const KERNEL_DIGESTS: [&str; 5] = [
    "shim_authcode_sha256",
    "grub_authcode_sha256",
    "initrd_plain_sha256",
    "kernel_authcode_sha256",
    "vmlinuz_plain_sha256",
];

impl KernelMembers {
    /// The kernel, when it has every member that it needs.
    pub(super) fn complete(self, has_secureboot: bool) -> Result<Kernel, PolicyError> {
        let [shim, grub, initrd, kernel, vmlinuz] = self.digests;
        let (image, image_member) = if has_secureboot {
            (kernel, "kernels[].kernel_authcode_sha256")
        } else {
            (vmlinuz, "kernels[].vmlinuz_plain_sha256")
        };
        let missing = |member| PolicyError::Missing { member };
        let command_line = self.command_line;
        Ok(Kernel {
            shim: shim.ok_or(missing("kernels[].shim_authcode_sha256"))?,
            grub: grub.ok_or(missing("kernels[].grub_authcode_sha256"))?,
            initrd: initrd.ok_or(missing("kernels[].initrd_plain_sha256"))?,
            image: image.ok_or(missing(image_member))?,
            command_line: command_line.ok_or(missing("kernels[].kernel_cmdline"))?,
        })
    }
}

impl Element for KernelMembers {
    const LIMIT: (&'static str, usize) = ("MB_POLICY_KERNELS_MAX", MB_POLICY_KERNELS_MAX);

    fn read<'de, A: SeqAccess<'de>>(
        reader: &mut Reader,
        array: &mut A,
    ) -> Result<Option<Self>, A::Error> {
        let kernel = Self::default();
        let mut members = KernelReader { reader, kernel };
        let read = array.next_element_seed(Object(&mut members))?;
        Ok(read.map(|()| members.kernel))
    }
}

struct KernelReader<'r> {
    reader: &'r mut Reader,
    kernel: KernelMembers,
}

impl Members for KernelReader<'_> {
    const EXPECTED: &'static str = "an object of a kernel's digests and kernel_cmdline";

    fn place(&mut self) -> &mut Place {
        &mut self.reader.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "kernel_cmdline" {
            let text = map.next_value_seed(TextSeed)?;
            self.kernel.command_line = Some(self.reader.command_line(&text)?);
            return Ok(());
        }
        let mut slots = self.kernel.digests.iter_mut().zip(KERNEL_DIGESTS);
        let Some((slot, _)) = slots.find(|(_, known)| *known == name) else {
            return self.reader.unknown(map);
        };
        *slot = Some(self.reader.digest(HashAlg::Sha256, map)?);
        Ok(())
    }
}
