//! What a kernel file is: an ELF image, or a bzImage with one packed inside
//! (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").

use super::unpack;

/// The largest unpacked kernel that is believed.
const LIMIT: usize = 1 << 30;

/// What a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Image<'a> {
    /// An uncompressed x86-64 kernel.
    Vmlinux,
    /// A bzImage.
    Bzimage {
        /// `uname -r` of it, empty if it does not say.
        release: String,
        /// The packed ELF image.
        payload: &'a [u8],
    },
}

/// Why a file is no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither form.
    #[error("neither a vmlinux (ELF) nor a vmlinuz (bzImage)")]
    Neither,
    /// ELF, but not for this.
    #[error("an ELF file, but not a 64-bit x86 executable")]
    NotX86,
    /// A bzImage without the fields that say where the kernel is.
    #[error("a bzImage of boot protocol {0}.{1}; 2.08 is the oldest that says where the kernel is")]
    TooOld(u8, u8),
    /// The header points outside of the file.
    #[error("a bzImage that is cut short")]
    Short,
    /// Unpacking failed.
    #[error("a bzImage whose kernel is {0}")]
    Payload(unpack::Error),
    /// What came out is not an ELF image.
    #[error("a bzImage whose kernel is not an ELF image")]
    NoElf,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Whether this is an x86-64 ELF executable (or a relocatable kernel, which
/// says it is a shared object).
fn is_x86_elf(bytes: &[u8]) -> bool {
    const CLASS_64: u8 = 2;
    const LITTLE: u8 = 1;
    const X86_64: u16 = 62;
    bytes.get(4..6) == Some(&[CLASS_64, LITTLE])
        && matches!(u16_at(bytes, 16), Some(2 | 3))
        && u16_at(bytes, 18) == Some(X86_64)
}

/// Looks at a kernel file.
pub fn look(bytes: &[u8]) -> Result<Image<'_>, Error> {
    if bytes.starts_with(b"\x7fELF") {
        return if is_x86_elf(bytes) { Ok(Image::Vmlinux) } else { Err(Error::NotX86) };
    }
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        return Err(Error::Neither);
    }
    let version = u16_at(bytes, 0x206).ok_or(Error::Short)?;
    if version < 0x208 {
        return Err(Error::TooOld((version >> 8) as u8, version as u8));
    }
    // "If the setup_sects field contains 0, the real value is 4."
    let setup = match bytes[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let offset = u32_at(bytes, 0x248).ok_or(Error::Short)? as usize;
    let length = u32_at(bytes, 0x24c).ok_or(Error::Short)? as usize;
    let begin = (setup + 1) * 512 + offset;
    let payload = bytes.get(begin..begin + length).ok_or(Error::Short)?;
    Ok(Image::Bzimage { release: release(bytes).unwrap_or_default(), payload })
}

/// The first word of the version string the header points to.
fn release(bytes: &[u8]) -> Option<String> {
    let at = match u16_at(bytes, 0x20e)? {
        0 => return None,
        at => usize::from(at) + 0x200,
    };
    let text = bytes.get(at..)?;
    let end = text.iter().take(128).position(|b| *b == 0 || *b == b' ')?;
    let word = std::str::from_utf8(&text[..end]).ok()?;
    // It becomes part of a path.
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-_~".contains(c);
    (word.chars().all(plain) && !word.starts_with('.') && !word.is_empty()).then(|| word.to_owned())
}

/// Unpacks a bzImage's payload to the ELF image.
pub fn unpack_payload(payload: &[u8]) -> Result<Vec<u8>, Error> {
    let format = unpack::Format::of(payload);
    // The build puts the unpacked size behind everything but gzip (which ends
    // with it by itself).
    let (packed, size) = match payload.split_last_chunk::<4>() {
        Some((packed, size)) => (packed, u32::from_le_bytes(*size) as usize),
        None => return Err(Error::Short),
    };
    let packed = match format {
        Some(unpack::Format::Gzip | unpack::Format::Elf) => payload,
        _ => packed,
    };
    let limit = match format {
        Some(unpack::Format::Elf) => LIMIT,
        _ => size.min(LIMIT),
    };
    let image = unpack::unpack(packed, limit).map_err(Error::Payload)?;
    if !image.starts_with(b"\x7fELF") {
        return Err(Error::NoElf);
    }
    if !is_x86_elf(&image) {
        return Err(Error::NotX86);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf() -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[16] = 2;
        elf[18] = 62;
        elf
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"6.1.0-9 (x) #1\0\0");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image
    }

    #[test]
    fn a_kernel_is_told_from_what_is_none() {
        assert_eq!(look(&elf()), Ok(Image::Vmlinux));
        assert_eq!(look(b""), Err(Error::Neither));
        assert_eq!(look(b"#!/bin/sh\n"), Err(Error::Neither));
        let mut arm = elf();
        arm[18] = 183;
        assert_eq!(look(&arm), Err(Error::NotX86));
        assert_eq!(look(&elf()[..10]), Err(Error::NotX86));
        let mut old = bzimage(b"");
        old[0x206] = 7;
        assert_eq!(look(&old), Err(Error::TooOld(2, 7)));
    }

    #[test]
    fn the_payload_is_found_and_unpacked() {
        let image = bzimage(&elf());
        let Ok(Image::Bzimage { release, payload }) = look(&image) else {
            panic!("not seen as a bzImage")
        };
        assert_eq!(release, "6.1.0-9");
        assert_eq!(unpack_payload(payload), Ok(elf()));
        assert_eq!(look(&image[..image.len() - 1]), Err(Error::Short));
        let Ok(Image::Bzimage { payload, .. }) = look(&image) else {
            panic!("not seen as a bzImage")
        };
        assert_eq!(unpack_payload(&payload[..3]), Err(Error::Short));
    }

    #[test]
    fn what_is_packed_otherwise_is_named() {
        let image = bzimage(b"BZh91AY&SY....");
        let Ok(Image::Bzimage { payload, .. }) = look(&image) else {
            panic!("not seen as a bzImage")
        };
        let error = unpack_payload(payload).unwrap_err();
        assert!(error.to_string().contains("bzip2"), "{error}");
    }
}
