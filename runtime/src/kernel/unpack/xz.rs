//! The .xz container (xz-file-format.txt 1.2) around LZMA2, with the x86
//! branch filter that kernel images are packed with.
//!
//! LZMA2 itself is `lzma-rs`'; that crate's own container reader knows no
//! branch filter and so no kernel.

use sha2::{Digest, Sha256};

/// Magic number of a stream.
pub const MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

const FILTER_LZMA2: u64 = 0x21;
const FILTER_X86: u64 = 0x04;

/// Decodes a stream; none if it is malformed, uses a filter other than LZMA2
/// and x86, fails its check, or decodes to more than `limit` bytes.
pub fn decode(stream: &[u8], limit: usize) -> Option<Vec<u8>> {
    let header: &[u8; 12] = stream.first_chunk()?;
    let [.., flags0, check, _, _, _, _] = header;
    if !header.starts_with(&MAGIC) || *flags0 != 0 || crc32(&header[6..8]) != le32(&header[8..])? {
        return None;
    }
    let check_len = match check {
        0 => 0,
        1 => 4,
        4 => 8,
        10 => 32,
        _ => return None,
    };
    let mut rest = stream.get(12..)?;
    let mut out = Vec::new();
    // Blocks, until the index, which begins with a zero.
    while *rest.first()? != 0 {
        let begin = out.len();
        let header_len = (usize::from(rest[0]) + 1) * 4;
        let header = rest.get(..header_len)?;
        let x86 = block_header(header)?;
        let body = rest.get(header_len..)?;
        let mut input = body;
        let mut sink = Limited { out: &mut out, limit };
        lzma_rs::lzma2_decompress(&mut input, &mut sink).ok()?;
        let used = body.len() - input.len();
        let block = out.get_mut(begin..)?;
        if x86 {
            unfilter_x86(block);
        }
        let after = body.get(used.next_multiple_of(4)..)?;
        let stored = after.get(..check_len)?;
        let good = match check {
            1 => crc32(block) == le32(stored)?,
            4 => crc64(block) == u64::from_le_bytes(*stored.first_chunk()?),
            10 => Sha256::digest(block)[..] == *stored,
            _ => true,
        };
        if !good {
            return None;
        }
        rest = &after[check_len..];
    }
    Some(out)
}

/// Checks a block's header; whether the x86 filter is used.
fn block_header(header: &[u8]) -> Option<bool> {
    let (fields, crc) = header.split_last_chunk::<4>()?;
    if crc32(fields) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut fields = fields.get(1..)?;
    let flags = take(&mut fields, 1)?[0];
    if flags & 0x3c != 0 {
        return None;
    }
    // Compressed and uncompressed size are optional, and not needed.
    for bit in [0x40, 0x80] {
        if flags & bit != 0 {
            number(&mut fields)?;
        }
    }
    let mut filters = Vec::new();
    for _ in 0..=flags & 3 {
        let id = number(&mut fields)?;
        let len = usize::try_from(number(&mut fields)?).ok()?;
        let properties = take(&mut fields, len)?;
        // An x86 filter may name a start offset, which nobody does.
        if id == FILTER_X86 && !properties.is_empty() {
            return None;
        }
        filters.push(id);
    }
    match filters.as_slice() {
        [FILTER_LZMA2] => Some(false),
        [FILTER_X86, FILTER_LZMA2] => Some(true),
        _ => None,
    }
}

fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = from.split_at_checked(n)?;
    *from = tail;
    Some(head)
}

/// A number of seven bits per byte, the lowest first.
fn number(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = take(from, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn le32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.first_chunk()?))
}

/// A buffer that grows to a limit and no further.
struct Limited<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
}

impl std::io::Write for Limited<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.out.len() + buf.len() > self.limit {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Undoes the x86 branch filter: the targets of CALL and JMP were made
/// absolute, which repeats more often than distances do, and become relative
/// again. The rules by which the encoder guessed what is an instruction have
/// to be followed exactly: the last three bytes that looked like an opcode
/// are remembered in `mask`.
fn unfilter_x86(buf: &mut [u8]) {
    /// How far into the operand a remembered opcode reaches.
    const REACH: [u32; 8] = [0, 1, 2, 2, 3, 3, 3, 3];
    const ALLOWED: [bool; 8] = [true, true, true, false, true, false, false, false];
    let sign_like = |b: u8| b == 0 || b == 0xff;

    let Some(end) = buf.len().checked_sub(4) else {
        return;
    };
    let mut mask: u32 = 0;
    let mut last: Option<usize> = None;
    let mut i = 0;
    while i < end {
        if buf[i] & 0xfe != 0xe8 {
            i += 1;
            continue;
        }
        // Before the first opcode the distance is one more than the position.
        let distance = last.map_or(i + 1, |last| i - last);
        last = Some(i);
        if distance > 3 {
            mask = 0;
        } else {
            mask = (mask << (distance - 1)) & 7;
            if mask != 0 {
                let b = buf[i + 4 - REACH[mask as usize] as usize];
                if !ALLOWED[mask as usize] || sign_like(b) {
                    mask = (mask << 1) | 1;
                    i += 1;
                    continue;
                }
            }
        }
        if !sign_like(buf[i + 4]) {
            mask = (mask << 1) | 1;
            i += 1;
            continue;
        }
        let operand = [buf[i + 1], buf[i + 2], buf[i + 3], buf[i + 4]];
        let mut source = u32::from_le_bytes(operand);
        let here = (i as u32).wrapping_add(5);
        let mut target;
        loop {
            target = source.wrapping_sub(here);
            if mask == 0 {
                break;
            }
            let bits = REACH[(mask & 7) as usize] * 8;
            if !sign_like((target >> (24 - bits)) as u8) {
                break;
            }
            source = target ^ (1u32 << (32 - bits)).wrapping_sub(1);
        }
        target &= 0x01ff_ffff;
        target |= 0u32.wrapping_sub(target & 0x0100_0000);
        buf[i + 1..i + 5].copy_from_slice(&target.to_le_bytes());
        i += 5;
    }
}

const CRC32: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut k = 0;
        while k < 8 {
            c = if c & 1 != 0 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 };
            k += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

const CRC64: [u64; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u64;
        let mut k = 0;
        while k < 8 {
            c = if c & 1 != 0 { (c >> 1) ^ 0xc96c_5795_d787_0f42 } else { c >> 1 };
            k += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |c, b| CRC32[usize::from(c as u8 ^ b)] ^ (c >> 8))
}

fn crc64(bytes: &[u8]) -> u64 {
    !bytes.iter().fold(!0, |c, b| CRC64[usize::from(c as u8 ^ b)] ^ (c >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filtered_call_becomes_relative_again() {
        // CALL at 3 with the absolute target 0x108: 0x108 - (3 + 5).
        let mut code = [0x90, 0x90, 0x90, 0xe8, 0x08, 0x01, 0, 0, 0x90, 0x90, 0x90, 0x90];
        unfilter_x86(&mut code);
        assert_eq!(code[3..8], [0xe8, 0x00, 0x01, 0, 0]);
        unfilter_x86(&mut [0xe8, 0, 0]);
    }

    #[test]
    fn known_checksums() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc64(b"123456789"), 0x995d_c9bb_df19_39fa);
    }

    #[test]
    fn a_stream_of_lzma_rs_is_read_and_a_damaged_one_is_not() {
        let mut packed = Vec::new();
        lzma_rs::xz_compress(&mut &b"hello, hull"[..], &mut packed).unwrap();
        assert_eq!(decode(&packed, 100).unwrap(), b"hello, hull");
        assert_eq!(decode(&packed, 5), None);
        for cut in 0..packed.len() - 20 {
            assert_eq!(decode(&packed[..cut], 100), None, "cut at {cut}");
        }
    }
}
