//! The PROXY protocol header before anything else, where a listener has proxies in front that send one.

use std::net::SocketAddr;

use ppp::{HeaderResult, v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::Refusal;

/// Both versions have so many bytes (of version 1 the shortest header has 15).
const BEGINNING: usize = 12;
const V2_SIGNATURE: &[u8; BEGINNING] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of the largest version 1 header.
const LONGEST_V1: usize = 107;
/// More than addresses and the extensions that are known take up.
const LONGEST_V2: usize = 2_048;

/// Reads the header and nothing behind it. `None`: the proxy speaks for itself, or of no TCP connection over IP.
pub async fn client(stream: &mut TcpStream) -> Result<Option<SocketAddr>, Refusal> {
    let mut bytes = vec![0; BEGINNING];
    read(stream, &mut bytes).await?;
    if bytes == V2_SIGNATURE {
        bytes.resize(BEGINNING + 4, 0);
        read(stream, &mut bytes[BEGINNING..]).await?;
        let length = usize::from(u16::from_be_bytes([bytes[BEGINNING + 2], bytes[BEGINNING + 3]]));
        if length > LONGEST_V2 {
            return Err(Refusal::NotProxied);
        }
        bytes.resize(BEGINNING + 4 + length, 0);
        read(stream, &mut bytes[BEGINNING + 4..]).await?;
    } else {
        // What follows the line is not ours to read.
        while !bytes.ends_with(b"\r\n") {
            if !bytes.starts_with(b"PROXY ") || bytes.len() == LONGEST_V1 {
                return Err(Refusal::NotProxied);
            }
            bytes.push(stream.read_u8().await.map_err(|_| Refusal::NotProxied)?);
        }
    }
    source(&bytes)
}

async fn read(stream: &mut TcpStream, to: &mut [u8]) -> Result<(), Refusal> {
    stream.read_exact(to).await.map(drop).map_err(|_| Refusal::NotProxied)
}

/// Who a whole header says the client is.
fn source(header: &[u8]) -> Result<Option<SocketAddr>, Refusal> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
            v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => Ok(match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(of)) => Some((of.source_address, of.source_port).into()),
            (v2::Command::Proxy, v2::Addresses::IPv6(of)) => Some((of.source_address, of.source_port).into()),
            _ => None,
        }),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(Refusal::NotProxied),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What is made of these bytes, and what is left of them.
    async fn told(bytes: &[u8]) -> (Result<Option<SocketAddr>, Refusal>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = listener.accept().await.unwrap().0;
        sender.write_all(bytes).await.unwrap();
        drop(sender);
        let client = client(&mut stream).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (client, rest)
    }

    #[tokio::test]
    async fn both_versions_are_read_and_not_a_byte_more() {
        let v4: SocketAddr = "198.18.7.7:4711".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::7]:4711".parse().unwrap();
        let v2 = |command, from: SocketAddr, to: &str| {
            let addresses = (from, to.parse::<SocketAddr>().unwrap());
            v2::Builder::with_addresses(v2::Version::Two | command, v2::Protocol::Stream, addresses).build().unwrap()
        };
        let headers = [
            (b"PROXY TCP4 198.18.7.7 198.19.0.1 4711 80\r\n".to_vec(), Some(v4)),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n".to_vec(), Some(v6)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2(v2::Command::Proxy, v4, "198.19.0.1:80"), Some(v4)),
            (v2(v2::Command::Proxy, v6, "[2001:db8::1]:80"), Some(v6)),
            (v2(v2::Command::Local, v4, "198.19.0.1:80"), None),
        ];
        for (header, client) in headers {
            let bytes = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(told(&bytes).await, (Ok(client), b"GET / HTTP/1.1\r\n".to_vec()), "{header:?}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let too_long = [&b"PROXY TCP4 "[..], &[b'1'; 200], b"\r\n"].concat();
        let too_large = [&V2_SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        let unfinished = [&V2_SIGNATURE[..], &[0x21, 0x11, 0, 12, 1]].concat();
        let other = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec();
        let nonsense = b"PROXY TCP4 one two three four\r\n".to_vec();
        for bytes in [too_long, too_large, unfinished, other, nonsense, Vec::new()] {
            assert_eq!(told(&bytes).await.0, Err(Refusal::NotProxied), "{bytes:?}");
        }
    }
}
