//! Makes names in maps readable: bpftool shows an array as text if its elements are of an integer type called `char`, which Rust does not
//! have (`is_str_array` in tools/bpf/bpftool/btf_dumper.c). So the object's BTF gets such a type, and arrays of 256 `u8`, which
//! are names, are made arrays of it. Formats: Documentation/bpf/btf.rst, elf(5).

use anyhow::{Context, Result, bail};
use gateway_common::SNI_NAME;

const SECTION: &[u8] = b".BTF";
const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
/// Of a type: name, kind and count, size or type.
const TYPE: usize = 12;
/// What an INT has after that: encoding 0 and 8 bits.
const PLAIN_BYTE: u32 = 8;

/// The object with such a type.
pub fn with_text(object: &[u8]) -> Result<Vec<u8>> {
    let header = section_header(object).context("the eBPF object is no ELF file with a section .BTF")?;
    let place = |at: usize| Some((long(object, header + at)? as usize, header + at));
    let read = || {
        let ((offset, offset_at), (size, size_at)) = (place(0x18)?, place(0x20)?);
        Some((object.get(offset..offset + size)?, offset_at, size_at))
    };
    let (btf, offset_at, size_at) = read().context("the section .BTF lies outside the eBPF object")?;
    let btf = edited(btf)?;
    // The new section stands behind everything else; the old one stays unused.
    let mut object = object.to_vec();
    object.resize(object.len().next_multiple_of(8), 0);
    let offset = object.len() as u64;
    object[offset_at..offset_at + 8].copy_from_slice(&offset.to_le_bytes());
    object[size_at..size_at + 8].copy_from_slice(&(btf.len() as u64).to_le_bytes());
    object.extend(btf);
    Ok(object)
}

/// Where the header of .BTF is in a 64-bit little-endian ELF file.
fn section_header(object: &[u8]) -> Option<usize> {
    if !object.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (first, size) = (long(object, 0x28)? as usize, usize::from(short(object, 0x3a)?));
    let (count, names) = (usize::from(short(object, 0x3c)?), usize::from(short(object, 0x3e)?));
    let names = long(object, first + names * size + 0x18)? as usize;
    (0..count).map(|i| first + i * size).find(|header| {
        let name = word(object, *header).and_then(|name| object.get(names + name as usize..));
        name.is_some_and(|name| name.split(|byte| *byte == 0).next() == Some(SECTION))
    })
}

fn edited(btf: &[u8]) -> Result<Vec<u8>> {
    let invalid = "the BTF of the eBPF object has an unknown form";
    let read = || {
        let (header, types_at) = (word(btf, 4)? as usize, word(btf, 8)? as usize);
        let (types_len, strings_at, strings_len) = (word(btf, 12)?, word(btf, 16)?, word(btf, 20)?);
        let types = btf.get(header + types_at..header + types_at + types_len as usize)?;
        let strings = btf.get(header + strings_at as usize..header + (strings_at + strings_len) as usize)?;
        // Nothing between and behind them that would get lost.
        let is_known = short(btf, 0)? == MAGIC && types_at == 0 && strings_at == types_len;
        is_known.then_some((&btf[..header], types, strings))
    };
    let (header, types, strings) = read().context(invalid)?;
    let mut header = header.to_vec();
    let mut types = types.to_vec();

    let found = walk(&types, strings).context(invalid)?;
    let Some(byte) = found.byte else { bail!("the BTF of the eBPF object has no type u8") };
    let names: Vec<usize> = found.arrays.into_iter().filter(|array| word(&types, *array) == Some(byte)).collect();
    if names.is_empty() {
        bail!("the eBPF object has no array of {SNI_NAME} bytes: no map has names");
    }
    let character = found.count + 1;
    for array in names {
        types[array..array + 4].copy_from_slice(&character.to_le_bytes());
    }
    for value in [strings.len() as u32, KIND_INT << 24, 1, PLAIN_BYTE] {
        types.extend(value.to_le_bytes());
    }
    let strings = [strings, b"char\0"].concat();
    for (at, value) in [(12, types.len()), (16, types.len()), (20, strings.len())] {
        header[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    }
    Ok([header, types, strings].concat())
}

/// What is in the types.
#[derive(Default)]
struct Found {
    count: u32,
    /// The id of `u8`.
    byte: Option<u32>,
    /// Where arrays of as many elements as a name has say what their elements are.
    arrays: Vec<usize>,
}

fn walk(types: &[u8], strings: &[u8]) -> Option<Found> {
    let mut found = Found::default();
    let mut at = 0;
    while at < types.len() {
        found.count += 1;
        let info = word(types, at + 4)?;
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let name = strings.get(word(types, at)? as usize..)?.split(|byte| *byte == 0).next()?;
        if kind == KIND_INT && name == b"u8" {
            found.byte = Some(found.count);
        }
        if kind == KIND_ARRAY && word(types, at + TYPE + 8)? as usize == SNI_NAME {
            found.arrays.push(at + TYPE);
        }
        at += TYPE
            + match kind {
                // INT, VAR and DECL_TAG; ARRAY; STRUCT, UNION, DATASEC and ENUM64; ENUM and FUNC_PROTO.
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => members * 12,
                6 | 13 => members * 8,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return None,
            };
    }
    Some(found)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF with the types u8 (1), u8 [256] (2) and u8 [16] (3).
    fn btf() -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let array = |length: u32| words(&[0, KIND_ARRAY << 24, 0, 1, 1, length]);
        let types = [words(&[1, KIND_INT << 24, 1, PLAIN_BYTE]), array(256), array(16)].concat();
        let strings = b"\0u8\0";
        let length = types.len() as u32;
        [words(&[0x0001_eb9f, 24, 0, length, length, strings.len() as u32]), types, strings.to_vec()].concat()
    }

    #[test]
    fn arrays_of_names_become_text_and_others_stay() {
        let edited = edited(&btf()).unwrap();
        let (types, strings) = (&edited[24..24 + 16 + 24 + 24 + 16], &edited[24 + 16 + 24 + 24 + 16..]);
        assert_eq!(strings, b"\0u8\0char\0");
        assert_eq!(word(types, 16 + TYPE), Some(4), "256 bytes");
        assert_eq!(word(types, 16 + 24 + TYPE), Some(1), "16 bytes");
        assert_eq!(word(types, 16 + 24 + 24), Some(4), "the name of type 4");
        assert_eq!(walk(types, strings).unwrap().count, 4);
    }

    #[test]
    fn what_is_cut_is_refused() {
        let whole = btf();
        for length in 0..whole.len() {
            assert!(edited(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
