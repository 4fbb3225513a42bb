//! ClientHellos of any size.

/// A handshake message of `size` bytes at least. The name comes last, so that all of it must be read.
pub fn hello(name: Option<&str>, size: usize) -> Vec<u8> {
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &block(2, body)].concat();
    let name = name.map_or(Vec::new(), |name| {
        let entry = [&[0][..], &block(2, name.as_bytes())].concat();
        extension(0, &block(2, &entry))
    });
    let before = [&[3, 3][..], &[7; 32], &[0], &block(2, &[0x13, 0x01]), &block(1, &[0])].concat();
    let padding = size.saturating_sub(4 + before.len() + 2 + name.len() + 4);
    let extensions = [extension(21, &vec![0; padding]), name].concat();
    [&[1][..], &block(3, &[before, block(2, &extensions)].concat())].concat()
}

/// In TLS records of so many bytes each.
pub fn in_records(message: &[u8], record: usize) -> Vec<u8> {
    message.chunks(record).flat_map(|part| [&[22, 3, 1][..], &block(2, part)].concat()).collect()
}

/// With its length before it, in so many bytes.
fn block(length: usize, bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[size_of::<usize>() - length..], bytes].concat()
}
