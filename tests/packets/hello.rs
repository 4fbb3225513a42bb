//! ClientHellos as clients send them, and as none should.

/// Content type, version and length of a TLS record.
const RECORD_HEADER: usize = 5;

#[derive(Clone, Debug)]
pub struct Hello {
    /// Content of the server_name extension; `None`: there is no such extension.
    server_name: Option<Vec<u8>>,
    /// Extensions before it and after it, whole.
    before: Vec<Vec<u8>>,
    after: Vec<Vec<u8>>,
    session_id: Vec<u8>,
    /// Largest record.
    record: usize,
}

/// An extension of any kind.
pub fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(content.len() as u16).to_be_bytes(), content].concat()
}

/// RFC 7685.
const PADDING: u16 = 21;
const KEY_SHARE: u16 = 51;
const SUPPORTED_VERSIONS: u16 = 43;
/// RFC 8701.
const GREASE: u16 = 0x5a5a;

/// The ClientHello of a TLS 1.3 client for a name.
pub fn hello(name: &str) -> Hello {
    Hello::nameless().server_name(&host_name(name.as_bytes()))
}

/// The content of the server_name extension with one host name.
pub fn host_name(name: &[u8]) -> Vec<u8> {
    let length = name.len() as u16;
    [&(length + 3).to_be_bytes()[..], &[0], &length.to_be_bytes(), name].concat()
}

impl Hello {
    pub fn nameless() -> Hello {
        Hello {
            server_name: None,
            before: vec![extension(GREASE, &[]), extension(SUPPORTED_VERSIONS, &[4, 3, 4, 3, 3])],
            after: vec![extension(KEY_SHARE, &[&[0, 36, 0, 29, 0, 32][..], &[9; 32]].concat())],
            session_id: vec![7; 32],
            record: 1 << 14,
        }
    }

    /// Replaces the content of the extension.
    pub fn server_name(self, content: &[u8]) -> Hello {
        Hello { server_name: Some(content.to_vec()), ..self }
    }

    /// One extension more, before the name.
    pub fn preceded(mut self, extension: Vec<u8>) -> Hello {
        self.before.push(extension);
        self
    }

    /// One extension more, after the name.
    pub fn followed(mut self, extension: Vec<u8>) -> Hello {
        self.after.push(extension);
        self
    }

    /// Makes the hello so many bytes long, record headers included, by a padding extension after the name.
    pub fn padded(self, length: usize) -> Hello {
        let padding = self.room(length);
        self.followed(extension(PADDING, &vec![0; padding]))
    }

    /// The same with the padding before the name, as clients that shuffle their extensions may have it.
    pub fn padded_before(self, length: usize) -> Hello {
        let padding = self.room(length);
        self.preceded(extension(PADDING, &vec![0; padding]))
    }

    fn room(&self, length: usize) -> usize {
        let present = self.bytes().len() + 4;
        assert!(length >= present, "a hello of {present} bytes does not get shorter by padding it to {length}");
        length - present
    }

    /// Cuts the message into records of at most so many bytes.
    pub fn records(self, record: usize) -> Hello {
        Hello { record, ..self }
    }

    /// The handshake message.
    pub fn message(&self) -> Vec<u8> {
        let server_name = self.server_name.iter().map(|content| extension(0, content));
        let extensions: Vec<u8> =
            self.before.iter().cloned().chain(server_name).chain(self.after.iter().cloned()).flatten().collect();
        let mut body = vec![3, 3];
        body.extend([0x11; 32]);
        body.push(self.session_id.len() as u8);
        body.extend(&self.session_id);
        body.extend([0, 4, 0x13, 1, 0x13, 2]);
        body.extend([1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let length = body.len() as u32;
        [&[1][..], &length.to_be_bytes()[1..], &body].concat()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.message().chunks(self.record).flat_map(|chunk| record(22, chunk)).collect()
    }
}

/// A TLS record.
pub fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_HEADER + content.len());
    record.extend([kind, 3, 1]);
    record.extend((content.len() as u16).to_be_bytes());
    record.extend(content);
    record
}

/// A fatal alert (RFC 8446 section 6) as the gateway sends it.
pub fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// Descriptions (RFC 8446 section 6, RFC 6066 section 9).
pub mod description {
    pub const UNEXPECTED_MESSAGE: u8 = 10;
    pub const DECODE_ERROR: u8 = 50;
    pub const INTERNAL_ERROR: u8 = 80;
}
