//! LZ4 in its "legacy frame" form, the only one the kernel's build uses
//! (lz4_Frame_format.md, "Legacy frame", and lz4_Block_format.md).

/// Magic number of a legacy frame.
pub const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Blocks of a legacy frame decode to at most this.
const BLOCK_MAX: usize = 8 << 20;

/// Decodes a whole legacy frame; none if it is malformed or decodes to more
/// than `limit` bytes.
pub fn decode(frame: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut rest = frame.strip_prefix(&MAGIC)?;
    let mut out = Vec::with_capacity(limit.min(256 << 20));
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        // Frames may be put one after the other.
        if *head == MAGIC {
            rest = tail;
            continue;
        }
        let len = u32::from_le_bytes(*head) as usize;
        let block = tail.get(..len)?;
        decode_block(block, &mut out, limit)?;
        rest = &tail[len..];
    }
    Some(out)
}

/// Decodes one block onto the end of `out`. Matches reach no further back
/// than the block's own beginning.
fn decode_block(mut block: &[u8], out: &mut Vec<u8>, limit: usize) -> Option<()> {
    let begin = out.len();
    let end = limit.min(begin + BLOCK_MAX);
    loop {
        let (&token, rest) = block.split_first()?;
        block = rest;
        let literals = length(usize::from(token >> 4), &mut block)?;
        let bytes = block.get(..literals)?;
        if out.len() + literals > end {
            return None;
        }
        out.extend_from_slice(bytes);
        block = &block[literals..];
        // The last sequence has no match.
        if block.is_empty() {
            return Some(());
        }
        let (offset, rest) = block.split_first_chunk::<2>()?;
        block = rest;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let matched = length(usize::from(token & 15), &mut block)? + 4;
        if offset == 0 || offset > out.len() - begin || out.len() + matched > end {
            return None;
        }
        let from = out.len() - offset;
        if offset >= matched {
            out.extend_from_within(from..from + matched);
        } else {
            // It repeats what it writes.
            for i in 0..matched {
                out.push(out[from + i]);
            }
        }
    }
}

/// A length that goes on in further bytes when its four bits are full.
fn length(nibble: usize, block: &mut &[u8]) -> Option<usize> {
    let mut sum = nibble;
    if nibble == 15 {
        loop {
            let (&byte, rest) = block.split_first()?;
            *block = rest;
            sum += usize::from(byte);
            if byte != 255 {
                break;
            }
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(block: &[u8]) -> Vec<u8> {
        let mut frame = MAGIC.to_vec();
        frame.extend((block.len() as u32).to_le_bytes());
        frame.extend(block);
        frame
    }

    #[test]
    fn literals_matches_and_overlaps() {
        // "ab", then 8 bytes from 2 back, then "!".
        let block = [0x24, b'a', b'b', 2, 0, 0x10, b'!'];
        assert_eq!(decode(&frame(&block), 100).unwrap(), b"ababababab!");
    }

    #[test]
    fn a_long_run_has_its_length_spread_over_bytes() {
        let mut block = vec![0xf0, 255, 30];
        block.extend([b'x'; 300]);
        assert_eq!(decode(&frame(&block), 1000).unwrap(), vec![b'x'; 300]);
        assert_eq!(decode(&frame(&block), 299), None);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let block = [0x24, b'a', b'b', 2, 0, 0x10, b'!'];
        let good = frame(&block);
        for cut in 4..good.len() {
            let result = decode(&good[..cut], 100);
            assert!(result.is_none() || cut == 4, "cut at {cut}");
        }
        assert_eq!(decode(&frame(&[0x24, b'a', b'b', 3, 0, 0x10, b'!']), 100), None);
        assert_eq!(decode(&frame(&[0x24, b'a', b'b', 0, 0, 0x10, b'!']), 100), None);
    }
}
