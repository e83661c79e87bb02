//! boot_params, the "zero page" of the 64-bit boot protocol
//! (Documentation/arch/x86/zero-page.rst; offsets of struct boot_params).

use std::ops::Range;

use super::layout;

const ACPI_RSDP_ADDR: usize = 0x070;
const EXT_RAMDISK_IMAGE: usize = 0x0c0;
const EXT_RAMDISK_SIZE: usize = 0x0c4;
const E820_ENTRIES: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const CMDLINE_SIZE: usize = 0x238;
const E820_TABLE: usize = 0x2d0;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// What the page says.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Memory, as [`crate::memory::ranges`] has it.
    pub memory: &'a [Range<u64>],
    /// Where the initramfs lies; empty if there is none.
    pub initrd: Range<u64>,
    /// Bytes of the command line without its zero.
    pub cmdline_len: usize,
    /// There are ACPI tables.
    pub acpi: bool,
}

/// Builds the page.
pub fn build(inputs: &Inputs<'_>) -> [u8; 4096] {
    let mut page = [0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);

    put(BOOT_FLAG, &0xaa55_u16.to_le_bytes());
    put(HEADER, b"HdrS");
    // 2.12: the first with xloadflags and the ext_ fields.
    put(VERSION, &0x020c_u16.to_le_bytes());
    // A loader without a number of its own.
    put(TYPE_OF_LOADER, &[0xff]);
    // LOADED_HIGH.
    put(LOADFLAGS, &[1]);
    put(CMD_LINE_PTR, &(layout::CMDLINE as u32).to_le_bytes());
    put(CMDLINE_SIZE, &(inputs.cmdline_len as u32).to_le_bytes());
    if !inputs.initrd.is_empty() {
        let size = inputs.initrd.end - inputs.initrd.start;
        put(RAMDISK_IMAGE, &(inputs.initrd.start as u32).to_le_bytes());
        put(EXT_RAMDISK_IMAGE, &((inputs.initrd.start >> 32) as u32).to_le_bytes());
        put(RAMDISK_SIZE, &(size as u32).to_le_bytes());
        put(EXT_RAMDISK_SIZE, &((size >> 32) as u32).to_le_bytes());
    }
    if inputs.acpi {
        put(ACPI_RSDP_ADDR, &layout::ACPI.to_le_bytes());
    }

    let map = e820(inputs.memory);
    put(E820_ENTRIES, &[map.len() as u8]);
    for (index, (range, kind)) in map.iter().enumerate() {
        let at = E820_TABLE + index * 20;
        put(at, &range.start.to_le_bytes());
        put(at + 8, &(range.end - range.start).to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }
    page
}

fn e820(memory: &[Range<u64>]) -> Vec<(Range<u64>, u32)> {
    let mut map = vec![
        (0..layout::BASE_MEMORY_END, E820_RAM),
        (layout::BASE_MEMORY_END..layout::HIGH_MEMORY, E820_RESERVED),
    ];
    for range in memory {
        let start = range.start.max(layout::HIGH_MEMORY);
        if start < range.end {
            map.push((start..range.end, E820_RAM));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_leaves_the_tables_alone() {
        let map = e820(&crate::memory::ranges(4 << 30).unwrap());
        assert_eq!(map.len(), 4);
        assert_eq!(map[0], (0..0x9_fc00, E820_RAM));
        assert_eq!(map[1], (0x9_fc00..0x10_0000, E820_RESERVED));
        assert_eq!(map[2].0, 0x10_0000..0xc000_0000);
        assert_eq!(map[3].0, 0x1_0000_0000..0x1_4000_0000);
    }

    #[test]
    fn the_page_says_where_things_are() {
        let page = build(&Inputs {
            memory: &crate::memory::ranges(64 << 20).unwrap(),
            initrd: 0x300_0000..0x300_0100,
            cmdline_len: 7,
            acpi: true,
        });
        assert_eq!(&page[HEADER..HEADER + 4], b"HdrS");
        assert_eq!(page[CMDLINE_SIZE], 7);
        assert_eq!(page[RAMDISK_IMAGE..RAMDISK_IMAGE + 4], [0, 0, 0, 3]);
        assert_eq!(page[RAMDISK_SIZE + 1], 1);
        assert_eq!(page[ACPI_RSDP_ADDR..ACPI_RSDP_ADDR + 4], [0, 0, 0xe, 0]);
        assert_eq!(page[E820_ENTRIES], 3);
    }
}
