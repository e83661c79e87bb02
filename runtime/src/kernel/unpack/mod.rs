//! Unpacking of kernel images and modules, by what the bytes begin with.

mod lz4;
mod xz;

use std::io::{Cursor, Read};

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Not at all: an ELF file.
    Elf,
    /// gzip.
    Gzip,
    /// xz, with or without the x86 filter.
    Xz,
    /// LZMA alone.
    Lzma,
    /// Zstandard.
    Zstd,
    /// LZ4, legacy frames.
    Lz4,
    /// bzip2, which hull does not unpack.
    Bzip2,
    /// LZO, which hull does not unpack.
    Lzo,
}

impl Format {
    /// What these bytes are packed with, if it is known.
    pub fn of(bytes: &[u8]) -> Option<Format> {
        // In the order of the kernel's scripts/extract-vmlinux.
        const MAGIC: [(&[u8], Format); 8] = [
            (b"\x7fELF", Format::Elf),
            (b"\x1f\x8b\x08", Format::Gzip),
            (&xz::MAGIC, Format::Xz),
            (b"BZh", Format::Bzip2),
            (b"\x5d\0\0", Format::Lzma),
            (b"\x89LZO\0", Format::Lzo),
            (&lz4::MAGIC, Format::Lz4),
            (b"\x28\xb5\x2f\xfd", Format::Zstd),
        ];
        let found = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic));
        found.map(|(_, format)| *format)
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Elf => "ELF",
            Format::Gzip => "gzip",
            Format::Xz => "xz",
            Format::Lzma => "lzma",
            Format::Zstd => "zstd",
            Format::Lz4 => "lz4",
            Format::Bzip2 => "bzip2",
            Format::Lzo => "lzo",
        }
    }
}

/// Why something could not be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes begin with nothing known.
    #[error("neither an ELF file nor packed in a known way")]
    Unknown,
    /// Known and not supported.
    #[error("packed with {0}, which hull does not unpack (gzip, xz, lzma, zstd and lz4 it does)")]
    Unsupported(&'static str),
    /// It is damaged, or larger than it says.
    #[error("damaged {0} data")]
    Damaged(&'static str),
}

/// Unpacks to at most `limit` bytes.
pub fn unpack(bytes: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    let format = Format::of(bytes).ok_or(Error::Unknown)?;
    let damaged = Error::Damaged(format.name());
    match format {
        Format::Elf => Ok(bytes.to_vec()),
        Format::Gzip => read(flate2::bufread::GzDecoder::new(bytes), limit).ok_or(damaged),
        Format::Xz => xz::decode(bytes, limit).ok_or(damaged),
        Format::Lz4 => lz4::decode(bytes, limit).ok_or(damaged),
        Format::Zstd => unzstd(bytes, limit).ok_or(damaged),
        Format::Lzma => {
            let mut out = Cursor::new(Vec::new());
            lzma_rs::lzma_decompress(&mut &bytes[..], &mut out).map_err(|_| damaged)?;
            Some(out.into_inner()).filter(|out| out.len() <= limit).ok_or(damaged)
        }
        Format::Bzip2 | Format::Lzo => Err(Error::Unsupported(format.name())),
    }
}

fn read(from: impl Read, limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() <= limit).then_some(out)
}

/// Zstandard. Kernels are packed with a window of 128 MiB, more than the
/// decoder agrees to; but nothing can be further back than the beginning, so
/// a window as large as the content does as well.
fn unzstd(bytes: &[u8], limit: usize) -> Option<Vec<u8>> {
    /// The largest power of two the decoder takes.
    const WINDOW_LOG_MAX: u8 = 26;
    // RFC 8878, 3.1.1.1: a descriptor, of which bit 5 says that no window
    // descriptor follows; the upper five bits of that are the exponent - 10.
    let (&descriptor, &window) = (bytes.get(4)?, bytes.get(5)?);
    let exponent = (window >> 3) + 10;
    if descriptor & 0x20 != 0 || exponent <= WINDOW_LOG_MAX {
        return read(ruzstd::decoding::StreamingDecoder::new(bytes).ok()?, limit);
    }
    let smaller = [&bytes[..5], &[(WINDOW_LOG_MAX - 10) << 3]].concat();
    let patched = Cursor::new(smaller).chain(&bytes[6..]);
    let limit = limit.min(1 << WINDOW_LOG_MAX);
    read(ruzstd::decoding::StreamingDecoder::new(patched).ok()?, limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_cannot_be_unpacked_says_what_it_is() {
        assert_eq!(unpack(b"BZh91AY", 10), Err(Error::Unsupported("bzip2")));
        assert_eq!(unpack(b"nonsense", 10), Err(Error::Unknown));
        assert_eq!(unpack(b"", 10), Err(Error::Unknown));
        assert_eq!(unpack(b"\x28\xb5\x2f\xfd", 10), Err(Error::Damaged("zstd")));
        assert_eq!(unpack(b"\x5d\0\0", 10), Err(Error::Damaged("lzma")));
    }

    #[test]
    fn gzip_and_lzma_round_trip_within_the_limit() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"hello, hull").unwrap();
        let gz = gz.finish().unwrap();
        let mut lzma = Vec::new();
        lzma_rs::lzma_compress(&mut &b"hello, hull"[..], &mut lzma).unwrap();
        for packed in [gz, lzma] {
            assert_eq!(unpack(&packed, 11).unwrap(), b"hello, hull");
            assert!(unpack(&packed, 10).is_err());
            assert!(unpack(&packed[..packed.len() - 12], 11).is_err());
        }
    }
}
